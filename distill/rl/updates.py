"""Updates: what a batch of judged groups does to the learner."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from distill.reading import put
from distill.rl.hearing import Hearing
from distill.rl.rollouts import Rollouts
from distill.rl.rows import to_batch
from distill.rl.stage import Reinforcement
from distill.room import Room
from distill.state import State
from distill.step import Metrics, Step


class Updates:
    """From groups to the learner's next state, compiled once.

    Args:
      room, stage: what is trained, and where.
    """

    def __init__(self, room: Room, stage: Reinforcement) -> None:
        self._stage, self._pad = stage, room.experiment.tokenizer.pad
        self._mesh = room.experiment.mesh.build()
        self._hear = Hearing(room, stage)
        self._step = jax.jit(Step(stage.learners, stage.optimizer_steps, room.execution), donate_argnums=0)

    def __call__(
        self, state: State, groups: Sequence[Rollouts], advantages: Float[np.ndarray, "g n"], version: int
    ) -> tuple[State, Metrics]:
        """The state after the batch, and what to log, of all its updates; the state before it is used up."""
        stage, size = self._stage, self._stage.accumulate
        rows = to_batch(groups, advantages, version, stage.rows, stage.length, self._pad)
        batch = self._hear(put(rows, stage.updates * size, self._mesh), state.weights)
        told: list[Metrics] = []
        for start in range(0, stage.updates * size, size):
            part = batch if stage.updates == 1 else jax.tree.map(lambda x, at=start: x[at : at + size], batch)
            (state,), metrics = self._step((state,), self._hear.voice, part)
            told.append(metrics)
        return state, told[0] if len(told) == 1 else jax.tree.map(lambda *tallies: sum(tallies), *told)
