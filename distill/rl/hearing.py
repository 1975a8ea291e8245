"""Hearing: what others think of the tokens that were drawn."""

from collections.abc import Callable
from dataclasses import replace

import jax
from jaxtyping import Array

from distill.data.batch import Batch
from distill.hold import AsItIs
from distill.rl.stage import Reinforcement
from distill.room import Room
from distill.teacher import LiveTeacher
from losses import Credit, token_logps


def hearing(room: Room, stage: Reinforcement) -> Callable[[Batch], Batch]:
    """Adds what the teacher thinks of every token that was drawn to a batch [a b t]; nothing without one."""
    if stage.teacher is None:
        return lambda batch: batch
    (teacher,) = room.teachers((stage.teacher,), AsItIs())

    @jax.jit
    def hear(teacher: LiveTeacher, batch: Batch) -> Batch:
        def judge(part: Batch) -> Array:
            model, bias = teacher.weights.model, teacher.weights.bias
            hidden, _ = model(part.tokens, part.layout(), bias, teacher.execution)
            head = model.head[...].astype(hidden.dtype)
            return token_logps(hidden, head, part.labels, part.mask, stage.temperature)[0]

        assert isinstance(batch.targets, Credit)
        return replace(batch, targets=replace(batch.targets, teacher=jax.lax.map(judge, batch)))

    return lambda batch: hear(teacher, batch)
