"""Which prompts a student is to see now: samplers, from what is known of each to its chance to be drawn."""

import math
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from distill.curriculum.estimate import Belief
from distill.curriculum.rank import places, shared
from distill.curriculum.tracker import Tracker


@runtime_checkable
class Sampler(Protocol):
    """Chances by prompt. One of one's own inherits from this class and defines `weights`.

    Every chance is at least floor / n of n prompts, so that none starves. Those in quarantine have just that.
    """

    def weights(self, tracker: Tracker, progress: float) -> Float[np.ndarray, "n"]:
        """The chance of each prompt to be drawn first; they add to 1. Progress is the stage's, from 0 to 1."""
        ...

    def aim(self, tracker: Tracker, rate: float) -> float | None:
        """Where the tracker's aim goes after a batch of which this share was solved. One that has none leaves it."""
        return tracker.aim


@dataclass(frozen=True)
class Uniform(Sampler):
    """All alike, those in quarantine too: what the others are compared with."""

    def weights(self, tracker: Tracker, progress: float) -> Float[np.ndarray, "n"]:
        """1 / n."""
        return np.full(len(tracker.ids), 1.0 / len(tracker.ids))


@dataclass(frozen=True, kw_only=True)
class Learnability(Sampler):
    """By the expected variance of the outcome, E[p (1 - p)]^(1 / temperature): prompts solved about half of the time.

    That variance is what a policy gradient can use (LILO, Foster et al., NeurIPS 2025). Where a belief is vague it is
    high, so what was hardly tried is tried.
    """

    temperature: float = 1.0
    """lower is greedier; inf is uniform"""
    even: bool = False
    """whether kinds are drawn alike but for that, however many prompts each has: a pool of mostly easy prompts is drawn
    as if it had as many of every kind. It needs a tracker of kinds"""
    floor: float = 0.1

    def __post_init__(self):
        _check(self, "floor", self.floor)
        if not self.temperature > 0.0:
            raise ValueError(f"{self}: temperature must be above 0; 1 draws in proportion")

    def weights(self, tracker: Tracker, progress: float) -> Float[np.ndarray, "n"]:
        """By each belief's variance.

        Raises:
          ValueError: kinds are to be drawn alike, and the tracker knows none.
        """
        scores = tracker.belief().learnability()
        live = tracker.live()
        relative = scores[live] / scores[live].max(initial=0.0)  # so that no power of all of them underflows
        chances = relative ** (1.0 / self.temperature)
        if self.even:
            if tracker.kinds is None:
                raise ValueError(f"{self}: the tracker has no kinds to draw alike; set by_kind, or even to False")
            kinds = tracker.kinds[live]
            chances = chances / np.bincount(kinds)[kinds]
        return _floored(chances, live, self.floor)


@dataclass(frozen=True, kw_only=True)
class Rising(Sampler):
    """From easy to hard: a window over the order of difficulty, which moves from one end to the other with progress.

    It covers `width` of the prompts that are not in quarantine. Equally difficult ones share the places that they hold.
    Llama 4's last stage was a curriculum of rising hardness, of prompts measured by pass@k (Meta 2025).
    """

    width: float = 0.3
    """of the window, as a share of the prompts; 1 covers all, always"""
    floor: float = 0.1

    def __post_init__(self):
        _check(self, "floor", self.floor)
        _check(self, "width", self.width)

    def weights(self, tracker: Tracker, progress: float) -> Float[np.ndarray, "n"]:
        """By what part of each prompt's place lies in the window."""
        left = min(max(progress, 0.0), 1.0) * (1.0 - self.width)
        return _windowed(tracker, left, self.width, self.floor)


@dataclass(frozen=True, kw_only=True)
class Sliding(Sampler):
    """A window over the order of difficulty that moves from one place to another, or stays, with progress.

    From 0.7 to 0 of width 0.3 it is from hard to easy; from 0.5 to 0.5 of width 0.5 the harder half, always; from 0.25
    to 0.25 of width 0.5 the middle half.
    """

    begins: float = 0.5
    """its lower end as the stage begins, as a share of the prompts that are not in quarantine; 0 is the easiest"""
    ends: float = 0.5
    """its lower end as the stage ends"""
    width: float = 0.5
    floor: float = 0.1

    def __post_init__(self):
        _check(self, "floor", self.floor)
        _check(self, "width", self.width)
        for name, value in (("begins", self.begins), ("ends", self.ends)):
            if not 0.0 <= value <= 1.0 - self.width:
                raise ValueError(f"{self}: {name} must be 0 to {1.0 - self.width:g}, so that the window has its width")

    def weights(self, tracker: Tracker, progress: float) -> Float[np.ndarray, "n"]:
        """By what part of each prompt's place lies in the window."""
        left = self.begins + min(max(progress, 0.0), 1.0) * (self.ends - self.begins)
        return _windowed(tracker, left, self.width, self.floor)


