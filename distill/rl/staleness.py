"""Staleness: which groups may be drawn, by which policy, and which the learner may take."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from distill.rl.order import EarliestDeadline, Group, Limits, Line, Order, Standing

SCHEMA = 1
ENDS = ("consumed", "filtered", "expired", "poisoned")
"""what becomes of a group"""


@dataclass
class Controller:
    """Holds the bound: no group is consumed at a version more than `max_policy_lag` above the one that drew it.

    It bounds by admission and by the order of consumption, not by throwing away. It is told what happens and answers
    what may; there are no threads, clocks or random numbers in it, so a schedule is repeated by repeating the calls.
    Calls from several threads need a lock around them. A version counts the learner's updates that were published.
    """

    limits: Limits
    order: Order = EarliestDeadline()
    line: Line = field(init=False)
    ends: Counter[str] = field(init=False)
    """how many groups came to each of `ENDS`"""
    lags: list[int] = field(init=False)
    """how many groups were consumed at each lag from 0 to K"""
    short: int = field(init=False, default=0)
    """steps that had fewer groups than B"""
    skipped: int = field(init=False, default=0)
    """steps that had none; they are short too"""
    aborted: set[int] = field(init=False, default_factory=set)
    """groups that expired while they were drawn: who draws one may stop, and says what became of it all the same"""

    def __post_init__(self) -> None:
        self.line = Line(self.limits)
        self.ends = Counter(dict.fromkeys(ENDS, 0))
        self.lags = [0] * (self.limits.max_policy_lag + 1)
        self._settle()

    @property
    def oldest(self) -> int:
        """The oldest version that a group may still be drawn by: the actor keeps the weights from there on."""
        out = [group.version for group in self.line.groups.values() if group.standing is Standing.OUT]
        return min([*out, *self.line.stamps[:1], self.line.step])

    @property
    def out(self) -> list[tuple[int, int]]:
        """(uid, version) of the groups that are drawn now, in order of admission; after a restart, those to redo."""
        groups = self.line.groups.values()
        return [(group.uid, group.version) for group in groups if group.standing is Standing.OUT]

    @property
    def ready(self) -> int:
        """How many groups wait to be consumed."""
        return sum(group.standing is Standing.READY for group in self.line.groups.values())

    def may_admit(self, published: int) -> int:
        """How many groups may be admitted now that the actor has version `published`.

        Raises:
          ValueError: the learner has not made that version yet.
        """
        return len(self._places(published))

    def admit(self, uid: int, published: int) -> int:
        """Lets a group be drawn; the version to draw it by, `published` or older.

        Raises:
          ValueError: there is no room, the group is in the line already, or there is no such version.
        """
        places = self._places(published)
        if not places:
            raise ValueError(
                f"group {uid} has no room at version {published}: step {self.line.step} is due and "
                f"{len(self.line.live())} groups are live, of {self.limits}; ask may_admit first"
            )
        if uid in self.line.groups or uid in self.aborted:
            raise ValueError(f"group {uid} was admitted and has not come to an end; give every group a uid of its own")
        self.line.groups[uid] = Group(uid, self.line.admitted, places[0])
        self.line.stamps = self.line.stamps[1:]
        self.line.admitted += 1
        return places[0]

    def completed(self, uid: int) -> bool:
        """A group is drawn and graded; whether it is still wanted: False if it expired.

        Raises:
          ValueError: it is not on its way.
        """
        return self._end(uid, Standing.READY)

    def filtered(self, uid: int) -> bool:
        """A group is drawn and has nothing to teach (no advantage): another may be admitted for it. As `completed`."""
        return self._end(uid, Standing.DROPPED, "filtered")

    def poisoned(self, uid: int) -> bool:
        """A group failed so often that it is given up: another may be admitted for it. As `completed`."""
        return self._end(uid, Standing.DROPPED, "poisoned")

    def expire(self, version: int) -> list[int]:
        """The learner stands at `version`; the groups that can no longer be consumed in time, which leave the line.

        There are none while the version grows by one with every step.

        Raises:
          ValueError: the version goes back, or jumps and the order has settled what each version draws.
        """
        if not self.order.follows(version, self.line.step):
            raise ValueError(
                f"the learner is at version {version}, and step {self.line.step} is due by {self.order}; take that "
                "first, or restore the state that belongs to the weights"
            )
        self.line.step = version
        late = self.order.late(self.line)
        for group in late:
            self.ends["expired"] += 1
            del self.line.groups[group.uid]
            self.aborted |= {group.uid} if group.standing is Standing.OUT else set()
        return [group.uid for group in late]

    def take(self, version: int) -> list[int] | None:
        """The groups that the learner at `version` learns from, in order, consumed from now on; None: wait.

        There may be fewer than B, or none, where too many were dropped: the step counts all the same.

        Raises:
          ValueError: `expire` was not told that the learner is at that version.
        """
        if version != self.line.step or self.order.late(self.line):
            raise ValueError(f"step {self.line.step} is due, not a batch for version {version}; call expire({version})")
        used = self.order.batch(self.line)
        if used is None:
            return None
        batch = [group for group in used if group.standing is Standing.READY]
        for group in batch:
            lag = version - group.version
            assert 0 <= lag <= self.limits.max_policy_lag, f"{group} is consumed at {version}, {self.limits}"
            self.lags[lag] += 1
        for group in used:
            del self.line.groups[group.uid]
        self.ends["consumed"] += len(batch)
        self.short += len(batch) < self.limits.batch
        self.skipped += not batch
        self.line.step = version + 1
        self._settle()
        return [group.uid for group in batch]

    def check(self) -> None:
        """Every group that was admitted came to one end, or is live.

        Raises:
          RuntimeError: one was lost, or counted twice.
        """
        live = len(self.line.live())
        if self.line.admitted != self.ends.total() + live:
            parts = " + ".join(f"{self.ends[end]} {end}" for end in ENDS)
            raise RuntimeError(f"{self.line.admitted} groups were admitted, which is not {parts} + {live} in flight")

    def state(self) -> dict[str, Any]:
        """All of it, as JSON. Belongs to the weights of the step that is due, and to no others."""
        line = self.line
        return {
            "schema": SCHEMA,
            "limits": asdict(self.limits),
            "order": type(self.order).__name__,
            "step": line.step,
            "admitted": line.admitted,
            "groups": [[one.uid, one.number, one.version, one.standing.value] for one in line.groups.values()],
            "stamps": list(line.stamps),
            "ends": dict(self.ends),
            "lags": list(self.lags),
            "steps": [self.short, self.skipped],
        }

    @classmethod
    def restore(cls, state: Mapping[str, Any], limits: Limits, order: Order) -> "Controller":
        """The controller that `state` was taken of. Who drew its groups is gone: see `out`.

        Raises:
          ValueError: it is of other limits or another order, or does not hold together.
        """
        made = cls(limits, order)
        known = {"schema": SCHEMA, "limits": asdict(limits), "order": type(order).__name__}
        for name, now in known.items():
            if state.get(name) != now:
                raise ValueError(
                    f"the controller's state has {name} {state.get(name)!r}, the run has {now!r}; go on with what it "
                    "was begun with, or start the stage anew"
                )
        try:
            made._fill(state)
            made.check()
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"the controller's state is damaged ({error!r}); take an older checkpoint") from error
        return made

    def _fill(self, state: Mapping[str, Any]) -> None:
        line = self.line
        line.step, line.admitted, line.stamps = int(state["step"]), int(state["admitted"]), [*map(int, state["stamps"])]
        groups = [Group(int(uid), int(number), int(v), Standing(how)) for uid, number, v, how in state["groups"]]
        line.groups = {group.uid: group for group in groups}
        self.ends = Counter({end: int(state["ends"][end]) for end in ENDS})
        self.lags, (self.short, self.skipped) = [*map(int, state["lags"])], map(int, state["steps"])
        numbers, versions = [group.number for group in groups], [*(one.version for one in groups), *line.stamps]
        if len(line.groups) < len(groups) or numbers != sorted(set(numbers)) or numbers[-1:] >= [line.admitted]:
            raise ValueError(f"groups {groups} of {line.admitted} are not each there once, in order")
        overdue = self.order.late(line) or [one for one in line.live() if line.deadline(one) < line.step]
        if any(not 0 <= version <= line.step for version in versions) or overdue or len(groups) > self.limits.seen:
            raise ValueError(f"groups of versions {versions} do not suit step {line.step}")
        if len(self.lags) != self.limits.max_policy_lag + 1 or sum(self.lags) != self.ends["consumed"]:
            raise ValueError(f"lags {self.lags} are not those of {self.ends['consumed']} groups")

    def _places(self, published: int) -> list[int]:
        if not 0 <= published <= self.line.step:
            raise ValueError(
                f"the actor has version {published} and the learner has made 0 to {self.line.step}; restore both from "
                "one checkpoint, and publish before admitting"
            )
        return self.order.places(self.line, published)

    def _end(self, uid: int, standing: Standing, end: str | None = None) -> bool:
        if uid in self.aborted:
            self.aborted.remove(uid)
            return False
        group = self.line.groups.get(uid)
        if group is None or group.standing is not Standing.OUT:
            found = "not in the line" if group is None else group.standing.value
            raise ValueError(f"group {uid} is {found}, it must be out; every group comes to one end, once")
        self.line.groups[uid] = replace(group, standing=standing)
        self.ends.update([end] if end else [])
        self._settle()
        return True

    def _settle(self) -> None:
        self.line.stamps += [self.line.step] * self.order.opened(self.line)
