"""An update: what a batch of judged groups does to the learner."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from distill.reading import put
from distill.rl.hearing import hearing
from distill.rl.rollouts import Rollouts
from distill.rl.rows import to_batch
from distill.rl.stage import Reinforcement
from distill.room import Room
from distill.state import State
from distill.step import Metrics, Step
from distill.teacher import StoredTeacher


class Update:
    """From groups to the learner's next state, compiled once.

    Args:
      room, stage: what is trained, and where.
    """

    def __init__(self, room: Room, stage: Reinforcement) -> None:
        self._stage, self._pad = stage, room.experiment.tokenizer.pad
        self._mesh = room.experiment.mesh.build()
        self._hear = hearing(room, stage)
        self._step = jax.jit(Step(stage.learners, stage.steps, room.experiment.execution), donate_argnums=0)

    def __call__(
        self, state: State, groups: Sequence[Rollouts], advantages: Float[np.ndarray, "g n"], version: int
    ) -> tuple[State, Metrics]:
        """The state after the update, and what to log; the state before it is used up."""
        stage = self._stage
        rows = to_batch(groups, advantages, version, stage.rows, stage.length, self._pad)
        batch = self._hear(put(rows, stage.accumulate, self._mesh))
        (state,), metrics = self._step((state,), StoredTeacher(), batch)
        return state, metrics
