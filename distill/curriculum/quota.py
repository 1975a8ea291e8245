"""A batch mixed over capabilities: how many prompts of each, batch after batch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from jaxtyping import Int

FINEST = 10_000
"""denominator of a share, at most"""
LONGEST = 100_000
"""places of a cycle, at most; some tenths of a second to lay out"""


@dataclass(frozen=True)
class Mix:
    """How many prompts a batch has of each capability."""

    counts: dict[str, int]
    """by capability; they add to the batch"""
    short: dict[str, int]
    """prompts that a capability was due and does not have, where others filled in"""


@dataclass(frozen=True, kw_only=True)
class Quota:
    """Shares of a batch by capability.

    Places are given one by one, each to the capability that is owed most: the largest remainder, which is carried over
    to the next place and the next batch. So what a batch cannot halve its successors make up for, and after a whole
    cycle of places every share is met exactly. Which places a batch has follows from how many came before it.

    Raises:
      ValueError: there is no capability, a share is negative or all are 0, the floor is too high, or the shares have no
        common denominator to speak of.
    """

    shares: Mapping[str, float | int]
    """in any unit: 2 and 1 are two thirds and a third"""
    floor: float = 0.0
    """least share of any capability, as a part of 1: what is left after the floors is split by the shares"""

    def __post_init__(self):
        if not self.shares or not all(0.0 <= share < math.inf for share in self.shares.values()):
            raise ValueError(f"a quota's shares are {dict(self.shares)}; name capabilities with shares of 0 or more")
        if not any(self.shares.values()):
            raise ValueError(f"a quota's shares {dict(self.shares)} are all 0; one at least must be more")
        most = 1.0 / len(self.shares)
        if not 0.0 <= self.floor <= most:
            raise ValueError(
                f"a quota's floor is {self.floor} for each of {len(self.shares)} capabilities; it must lie within 0 "
                f"and {most:.4g}, which is all"
            )
        if any(share and not part for share, part in zip(self.shares.values(), self._parts(), strict=True)):
            raise ValueError(
                f"a quota's shares {dict(self.shares)} are too uneven: below one in {2 * FINEST} a share is none; set "
                "it to 0, or give a floor"
            )
        if sum(self._parts()) > LONGEST:
            raise ValueError(
                f"a quota's shares {dict(self.shares)} with a floor of {self.floor} come out even after "
                f"{sum(self._parts())} prompts only, and {LONGEST} is the most; round them to a few digits"
            )

    def mix(self, start: int, size: int, room: Mapping[str, int]) -> Mix:
        """The mix of the `size` prompts that follow `start` earlier ones.

        Args:
          start: prompts drawn before, of all capabilities.
          size: of the batch.
          room: how many prompts of each capability there are; one that is not named has none.

        Raises:
          ValueError: there are fewer prompts than places, or prompts of a capability that has no share.
        """
        strangers = sorted(set(room) - set(self.shares))
        if strangers:
            raise ValueError(
                f"the pool has prompts of {strangers[0]!r}, and the quota knows {sorted(self.shares)}; give it a "
                "share, 0 to leave it out"
            )
        names = list(self.shares)
        most = np.array([room.get(name, 0) for name in names])
        if size > most.sum():
            raise ValueError(f"a batch of {size} prompts cannot be drawn from {most.sum()} without repeating one")
        cycle = _cycle(self._parts())
        due = np.bincount(cycle[(start + np.arange(size)) % len(cycle)], minlength=len(names))
        found = np.minimum(due, most)
        parts = np.array(self._parts()) + 1e-9  # who has no share comes last
        for _ in range(size - found.sum()):  # to whom it leaves closest to its share of the rest (D'Hondt)
            found[np.argmax(np.where(found < most, parts / (found + 1), -1.0))] += 1
        counts = {name: int(n) for name, n in zip(names, found, strict=True)}
        return Mix(counts, {name: int(n) for name, n in zip(names, due - found, strict=True) if n > 0})

    def _parts(self) -> tuple[int, ...]:
        """The shares as whole numbers without a common divisor."""
        total = sum(self.shares.values())
        given = [Fraction(share / total).limit_denominator(FINEST) for share in self.shares.values()]
        floor = Fraction(self.floor).limit_denominator(FINEST)
        shares = [floor + (1 - floor * len(given)) * share / sum(given) for share in given]
        whole = math.lcm(*(share.denominator for share in shares))
        return tuple(int(share * whole) for share in shares)


@lru_cache
def _cycle(parts: tuple[int, ...]) -> Int[np.ndarray, "places"]:
    """Whose each place is; every capability has as many as its parts."""
    due = np.array(parts)
    owed, cycle = np.zeros(len(parts), np.int64), np.zeros(sum(parts), np.int64)
    for place in range(len(cycle)):
        owed += due
        cycle[place] = np.argmax(owed)
        owed[cycle[place]] -= len(cycle)
    return cycle
