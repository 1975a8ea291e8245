"""A replay: the order of a stage that is over, so that what depended on the timing happens again."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distill.rl.history import History, crc, read_history
from distill.rl.journal import folder_of
from distill.rl.order import Group, Line, Standing
from distill.rl.rollouts import Rollouts
from distill.rl.stage import Reinforcement


@dataclass(frozen=True)
class Replay:
    """An `Order`: what was admitted, consumed, passed over or expired at a version is so again, and waited for.

    With the same questions, weights and numerics all is as it was, bit for bit; it stops where a group is asked, drawn
    or judged otherwise. Rewards count as they were given: one that failed, in a timeout perhaps, has failed again.
    """

    history: History

    def opened(self, line: Line) -> int:
        """None: a group is of the version that is published when it is admitted."""
        return 0

    def places(self, line: Line, published: int) -> list[int]:
        """Those of the groups that were admitted by this version, and are not yet."""
        versions = self.history.versions
        return versions[line.admitted : bisect_right(versions, published)]

    def follows(self, version: int, step: int) -> bool:
        """No other."""
        return version == step

    def late(self, line: Line) -> list[Group]:
        """Those that expired then."""
        return [line.groups[uid] for uid in self.history.expired.get(line.step, ()) if uid in line.groups]

    def batch(self, line: Line) -> list[Group] | None:
        """Those that were consumed then, and those that were passed over with them.

        Raises:
          ValueError: one is dropped that was not, or is not dropped that was.
        """
        batch, passed = self.history.batches[line.step], self.history.passed[line.step]
        wanted = dict.fromkeys(batch, Standing.READY) | dict.fromkeys(passed, Standing.DROPPED)
        found = [line.groups[uid] for uid in wanted]
        if any(group.standing is Standing.OUT for group in found):
            return None
        for group in found:
            if group.standing is not wanted[group.uid]:
                raise self._otherwise(group.uid, f"was {wanted[group.uid].value}, and is {group.standing.value}")
        return found

    def check_asked(self, uid: int, item: str) -> None:
        """Refuses another question than the group was asked.

        Raises:
          ValueError: with both.
        """
        if self.history.items[uid] != item:
            raise self._otherwise(uid, f"was asked {self.history.items[uid]}, and is asked {item}")

    def gives_up(self, uid: int) -> bool:
        """Whether a group was given up; it need not be drawn."""
        return uid in self.history.poisoned

    def judged(self, group: Rollouts) -> Rollouts:
        """The group with the rewards that it was given.

        Raises:
          ValueError: it has other answers, or they are worth something else.
        """
        told = self.history.answers.get(group.uid)
        if told is None:  # it was under way when that stage was over
            return group
        if crc(group.tokens) != told.tokens:
            raise self._otherwise(group.uid, "had other answers")
        both = group.valid & np.isfinite(told.rewards)
        if (group.rewards != told.rewards)[both].any():
            then, now = told.rewards.tolist(), group.rewards.tolist()
            raise self._otherwise(group.uid, f"was given {then}, and is given {now}")
        return replace(group, rewards=told.rewards, outcomes=told.outcomes)

    def _otherwise(self, uid: int, what: str) -> ValueError:
        return ValueError(
            f"group {uid} of the journal {self.history.folder} {what}; replay it with the weights, the settings, the "
            "software and the devices that it was made with"
        )


def find_replay(stage: Reinforcement, own: Path, terms: Mapping[str, Any]) -> Replay | None:
    """What a stage follows; None: nothing.

    Args:
      own: folder of its own journal.
      terms: what that says it is of.

    Raises:
      ValueError: it is to follow itself, or another stage than it is (`read_history`).
    """
    if stage.replay is None:
        return None
    folder = folder_of(Path(stage.replay), stage.name)
    if folder.resolve() == own.resolve():
        raise ValueError(
            f"stage {stage.name!r} cannot follow its own journal, {folder}, which it writes anew; give the run another "
            "folder"
        )
    return Replay(read_history(folder, terms, stage.limits, stage.steps))
