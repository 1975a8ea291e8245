"""In which order groups are consumed, and at which version of the policy they are drawn."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far the actor may be behind the learner.

    Two numbers and not one: with one, every group is as old as it may be.
    """

    batch: int
    """groups of a step, B"""
    max_policy_lag: int = 2
    """K: steps that a group's policy may be behind the one that learns from it; 0: draw, learn, publish, in turn"""
    pipeline_depth: int = 1
    """D: batches on their way beside the one that is due"""
    max_refill_factor: int = 4
    """batches' worth of groups that are looked at for one batch, at most; then the step takes what there is"""

    def __post_init__(self) -> None:
        if self.batch < 1 or self.max_refill_factor < 1 or self.max_policy_lag < 0:
            raise ValueError(
                f"{self}: a step has at least 1 group, out of at least 1 batch's worth, and no group comes from the "
                "future; set batch and max_refill_factor to 1 or more, and max_policy_lag to 0 or more"
            )
        if not 0 <= self.pipeline_depth <= self.max_policy_lag:
            raise ValueError(
                f"pipeline_depth {self.pipeline_depth} must lie within 0 and max_policy_lag {self.max_policy_lag}: "
                "batches on their way are behind by as many steps; lower pipeline_depth or raise max_policy_lag"
            )

    @property
    def live(self) -> int:
        """Groups on their way or ready, at most."""
        return (self.pipeline_depth + 1) * self.batch

    @property
    def looked_at(self) -> int:
        """Groups that may come to an end for one batch."""
        return self.max_refill_factor * self.batch

    @property
    def seen(self) -> int:
        """Groups in the line at most, the dropped ones with them."""
        return self.looked_at + self.pipeline_depth * self.batch


class Standing(Enum):
    """How far a group has come."""

    OUT = "out"
    READY = "ready"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt and its answers: the `number`-th that was admitted, to be drawn by the policy of `version`."""

    uid: int
    number: int
    version: int
    standing: Standing = Standing.OUT


@dataclass
class Line:
    """The groups that no batch has used up yet, in order of admission, and the step that is due."""

    limits: Limits
    step: int = 0
    """the learner's version when it next consumes"""
    admitted: int = 0
    """so far; the number of the next group"""
    groups: dict[int, Group] = field(default_factory=dict)
    """by uid"""
    stamps: list[int] = field(default_factory=list)
    """versions that are settled already for the next groups"""

    def live(self) -> list[Group]:
        """Those on their way or ready, the oldest policy's first."""
        found = [group for group in self.groups.values() if group.standing is not Standing.DROPPED]
        return sorted(found, key=lambda group: (group.version, group.number))

    def deadline(self, group: Group) -> int:
        """The last step that may consume it."""
        return group.version + self.limits.max_policy_lag


@runtime_checkable
class Order(Protocol):
    """Whose turn it is. A pure function of the line: no clock, no threads, no memory of its own."""

    def opened(self, line: Line) -> int:
        """How many groups more are settled to be of the version of the step that is due."""
        ...

    def places(self, line: Line, published: int) -> list[int]:
        """The versions of the groups that may be admitted now that the actor has version `published`."""
        ...

    def follows(self, version: int, step: int) -> bool:
        """Whether the learner may consume at `version` when `step` is due."""
        ...

    def late(self, line: Line) -> list[Group]:
        """Groups that cannot be consumed in time any more."""
        ...

    def batch(self, line: Line) -> list[Group] | None:
        """What the step that is due uses up, the dropped groups with it, in order; None: it waits."""
        ...


