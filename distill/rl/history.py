"""A history: what became of every group of a stage that is over, as its journal tells it."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from distill.rl.journal import read_records
from distill.rl.order import Limits
from distill.rl.record import Event, Record


@dataclass(frozen=True, eq=False)
class Answers:
    """What a group answered, and what that was worth."""

    tokens: int
    """CRC-32 of them (`crc`)"""
    rewards: Float[np.ndarray, "n"]
    outcomes: Bool[np.ndarray, "n"]


@dataclass(eq=False)
class History:
    """Who was asked what, drawn by which version, and consumed, passed over, given up or expired at which.

    Groups have their numbers in the order of their admission.
    """

    folder: Path
    """of the journal"""
    limits: Limits
    items: list[str] = field(default_factory=list)
    """id of what each group was asked"""
    versions: list[int] = field(default_factory=list)
    """that drew each; it was admitted when they were the newest"""
    batches: list[list[int]] = field(default_factory=list)
    """groups that were consumed, by version"""
    passed: list[list[int]] = field(default_factory=list)
    """groups that were dropped before, and used up with them"""
    expired: dict[int, list[int]] = field(default_factory=dict)
    """by version"""
    poisoned: set[int] = field(default_factory=set)
    filtered: set[int] = field(default_factory=set)
    answers: dict[int, Answers] = field(default_factory=dict)
    """of the groups that were judged"""
    gone: set[int] = field(default_factory=set)
    """groups that are used up"""

    def add(self, record: Record) -> None:
        """Takes in what happened next.

        Raises:
          ValueError: it cannot have happened after what there is.
        """
        before = len(self.batches), len(self.items)
        try:
            holds = self._follows(record)
        except (KeyError, IndexError, TypeError, ValueError):  # it does not even have the form
            holds = False
        if not holds:
            raise ValueError(
                f"the journal {self.folder} does not hold together: after {before[0]} batches and "
                f"{before[1]} groups comes {record.event.value} {record.uids} at version {record.version}; it "
                "was changed, bring back a copy"
            )

    def _follows(self, record: Record) -> bool:
        """Takes in what happened; whether it can have."""
        uids, version, event = record.uids, record.version, record.event
        if event is Event.ADMITTED:
            expected = uids == (len(self.items),) and version == len(self.batches)
            self.items.append(record.facts["item"])
            self.versions.append(version)
            return expected
        if event is Event.CONSUMED:
            return self._consumed(list(uids), list(record.facts["passed"]), version)
        here = set(uids) <= set(range(len(self.items))) - self.gone
        if event is Event.EXPIRED:
            self.expired[version] = list(uids)
            self.gone |= {*uids}
            return here and version == len(self.batches)
        (uid,) = uids
        here &= version == self.versions[uid] and uid not in self.filtered | self.poisoned
        if event is Event.FILTERED:
            self.filtered.add(uid)
            return here and uid in self.answers
        if event is Event.POISONED:
            self.poisoned.add(uid)
            return here and uid not in self.answers
        here &= event is Event.COMPLETED and uid not in self.answers
        arrays = record.arrays
        self.answers[uid] = Answers(crc(arrays["tokens"]), arrays["rewards"].copy(), arrays["outcomes"].copy())
        return here

    def _consumed(self, batch: list[int], passed: list[int], version: int) -> bool:
        dropped, used = self.filtered | self.poisoned, [*batch, *passed]
        lags = [version - self.versions[uid] for uid in batch]
        holds = version == len(self.batches) and len(batch) <= self.limits.batch and len(used) == len(set(used))
        holds &= all(0 <= lag <= self.limits.max_policy_lag for lag in lags) and not self.gone & {*used}
        holds &= {*batch} <= {*self.answers} - dropped and {*passed} <= dropped
        self.batches.append(batch)
        self.passed.append(passed)
        self.gone |= {*used}
        return holds


def read_history(folder: Path, terms: Mapping[str, Any], limits: Limits, steps: int) -> History:
    """What happened in a stage that is over.

    Args:
      folder: of its journal, which is read and not opened: nothing in it changes.
      terms: what the journal must say it is of.
      limits: of the stage.
      steps: batches of the stage.

    Raises:
      ValueError: there is no journal, it is damaged, of other terms, of a part of the stage, or does not hold together.
    """
    found = read_records(folder)
    first = next(found, None)
    if first is None or first.event is not Event.BEGUN:
        raise ValueError(f"{folder} has no journal from its beginning; name a run that has a stage of this name")
    for name, now in terms.items():
        if first.facts.get(name) != now:
            raise ValueError(
                f"the journal {folder} is of {name} {first.facts.get(name)!r}, and the stage that is to follow it has "
                f"{now!r}; give it what that run was made with"
            )
    history = History(folder, limits)
    for record in found:
        history.add(record)
    if len(history.batches) != steps:
        raise ValueError(f"the journal {folder} ends after batch {len(history.batches)} of {steps}; let that run end")
    return history


def crc(tokens: Int[np.ndarray, "n m"]) -> int:
    """CRC-32 of the tokens of answers."""
    return zlib.crc32(np.ascontiguousarray(tokens, "<i4").tobytes())
