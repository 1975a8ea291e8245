"""Hearing: what others think of the tokens that were drawn, and what the learner itself does before it moves."""

from dataclasses import replace
from functools import partial

import jax
from jaxtyping import Array, Float

from distill.data.batch import Batch
from distill.hold import AsItIs
from distill.likelihood import label_logps
from distill.rl.stage import Reinforcement
from distill.room import Room
from distill.state import Weights
from distill.teacher import BesideRewards, LiveTeacher, StoredTeacher, Teacher
from losses import Credit, token_logps
from models.execution import Execution


class Hearing:
    """Adds to a batch [a b t] what the teacher thinks of every token, and the learner where it moves more than once.

    A teacher sends tokens to experts of its own; the learner sends them where they went when they were drawn. A stage
    that is drawn toward its teacher needs all that this says: its hidden states of the whole batch, from one pass
    however many updates are made of it, and its head.

    Args:
      room, stage: what is trained, and where.
    """

    def __init__(self, room: Room, stage: Reinforcement) -> None:
        self._stage, self._execution = stage, room.execution
        self._teacher = None if stage.teacher is None else room.teachers((stage.teacher,), AsItIs())[0]
        self.voice: Teacher = StoredTeacher()
        """what a step hears of a batch"""
        if self._teacher is not None and stage.toward is not None:
            head = self._teacher.weights.model.head[...]
            self.voice = BesideRewards(head.astype(self._teacher.execution.dtype))

    def __call__(self, batch: Batch, weights: Weights) -> Batch:
        """The batch, before the learner of these weights moves."""
        stage, teacher, credit, heard = self._stage, self._teacher, batch.targets, None
        assert isinstance(credit, Credit)
        if teacher is not None:
            own = replace(batch, routes=None)
            if stage.toward is None:
                said = think(teacher.weights, own, teacher.execution, stage.temperature)
            else:
                said, heard = speak(teacher, own, stage.temperature)
            credit = replace(credit, teacher=said)
        if stage.updates > 1:
            credit = replace(credit, proximal=think(weights, batch, self._execution, stage.temperature))
        return replace(batch, targets=credit, heard=heard)


@partial(jax.jit, static_argnums=(2, 3))
def think(weights: Weights, batch: Batch, execution: Execution, temperature: float) -> Float[Array, "a b t"]:
    """Log-probabilities of the labels of a batch [a b t], nats, micro-batch by micro-batch."""

    return jax.lax.map(lambda part: label_logps(weights, part, execution, temperature), batch)


@partial(jax.jit, static_argnums=2)
def speak(
    teacher: LiveTeacher, batch: Batch, temperature: float
) -> tuple[Float[Array, "a b t"], Float[Array, "a b t d"]]:
    """What a teacher thinks of the labels of a batch [a b t], as `think` has it, and its hidden states of that pass."""

    def one(part: Batch) -> tuple[Float[Array, "b t"], Float[Array, "b t d"]]:
        said = teacher.signal(part)
        return token_logps(said.hidden, said.head, part.labels, part.mask, temperature)[0], said.hidden

    return jax.lax.map(one, batch)