@dataclass(frozen=True)
class FirstInFirstOut:
    """Strict order of admission, and a version that follows from it: bit-exact whatever the timing.

    A group that is stamped with what is published when there is room has a version that depends on the timing. Here
    the n-th group's is settled by n and by what became of the groups before it. Let f be the first group that step s
    looks at and x the number of dropped groups that it passes over until its batch is full; then all groups below
    f + (D + 1) B + x that have no version yet are of version s. Where none is dropped, f = s B, and this is the
    fixed-lag schedule max(0, n // B - D). No group is ever more than D behind. An actor that is asked for a version
    that is no longer its newest needs its weights still: see `Controller.oldest`.
    """

    def opened(self, line: Line) -> int:
        """Up to one window from the front; a dropped group counts when those before it have come to an end."""
        dropped = sum(group.standing is Standing.DROPPED for group in self._front(line))
        reach = min(line.limits.live + dropped, line.limits.seen)
        return max(0, reach - len(line.groups) - len(line.stamps))

    def places(self, line: Line, published: int) -> list[int]:
        """Those whose version the actor has."""
        return [version for version in line.stamps if version <= published]

    def follows(self, version: int, step: int) -> bool:
        """No other: every version has its groups."""
        return version == step

    def late(self, line: Line) -> list[Group]:
        """None, ever."""
        return []

    def batch(self, line: Line) -> list[Group] | None:
        """The groups from the front until the batch is full, or as many were looked at as may be."""
        front = self._front(line)
        ready = sum(group.standing is Standing.READY for group in front)
        return front if ready == line.limits.batch or len(front) == line.limits.looked_at else None

    def _front(self, line: Line) -> list[Group]:
        """The groups from the front that have come to an end, up to those of one batch."""
        front, ready = [], 0
        for group in line.groups.values():
            if group.standing is Standing.OUT or ready == line.limits.batch or len(front) == line.limits.looked_at:
                break
            front.append(group)
            ready += group.standing is Standing.READY
        return front


@dataclass(frozen=True)
class EarliestDeadline:
    """Whoever is ready goes first, so long as nobody misses a deadline by it: the speed of a queue without order.

    With n_j groups whose deadline is at most j steps ahead, and B taken a step, the first max_j (n_j - j B) must be
    taken now. D + 1 batches are live, of which one is gone with every step that is taken and comes back when its
    weights are published, not before: a group that is admitted earlier is a step older when it is consumed (in
    simulation 1.9 steps on average and not 0.96, and not faster). So whoever is placed last still goes within D steps
    of its version, and none expires, unless the learner makes several versions in a step. Nothing else is thrown
    away, so long answers are not: throwing away what is late would starve them. What is consumed depends on the
    timing; a journal makes it repeatable.
    """

    def opened(self, line: Line) -> int:
        """None: a group is of the version that is published when it is admitted."""
        return 0

    def places(self, line: Line, published: int) -> list[int]:
        """As many as are missing from D + 1 batches, one less for every step that is not published."""
        limits, unpublished = line.limits, line.step - published
        room = limits.live - unpublished * limits.batch - len(line.live())
        return [published] * min(room, limits.seen - len(line.groups))

    def follows(self, version: int, step: int) -> bool:
        """Any later one: a learner may make several versions of a batch."""
        return version >= step

    def late(self, line: Line) -> list[Group]:
        """In a line by deadline, B a step, those whose turn comes after theirs."""
        taken, late = 0, []
        for group in line.live():
            in_time = line.deadline(group) >= line.step + taken // line.limits.batch
            taken += in_time
            late += [] if in_time else [group]
        return late

    def batch(self, line: Line) -> list[Group] | None:
        """Those that must, then the oldest that are ready; fewer than B if as many were looked at as may be."""
        live, size = line.live(), line.limits.batch
        must = max(count - ahead * size for ahead, count in enumerate(self._due(line, live)))
        ready = [group for group in live if group.standing is Standing.READY]
        dropped = [group for group in line.groups.values() if group.standing is Standing.DROPPED]
        assert must <= size, f"{must} groups must be taken by step {line.step}, of {size}: {live}"
        if any(group.standing is Standing.OUT for group in live[: max(0, must)]):
            return None
        full = len(ready) >= size or len(ready) + len(dropped) >= line.limits.looked_at
        return [*ready[:size], *dropped] if full else None

    def _due(self, line: Line, live: Iterable[Group]) -> list[int]:
        """How many groups have their deadline at most j steps ahead, for j from 0 to K."""
        ahead = Counter(line.deadline(group) - line.step for group in live)
        due = [ahead[0]]
        for steps in range(1, line.limits.max_policy_lag + 1):
            due.append(due[-1] + ahead[steps])
        return due
