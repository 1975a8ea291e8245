"""What is known of each prompt while a student trains on them: recent outcomes, and when it was last drawn."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from distill.curriculum.estimate import Belief, Prior, check_counts
from distill.curriculum.measured import Measured
from distill.curriculum.pool import order_of
from distill.curriculum.record import count, number, optional, read_fields, several, text

SCHEMA = 1
READERS = {
    "schema": count,
    "prompts": text,
    "aim": optional(number),
    "successes": several(number),
    "failures": several(number),
    "visits": several(count),
    "seen": several(count),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Tracker:
    """Outcomes by prompt, of which old ones fade: the student that had them is no longer there.

    A value: observing returns another one, `dataclasses.replace` sets another discount. What it holds goes into a
    checkpoint and comes back bit by bit.

    Raises:
      ValueError: the discount, the quarantine, the memory or the aim is out of range.
    """

    ids: tuple[str, ...]
    successes: Float[np.ndarray, "n"]
    """faded"""
    failures: Float[np.ndarray, "n"]
    """faded"""
    visits: Int[np.ndarray, "n"]
    """how often each was observed"""
    seen: Int[np.ndarray, "n"]
    """number of the last draw in which each was observed; -1 for none"""
    prior: Prior = field(default_factory=Prior)
    """does not fade"""
    aim: float | None = None
    """the difficulty that a sampler steers to, where it has one; see `sampler.Target`"""
    discount: float = 0.95
    """what is left of earlier outcomes when a prompt is observed again"""
    quarantine: float = 16.0
    """failures, faded, after which a prompt that was never solved is drawn by the sampler's floor alone"""
    kinds: Int[np.ndarray, "n"] | None = None
    """number of each prompt's kind: before anybody has tried one, it is believed to be as hard as others of its kind
    were lately; None: they tell nothing of it. It is no part of the state"""
    memory: float = 20.0
    """draws after which what is known of a prompt says half as much of others of its kind, if it was not seen again"""

    def __post_init__(self):
        if not 0.0 < self.discount <= 1.0:
            raise ValueError(
                f"a tracker's discount is {self.discount}; it must be above 0 (only the last outcome counts) and at "
                "most 1 (nothing fades)"
            )
        if not self.quarantine > 0.0:
            raise ValueError(f"a tracker's quarantine is {self.quarantine} failures; it must be above 0, inf for never")
        if not self.memory > 0.0:
            raise ValueError(f"a tracker's memory is {self.memory} draws; it must be above 0, inf to forget nothing")
        if self.aim is not None and not 0.0 <= self.aim <= 1.0:
            raise ValueError(
                f"a tracker's aim is {self.aim}; it is a difficulty, from 0 to 1, or None before there is one"
            )

    @classmethod
    def blank(cls, ids: tuple[str, ...], prior: Prior | None = None) -> "Tracker":
        """A tracker of prompts that nobody has tried."""
        none, never = np.zeros(len(ids)), np.full(len(ids), -1)
        visits = np.zeros(len(ids), np.int64)
        return cls(ids=ids, successes=none, failures=none, visits=visits, seen=never, prior=prior or Prior())

    @classmethod
    def begin(cls, ids: tuple[str, ...], measured: Measured) -> "Tracker":
        """A tracker of these prompts that knows what was measured of them, and maybe of others.

        Raises:
          ValueError: one was not measured, by name.
        """
        rows = measured.over(ids)
        successes, failures = rows.evidence()
        return replace(cls.blank(ids, rows.prior), successes=successes, failures=failures)

    @property
    def now(self) -> int:
        """Number of the draw that comes after the last one observed."""
        return int(self.seen.max(initial=-1)) + 1

    def belief(self) -> Belief:
        """What is to be believed of each prompt's chance to be solved.

        With kinds, the prior keeps its strength and takes its mean from what was seen of the kind, the prompt's own
        outcomes too: each prompt's faded outcomes, all of them by how long ago it was last seen.
        """
        if self.kinds is None:
            return self.prior.after(self.successes, self.failures)
        recent = 0.5 ** ((self.now - 1 - self.seen) / self.memory)
        solved = self.prior.successes + np.bincount(self.kinds, recent * self.successes)[self.kinds]
        failed = self.prior.failures + np.bincount(self.kinds, recent * self.failures)[self.kinds]
        strength, share = self.prior.successes + self.prior.failures, solved / (solved + failed)
        return Belief(strength * share + self.successes, strength * (1.0 - share) + self.failures)

    def difficulty(self) -> Float[np.ndarray, "n"]:
        """How often each is expected to fail."""
        return 1.0 - self.belief().mean()

    def live(self) -> Bool[np.ndarray, "n"]:
        """Prompts that are not in quarantine; there they are for having never been solved in many attempts."""
        return (self.successes > 0.0) | (self.failures < self.quarantine)

    def observe(
        self,
        indices: Int[np.ndarray, "m"],
        successes: Int[np.ndarray, "m"],
        attempts: Int[np.ndarray, "m"],
        number: int,
    ) -> "Tracker":
        """The tracker after these outcomes; prompts that come twice in one call fade once.

        Args:
          indices: of prompts.
          successes: of their attempts.
          attempts: without those of which nobody knows how they ended; leave out prompts that have no others.
          number: of the draw that they were drawn in.

        Raises:
          ValueError: an index is not a prompt's, a count is impossible or zero, or the number is negative.
        """
        size = len(self.ids)
        if np.any((indices < 0) | (indices >= size)):
            raise ValueError(f"indices go from {indices.min()} to {indices.max()}, and the tracker has {size} prompts")
        check_counts(attempts, successes, [self.ids[i] for i in indices])
        if np.any(attempts < 1):
            raise ValueError(
                f"prompt {self.ids[indices[np.argmin(attempts)]]!r} was observed in 0 attempts; leave it out"
            )
        if number < 0:
            raise ValueError(f"the number of a draw is {number}; draws are counted from 0")
        met = np.bincount(indices, minlength=size) > 0
        kept = np.where(met, self.discount, 1.0)
        return replace(
            self,
            successes=kept * self.successes + np.bincount(indices, successes, size),
            failures=kept * self.failures + np.bincount(indices, attempts - successes, size),
            visits=self.visits + met,
            seen=np.where(met, np.maximum(self.seen, number), self.seen),
        )

    def state(self) -> dict[str, Any]:
        """All that training has changed, as plain JSON: floats in it read back as they were, bit by bit."""
        columns = {name: column.tolist() for name, column in self._columns().items()}
        return {"schema": SCHEMA, "prompts": order_of(self.ids), "aim": self.aim, **columns}

    def restore(self, state: Mapping[str, Any]) -> "Tracker":
        """This tracker with what `state()` said of the same prompts.

        Raises:
          ValueError: it is of another schema, of other prompts, or says what cannot be.
        """
        if state.get("schema") != SCHEMA:
            raise ValueError(f"a tracker's state has schema {state.get('schema')!r:.40}, this version reads {SCHEMA}")
        found = read_fields("a tracker's state", state, READERS)
        if found["prompts"] != order_of(self.ids):
            raise ValueError(
                f"a tracker's state is of the prompts {found['prompts']}, this one of {order_of(self.ids)}; bring back "
                "the pool, its filter and its order"
            )
        columns = {name: np.array(found[name], column.dtype) for name, column in self._columns().items()}
        for name, column in columns.items():
            least = -1 if name == "seen" else 0
            if len(column) != len(self.ids) or column.min(initial=0) < least:
                raise ValueError(f"a tracker's {name} must be {len(self.ids)} numbers, none below {least}")
        return replace(self, aim=found["aim"], **columns)

    def _columns(self) -> dict[str, np.ndarray]:
        return {"successes": self.successes, "failures": self.failures, "visits": self.visits, "seen": self.seen}
