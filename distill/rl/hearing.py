"""Hearing: what others think of the tokens that were drawn, and what the learner itself does before it moves."""

from collections.abc import Callable
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
from losses import Credit
from models.llama4 import Execution


def hearing(room: Room, stage: Reinforcement) -> Callable[[Batch, Weights], Batch]:
    """Adds to a batch [a b t] what the teacher thinks of every token, and the learner where it moves more than once.

    A teacher sends tokens to experts of its own; the learner sends them where they went when they were drawn.
    """
    teachers = () if stage.teacher is None else room.teachers((stage.teacher,), AsItIs())

    def hear(batch: Batch, weights: Weights) -> Batch:
        credit = batch.targets
        assert isinstance(credit, Credit)
        for teacher in teachers:
            said = think(teacher.weights, replace(batch, routes=None), teacher.execution, stage.temperature)
            credit = replace(credit, teacher=said)
        if stage.updates > 1:
            credit = replace(credit, proximal=think(weights, batch, room.experiment.execution, stage.temperature))
        return replace(batch, targets=credit)

    return hear


@partial(jax.jit, static_argnums=(2, 3))
def think(weights: Weights, batch: Batch, execution: Execution, temperature: float) -> Float[Array, "a b t"]:
    """Log-probabilities of the labels of a batch [a b t], nats, micro-batch by micro-batch."""

    return jax.lax.map(lambda part: label_logps(weights, part, execution, temperature), batch)
