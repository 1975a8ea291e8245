"""A side that trains: the steps of a learner on batches that are on the device."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from distill.data.batch import Batch
from distill.stage import Learner
from distill.state import State, create
from distill.step import Step
from distill.teacher import Teacher
from models.execution import Execution


def trainer(
    learner: Learner, teacher: Teacher, batches: Sequence[Batch], mesh: jax.sharding.Mesh, execution: Execution
) -> Callable[[], Any]:
    """Makes a step on every batch, and returns the states."""
    step = jax.jit(Step((learner,), 1_000_000, execution), donate_argnums=0)
    states: tuple[State, ...] = (create(learner, 1_000_000, mesh, 0),)

    def train() -> Any:
        nonlocal states
        for batch in batches:
            states, _ = step(states, teacher, batch)
        return states

    return train
