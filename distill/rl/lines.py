"""The lines of an update: what it learned from, which the order of the groups determines, and how fast it went."""

import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from distill.rl.actors import Drawing
from distill.rl.rollouts import Rollouts
from distill.rl.stopwatch import Stopwatch
from distill.tasks.item import Item
from losses.advantage import informative

MISMATCH = {"float32": 1e-3, "bfloat16": 2e-2}
"""nats by which sampler and learner may differ on a token, on average, by the dtype that both compute in"""

Asked = Sequence[tuple[Item, Rollouts]]
"""groups, each with what it was asked"""


def describe(lags: Sequence[int], used: Asked, most: int) -> dict[str, float]:
    """What an update learned from; NaN where there is nothing to take a mean of.

    Args:
      lags: of the groups that it learned from, optimizer steps.
      used: these groups, and those that it passed over, as they had nothing to teach.
      most: lag that a group may have.

    Returns:
      groups: how many it learned from; lag/0, lag/1, ...: how many of each age; lag, lag_max. Of all that were used:
      reward: share of answers that solve it, mean over groups; asked/task/level, reward/task/level: groups, and that
      share, of a cell; level: mean; all_right, all_wrong, zero_advantage: shares of groups; length, length_right,
      length_wrong: mean tokens of an answer; masked: answers that nobody could judge.
    """
    drawn = [one for _, one in used]
    solved = {one.uid: float(one.outcomes[one.valid].mean()) for one in drawn if one.valid.any()}
    flat = [not informative(one.outcomes[None], one.valid[None])[0] for one in drawn]
    return {
        "reward": _mean(solved.values()),
        "groups": float(len(lags)),
        "all_right": _mean(rate == 1.0 for rate in solved.values()),
        "all_wrong": _mean(rate == 0.0 for rate in solved.values()),
        "zero_advantage": _mean(flat),
        "lag": _mean(lags),
        "lag_max": float(max(lags, default=0)),
        "masked": float(sum((~one.valid).sum() for one in drawn)),
        "level": _mean(item.level for item, _ in used),
        **{f"lag/{lag}": float(lags.count(lag)) for lag in range(most + 1)},
        **_lengths(drawn),
        **_cells(used, solved),
    }


def _lengths(drawn: Sequence[Rollouts]) -> dict[str, float]:
    """Tokens of answers: of all, and of the right and the wrong, which drift apart where length is rewarded unseen."""
    right = [one.lengths[one.valid & one.outcomes] for one in drawn]
    wrong = [one.lengths[one.valid & ~one.outcomes] for one in drawn]
    every = {"length": [one.lengths for one in drawn], "length_right": right, "length_wrong": wrong}
    return {name: _mean(length for each in lengths for length in each) for name, lengths in every.items()}


def _cells(used: Asked, solved: Mapping[int, float]) -> dict[str, float]:
    """By task and level that was asked: how many groups, and what share of their answers was right."""
    asked: dict[str, list[int]] = {}
    for item, one in used:
        asked.setdefault(f"{item.task}/{item.level}", []).append(one.uid)
    found: dict[str, float] = {}
    for cell, uids in sorted(asked.items()):
        found[f"asked/{cell}"] = float(len(uids))
        found[f"reward/{cell}"] = _mean(solved[uid] for uid in uids if uid in solved)
    return found


def _mean(values: Iterable[Any]) -> float:
    """Of numbers and truths; NaN of nothing."""
    found = list(values)
    return float(np.mean(found)) if found else float("nan")


def check_mismatch(stage: str, number: int, found: float, dtype: str) -> None:
    """Warns where the sampler and the learner give the same tokens, of the same weights, other log-probabilities.

    Args:
      found: mean |difference| over the tokens that the learner's own weights have drawn, nats; NaN of none.
      dtype: of the products of both.
    """
    if found > MISMATCH[dtype]:
        warnings.warn(
            f"stage {stage!r}, update {number}: sampler and learner differ by {found:.1e} nats a token on answers "
            f"drawn by the learner's own weights; in {dtype} it must be at most {MISMATCH[dtype]:g}. They do not run "
            "the same model: look at temperature, routes and execution",
            RuntimeWarning,
            stacklevel=2,
        )


class Pace:
    """Lines of timings.jsonl: how fast it goes, who waits for whom and what went wrong, since the line before.

    Args:
      actor: who draws.
    """

    def __init__(self, actor: Drawing) -> None:
        self.waiting = Stopwatch()
        """the learner's, for groups"""
        self._actor, self._learned = actor, 0
        self._last = self._now()

    def learned(self, tokens: int) -> None:
        """An update was made of so many tokens."""
        self._learned += tokens

    def line(self) -> dict[str, float]:
        """Seconds; tokens a second, drawn and learned from; shares of the time that learner and actor waited; tokens
        that were drawn in all."""
        before, self._last = self._last, self._now()
        seconds, waited, idle, drawn, learned = (now - then for now, then in zip(self._last, before, strict=True))
        return {
            "seconds": seconds,
            "learner_idle": waited / seconds,
            "actor_idle": idle / seconds,
            "learner_tokens_per_second": learned / seconds,
            "actor_tokens_per_second": drawn / seconds,
            "drawn": float(self._actor.drawn),
        }

    def _now(self) -> tuple[float, float, float, int, int]:
        return time.monotonic(), self.waiting.seconds, self._actor.waited, self._actor.drawn, self._learned
