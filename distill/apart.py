"""A teacher on a mesh of its own: its pass over the next batch runs while students learn from this one.

Only hidden states cross, a batch at a time, and the head once. JAX dispatches without waiting, and programs on devices
that have nothing in common do not wait for each other: so the order of dispatch is all there is to overlapping them.
JAX's CPU client makes an exception of programs with collectives, and runs those in turn.
"""

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, Float

from distill import mesh as meshes
from distill.data.batch import Batch
from distill.data.loader import Batches
from distill.room import Room
from distill.stage import Stage
from distill.teacher import Council, HeardTeacher, LiveTeacher, StoredTeacher, Teacher


@dataclass(frozen=True)
class Voice:
    """What the learners of a stage hear: a teacher for their step, and what must be fetched for it beforehand."""

    teacher: Teacher
    far: "Far | None" = None

    def hear(self, batch: Batch) -> Batch:
        """A batch on the learners' mesh, [b, t] or [a, b, t], with what a teacher elsewhere says on its way to it."""
        return batch if self.far is None else self.far.hear(batch)


class Far:
    """A live teacher on its own devices, and the mesh of those who hear it.

    Raises:
      ValueError: there are several processes.
    """

    def __init__(self, teacher: LiveTeacher, own: jax.sharding.Mesh, home: jax.sharding.Mesh):
        if jax.process_count() > 1:
            raise ValueError(
                f"a teacher lives apart within one process, and there are {jax.process_count()}; leave teacher_on out"
            )
        self._teacher, self._own, self._home = teacher, own, home
        self._ask = {places: jax.jit(ask, out_shardings=meshes.rows(own, places)) for places, ask in _ASKED.items()}

    def head(self, dtype: Any) -> Float[Array, "d v"]:
        """A copy of the teacher's head on the learners' mesh."""
        head = self._teacher.weights.model.head
        floats = head.replace(head[...].astype(dtype))
        return jax.device_put(floats, meshes.shardings(self._home, floats))[...]

    def hear(self, batch: Batch) -> Batch:
        """The batch with the teacher's hidden states of it. Returns at once; nothing here waits for the devices."""
        leading = batch.tokens.ndim - 2
        there = jax.device_put(batch, meshes.rows(self._own, leading))
        hidden = self._ask[leading](self._teacher, there)
        return dataclasses.replace(batch, heard=jax.device_put(hidden, meshes.rows(self._home, leading)))


def _ask_one(teacher: LiveTeacher, batch: Batch) -> Float[Array, "b t d"]:
    return teacher.signal(batch).hidden


def _ask_many(teacher: LiveTeacher, batch: Batch) -> Float[Array, "a b t d"]:
    if batch.tokens.shape[0] == 1:  # needs no loop
        return _ask_one(teacher, jax.tree.map(lambda x: x[0], batch))[None]
    return jax.lax.map(lambda part: _ask_one(teacher, part), batch)


_ASKED = {0: _ask_one, 1: _ask_many}
"""by the number of dimensions before [b, t]"""


class Feed:
    """Batches on the learners' mesh, the one after ready before it is asked for where that is worth while."""

    def __init__(self, batches: Batches, prepare: Callable[[Batch], Batch], early: bool):
        self._batches, self._prepare, self._early = batches, prepare, early
        self._waiting: tuple[dict[str, Any], Batch] | None = None

    def __next__(self) -> Batch:
        """The next batch."""
        batch = self._prepare(next(self._batches)) if self._waiting is None else self._waiting[1]
        self._waiting = None
        return batch

    def ahead(self) -> None:
        """Reads the next batch and has it prepared, once this step is under way."""
        if self._early and self._waiting is None:
            place = copy.deepcopy(self._batches.get_state())
            self._waiting = place, self._prepare(next(self._batches))

    def rewind(self) -> None:
        """Back to the batch that was taken last, to save the place in the data."""
        if self._waiting is not None:
            self._batches.set_state(self._waiting[0])
            self._waiting = None


def voice_of(room: Room, stage: Stage | None) -> Voice:
    """What learners of a stage hear of its teacher as that is now; silence without one."""
    if stage is None or stage.teacher is None:
        return Voice(room.silence())
    if stage.store:
        room.silence()
        return Voice(StoredTeacher())
    teacher, *others = room.teachers(stage.teachers, stage.teacher_as, stage.teacher_on)
    if others:
        return Voice(Council((teacher, *others)))
    if stage.teacher_on is None:
        return Voice(teacher)
    far = Far(teacher, stage.teacher_on.build(), room.experiment.mesh.build())
    return Voice(HeardTeacher(far.head(teacher.execution.dtype)), far)
