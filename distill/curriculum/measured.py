"""Difficulty, however it was measured: what filters, trackers and samplers ask of it."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from distill.curriculum.estimate import Prior


@runtime_checkable
class Measured(Protocol):
    """How hard each prompt of a pool is to a model: by attempts (`Table`), or by a teacher's word (`Reducible`)."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The prompts, in the order of every array below."""
        ...

    @property
    def prior(self) -> Prior:
        """What was believed of each prompt before it was measured."""
        ...

    def difficulty(self) -> Float[np.ndarray, "n"]:
        """Within 0 and 1, the harder the higher. Only the order is the same thing for every way to measure."""
        ...

    def evidence(self) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
        """Successes and failures that a tracker begins with."""
        ...

    def solved(self, attempts: int) -> Bool[np.ndarray, "n"]:
        """Prompts of which every attempt succeeded, and there were at least so many."""
        ...

    def unsolved(self, attempts: int) -> Bool[np.ndarray, "n"]:
        """Prompts of which no attempt succeeded, and there were at least so many."""
        ...

    def where(self, stays: Bool[np.ndarray, "n"]) -> "Measured":
        """The rows that stay."""
        ...

    def over(self, ids: Sequence[str]) -> "Measured":
        """The rows of these prompts, in their order. Raises ValueError where one was not measured."""
        ...
