"""A teacher on a mesh of its own: its pass over the next batch runs while students learn from this one.

Only hidden states cross, a batch at a time, and the head once. JAX dispatches without waiting, and programs on devices
that have nothing in common do not wait for each other: so the order of dispatch is all there is to overlapping them.
JAX's CPU client makes an exception of programs with collectives, and runs those in turn.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from einops import rearrange
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

    def head(self, dtype: Any) -> Float[Array, "d v"]:
        """A copy of the teacher's head on the learners' mesh."""
        head = self._teacher.weights.model.head
        floats = head.replace(head[...].astype(dtype))
        return jax.device_put(floats, meshes.shardings(self._home, floats))[...]

    def hear(self, batch: Batch) -> Batch:
        """The batch with the teacher's hidden states of it. Returns at once; nothing here waits for the devices."""
        leading = batch.tokens.ndim - 2
        asking = asked(self._own, batch.tokens.shape[:-1])
        hidden = asking.ask(self._teacher, jax.device_put(batch, asking.batch))
        here = jax.device_put(hidden, meshes.rows(self._home, leading if asking.by_parts else 0))
        if not asking.by_parts:
            here = _apart(len(batch.tokens), meshes.rows(self._home, 1))(here)
        return dataclasses.replace(batch, heard=here)


def _ask_one(teacher: LiveTeacher, batch: Batch) -> Float[Array, "b t d"]:
    return teacher.signal(batch).hidden


def _ask_many(teacher: LiveTeacher, batch: Batch) -> Float[Array, "a b t d"]:
    if batch.tokens.shape[0] == 1:  # needs no loop
        return _ask_one(teacher, jax.tree.map(lambda x: x[0], batch))[None]
    return jax.lax.map(lambda part: _ask_one(teacher, part), batch)


def _ask_whole(teacher: LiveTeacher, batch: Batch, rows: jax.sharding.NamedSharding) -> Float[Array, "n t d"]:
    # Of a row of every micro-batch after the other: so each of the learners' devices gets its own rows, and no others.
    flat = jax.tree.map(lambda x: rearrange(x, "a b ... -> (b a) ..."), batch)
    return _ask_one(teacher, jax.lax.with_sharding_constraint(flat, rows))


@dataclass(frozen=True)
class Asking:
    """The program by which a teacher on its own mesh is asked of a batch, and how the batch lies for it."""

    ask: Any
    """a jitted function of teacher and batch"""
    batch: jax.sharding.NamedSharding
    by_parts: bool
    """one micro-batch after the other; else all rows at once, [(b a) t d], where a micro-batch has too few for it"""


@functools.cache
def asked(own: jax.sharding.Mesh, rows: tuple[int, ...]) -> Asking:
    """How a teacher is asked of [b] or [a b] rows."""
    leading = len(rows) - 1
    if not leading or rows[1] % meshes.parts(own) == 0:
        place = meshes.rows(own, leading)
        return Asking(jax.jit((_ask_one, _ask_many)[leading], out_shardings=place), place, by_parts=True)
    place = meshes.rows(own)
    ask = jax.jit(functools.partial(_ask_whole, rows=place), out_shardings=place)
    return Asking(ask, jax.sharding.NamedSharding(own, jax.sharding.PartitionSpec()), by_parts=False)


@functools.cache
def _apart(parts: int, place: jax.sharding.NamedSharding) -> Callable[[Array], Array]:
    return jax.jit(lambda x: rearrange(x, "(b a) t d -> a b t d", a=parts), out_shardings=place)


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
