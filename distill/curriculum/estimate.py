"""What attempts at prompts tell of them: pass@k, learnability, and a belief about how often each is solved."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Real


def pass_at_k(attempts: Int[np.ndarray, "n"], successes: Int[np.ndarray, "n"], k: int) -> Float[np.ndarray, "n"]:
    """The chance that at least one of k attempts succeeds, 1 - C(n - c, k) / C(n, k), unbiased.

    From n >= k attempts at a prompt, of which c succeeded (Chen et al. 2021, arXiv:2107.03374); 1 if n - c < k.
    1 - (1 - c / n)^k is biased: it is what k draws with replacement from the n attempts would give.

    Raises:
      ValueError: k < 1, a prompt has fewer than k attempts, or more successes than attempts.
    """
    check_counts(attempts, successes)
    if k < 1:
        raise ValueError(f"pass@{k}: k must be at least 1 attempt")
    if np.any(attempts < k):
        place = int(np.argmax(attempts < k))
        raise ValueError(
            f"pass@{k} of prompt {place} does not follow from its {attempts[place]} attempts; measure with at least "
            f"{k} attempts a prompt, or ask for a smaller k"
        )
    failed = np.ones(len(attempts))
    for i in range(k):  # both binomials as one product of k factors: each by itself leaves float64 at n near 1000
        failed *= np.maximum(attempts - successes - i, 0) / (attempts - i)
    return 1.0 - failed


def learnability(attempts: Int[np.ndarray, "n"], successes: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """The variance p (1 - p) of a prompt's outcome, without bias from few attempts: c (n - c) / (n (n - 1)).

    It is what a group-relative policy gradient has to work with: 0 where all attempts end alike.

    Raises:
      ValueError: a prompt has fewer than 2 attempts, or more successes than attempts.
    """
    check_counts(attempts, successes)
    if np.any(attempts < 2):
        place = int(np.argmax(attempts < 2))
        raise ValueError(
            f"prompt {place} has {attempts[place]} attempts, and a variance needs 2; measure it again, or ask a "
            "belief, Prior().after(...).learnability(), which needs none"
        )
    return successes * (attempts - successes) / (attempts * (attempts - 1.0))


@dataclass(frozen=True, eq=False)
class Belief:
    """What is believed of the chance p that a prompt is solved: it is distributed as Beta(a, b)."""

    a: Float[np.ndarray, "n"]
    """successes, with the prior's"""
    b: Float[np.ndarray, "n"]
    """failures, with the prior's"""

    def mean(self) -> Float[np.ndarray, "n"]:
        """E[p] = a / (a + b)."""
        return self.a / (self.a + self.b)

    def learnability(self) -> Float[np.ndarray, "n"]:
        """E[p (1 - p)] = a b / ((a + b) (a + b + 1)), the outcome's variance as far as it is known; below 1/4."""
        total = self.a + self.b
        return self.a * self.b / (total * (total + 1.0))

    def interval(self, mass: float = 0.95) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
        """The two ends between which p lies with a probability of `mass`, as much left out below as above.

        Raises:
          ValueError: mass is not within 0 and 1.
        """
        if not 0.0 < mass < 1.0:
            raise ValueError(f"an interval of mass {mass} must lie between 0 and 1; 0.95 leaves out one in twenty")
        from scipy import stats

        low, high = stats.beta.ppf(((1.0 - mass) / 2.0, (1.0 + mass) / 2.0), self.a[:, None], self.b[:, None]).T
        return low, high


@dataclass(frozen=True)
class Prior:
    """What is believed of a prompt before anybody tried it: Beta(successes, failures). Even by default (Laplace)."""

    successes: float = 1.0
    failures: float = 1.0

    def __post_init__(self):
        if not (0.0 < self.successes < np.inf and 0.0 < self.failures < np.inf):
            raise ValueError(f"{self}: both must be above 0 and finite; 1 and 1 hold every chance for equally likely")

    def after(self, successes: Real[np.ndarray, "n"], failures: Real[np.ndarray, "n"]) -> Belief:
        """The belief after so many successes and failures; fractions are evidence that has faded."""
        return Belief(self.successes + successes, self.failures + failures)


def check_counts(
    attempts: Int[np.ndarray, "n"], successes: Int[np.ndarray, "n"], names: Sequence[str] | None = None
) -> None:
    """Refuses counts that nobody can have counted; `names` are the prompts', else they are numbered.

    Raises:
      ValueError: a count is negative, or successes are more than attempts.
    """
    wrong = (successes < 0) | (successes > attempts)
    if np.any(wrong):
        place = int(np.argmax(wrong))
        raise ValueError(
            f"prompt {place if names is None else repr(names[place])} has {successes[place]} successes in "
            f"{attempts[place]} attempts; they must be from 0 to as many as the attempts"
        )
