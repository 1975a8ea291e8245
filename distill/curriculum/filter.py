"""Which prompts of a measured pool are worth training on: filters, from a table to what stays."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

from distill.curriculum.measured import Measured
from distill.curriculum.pool import Pool
from distill.curriculum.rank import lots


@runtime_checkable
class Filter(Protocol):
    """Says of each prompt whether it stays."""

    def __call__(self, measured: Measured) -> Bool[np.ndarray, "n"]:
        """True for what stays; nothing else follows from it, the pool and the table are as they were."""
        ...


@dataclass(frozen=True, kw_only=True)
class DropEasiest:
    """Drops the easiest share of the prompts, to the nearest prompt.

    Llama 4 dropped more than half of its data so before it was fine-tuned, and 95 % for its largest model (Meta 2025).
    """

    share: float = 0.5
    """that goes; 0.5 as for Llama 4's students, 0.95 as for their teacher"""
    seed: int = 0
    """of the lots that say which of the equally easy go first"""

    def __post_init__(self):
        _check_share(self, self.share)

    def __call__(self, measured: Measured) -> Bool[np.ndarray, "n"]:
        """True for what stays."""
        order = np.lexsort((lots(measured.ids, self.seed, "ties"), measured.difficulty()))
        return _without_first(order, self.share)


@dataclass(frozen=True, kw_only=True)
class RandomShare:
    """Drops a share of the prompts by lot: as many as DropEasiest(share) does, to compare with."""

    share: float = 0.5
    """that goes"""
    seed: int = 0

    def __post_init__(self):
        _check_share(self, self.share)

    def __call__(self, measured: Measured) -> Bool[np.ndarray, "n"]:
        """True for what stays."""
        return _without_first(np.argsort(lots(measured.ids, self.seed, "share")), self.share)


@dataclass(frozen=True, kw_only=True)
class DropSolved:
    """Drops prompts that were solved in every attempt: all their advantages are zero, so nothing is learned of them."""

    attempts: int = 8
    """that it takes to say so"""

    def __post_init__(self):
        _check_attempts(self, self.attempts)

    def __call__(self, measured: Measured) -> Bool[np.ndarray, "n"]:
        """True for what stays."""
        return ~measured.solved(self.attempts)


@dataclass(frozen=True, kw_only=True)
class DropUnsolved:
    """Drops prompts that were never solved. A tracker quarantines such by itself, from where they may return."""

    attempts: int = 8
    """that it takes to say so"""

    def __post_init__(self):
        _check_attempts(self, self.attempts)

    def __call__(self, measured: Measured) -> Bool[np.ndarray, "n"]:
        """True for what stays."""
        return ~measured.unsolved(self.attempts)


@dataclass(frozen=True)
class Chain:
    """Filters one after another: each sees what those before it left, so a share is of that."""

    filters: tuple[Filter, ...]

    def __call__(self, measured: Measured) -> Bool[np.ndarray, "n"]:
        """True for what stays behind the last."""
        found = np.ones(len(measured.ids), bool)
        for one in self.filters:
            stays = one(measured)
            found[found] = stays
            measured = measured.where(stays)
        return found


def keep(pool: Pool, measured: Measured, by: Filter) -> Pool:
    """The prompts of a pool that a filter leaves; what was measured may be in another order.

    Raises:
      ValueError: a prompt was not measured, or none is left.
    """
    return pool.where(by(measured.over(pool.ids)))


def _without_first(order: np.ndarray, share: float) -> Bool[np.ndarray, "n"]:
    stays = np.ones(len(order), bool)
    stays[order[: round(share * len(order))]] = False
    return stays


def _check_share(asker: object, share: float) -> None:
    if not 0.0 <= share < 1.0:
        raise ValueError(
            f"{asker}: share must be from 0 to below 1; it is the part that is dropped, and all is too much"
        )


def _check_attempts(asker: object, attempts: int) -> None:
    if attempts < 1:
        raise ValueError(f"{asker}: attempts must be at least 1; a prompt nobody tried is neither solved nor unsolved")