@dataclass(frozen=True, kw_only=True)
class Target(Sampler):
    """What is about as hard as its aim, which rises when more than `success` of a batch was solved, falls when less.

      aim <- clip(aim + step * tanh(sharpness * (rate - success)), 0, 1)

    AdaRFT (arXiv:2504.05520), which takes the nearest prompts and knows a fixed difficulty; here difficulty moves with
    the student, and a normal curve around the aim says how near is near. The aim is the tracker's, so it is
    checkpointed; it corrects for prompts whose difficulty is out of date because they were not drawn for long.
    """

    success: float = 0.5
    """the share of a batch that should be solved"""
    start: float = 0.5
    """the first aim; a difficulty, the expected share of failures"""
    step: float = 0.1
    """the longest that the aim moves at once. The paper's is half of all difficulties"""
    sharpness: float = 2.0
    width: float = 0.1
    """standard deviation of the curve"""
    floor: float = 0.1

    def __post_init__(self):
        for name, value in (("floor", self.floor), ("width", self.width), ("step", self.step)):
            _check(self, name, value)
        if not self.sharpness > 0.0:
            raise ValueError(f"{self}: sharpness must be above 0; the paper's is 2")
        for name, value in (("success", self.success), ("start", self.start)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{self}: {name} must lie within 0 and 1; 0.5 learns most")

    def weights(self, tracker: Tracker, progress: float) -> Float[np.ndarray, "n"]:
        """By each prompt's distance to the aim."""
        live = tracker.live()
        away = (tracker.difficulty()[live] - self._now(tracker)) / self.width
        exponents = -0.5 * away**2
        return _floored(np.exp(exponents - exponents.max(initial=-np.inf)), live, self.floor)

    def aim(self, tracker: Tracker, rate: float) -> float:
        """The aim after a batch of which this share was solved."""
        moved = self._now(tracker) + self.step * math.tanh(self.sharpness * (rate - self.success))
        return min(max(moved, 0.0), 1.0)

    def _now(self, tracker: Tracker) -> float:
        return self.start if tracker.aim is None else tracker.aim


@runtime_checkable
class Score(Protocol):
    """Says by how much each prompt is to be preferred; only the order counts."""

    def __call__(self, belief: Belief) -> Float[np.ndarray, "n"]:
        """The higher, the sooner."""
        ...


@dataclass(frozen=True)
class Variance:
    """The expected variance of the outcome."""

    def __call__(self, belief: Belief) -> Float[np.ndarray, "n"]:
        """E[p (1 - p)]."""
        return belief.learnability()


@dataclass(frozen=True)
class Hardness:
    """The expected share of failures; of a tracker that began with reducible losses, the order of these."""

    def __call__(self, belief: Belief) -> Float[np.ndarray, "n"]:
        """1 - E[p]."""
        return 1.0 - belief.mean()


@dataclass(frozen=True, kw_only=True)
class Prioritised(Sampler):
    """By rank of a score, and by how long ago a prompt was seen: prioritised level replay (PLR, arXiv:2010.03934).

      (1 - staleness) P_S + staleness P_C,   P_S ~ rank^(-1 / beta), the highest score first,   P_C ~ now - last seen

    Equal scores share their ranks, as at the start all are equal.
    """

    score: Score = field(default_factory=Variance)
    staleness: float = 0.1
    """share of P_C, rho in the paper"""
    beta: float = 0.1
    """lower is greedier: at 0.1 the first rank has 1000 times the weight of the second"""
    floor: float = 0.1

    def __post_init__(self):
        _check(self, "floor", self.floor)
        if not 0.0 <= self.staleness <= 1.0 or not self.beta > 0.0:
            raise ValueError(f"{self}: staleness must lie within 0 and 1, and beta be above 0; 0.1 and 0.1 are PLR's")

    def weights(self, tracker: Tracker, progress: float) -> Float[np.ndarray, "n"]:
        """By each prompt's rank and age."""
        live = tracker.live()
        first, _ = places(-self.score(tracker.belief())[live])
        ranked = shared(first, np.arange(1.0, live.sum() + 1.0) ** (-1.0 / self.beta))
        age = (tracker.now - tracker.seen)[live]
        by_rank, by_age = ranked / max(ranked.sum(), 1.0), age / max(age.sum(), 1)  # below 1 only if there is none
        return _floored((1.0 - self.staleness) * by_rank + self.staleness * by_age, live, self.floor)


def _windowed(tracker: Tracker, left: float, width: float, floor: float) -> Float[np.ndarray, "n"]:
    """Chances by what part of each prompt's place in the order of difficulty lies from left to left + width."""
    live = tracker.live()
    first, end = places(tracker.difficulty()[live])
    low, high = np.maximum(first / live.sum(), left), np.minimum(end / live.sum(), left + width)
    return _floored(np.maximum(high - low, 0.0) / (end - first), live, floor)


def _floored(scores: Float[np.ndarray, "m"], live: Bool[np.ndarray, "n"], floor: float) -> Float[np.ndarray, "n"]:
    """Chances in proportion to the scores of those alive, mixed with the same chance for all; that alone if none is."""
    total = scores.sum()
    even = np.full(len(live), 1.0 / len(live))
    if total == 0.0:
        return even
    weights = floor * even
    weights[live] += (1.0 - floor) * scores / total
    return weights


def _check(asker: Sampler, name: str, value: float) -> None:
    if not 0.0 < value <= 1.0:
        raise ValueError(f"{asker}: {name} must be above 0 and at most 1; 0.1 is a good start")
