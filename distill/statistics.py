"""Paired comparisons over seeds: the same seed with and without a change differs by less than two seeds do."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The paired differences a - b over seeds.

    Attributes:
        mean: the mean difference.
        sd: the sample standard deviation (n - 1) of the differences; None when n = 1.
        interval: the 95 % interval of the mean by Student's t; None when n = 1.
        wins: the number of pairs in which a is below b (losses: lower is better).
        n: the number of pairs.
    """

    mean: float
    sd: float | None
    interval: tuple[float, float] | None
    wins: int
    n: int

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.mean:+.4g} (one seed: no interval)"
        low, high = self.interval
        return f"{self.mean:+.4g} [{low:+.4g}, {high:+.4g}], {self.wins} of {self.n} below"


def paired(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Paired:
    """The differences a[i] - b[i], where i is the seed: mean, spread, and Student's t interval of the mean.

    "Student", The probable error of a mean, Biometrika 1908: mean +- t(n - 1) * sd / sqrt(n).

    Raises:
        ValueError: the lists differ in length, are empty, or hold a value that is not finite.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"paired values must be two lists of one length, a value per seed; got {len(a)} and {len(b)}")
    for name, values in (("a", a), ("b", b)):
        for seed, value in enumerate(values):
            if not math.isfinite(value):
                raise ValueError(f"{name}[{seed}] is {value}; a run that diverged has no difference: drop the pair")
    differences = [float(x) - float(y) for x, y in zip(a, b, strict=True)]
    n, mean = len(differences), statistics.fmean(differences)
    wins = sum(difference < 0 for difference in differences)
    if n == 1:
        return Paired(mean=mean, sd=None, interval=None, wins=wins, n=1)
    from scipy import stats

    sd = statistics.stdev(differences)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * sd / math.sqrt(n)
    return Paired(mean=mean, sd=sd, interval=(mean - half, mean + half), wins=wins, n=n)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean, and how far it may be off.

    Attributes:
        mean: the mean.
        interval: its 95 % interval; None where nothing tells its spread.
    """

    mean: float
    interval: tuple[float, float] | None = None


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of one value a seed, with Student's t interval; without one where there is one seed.

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    found = paired(values, [0.0] * len(values))
    return Estimate(mean=found.mean, interval=found.interval)


def over_questions(shares: Sequence[float], questions: Sequence[float | int]) -> Estimate:
    """The plain mean over cells of a share of questions, with an interval that is by questions alone, not by seeds.

    Wilson's interval in each cell (JASA 1927), l to u around p; together, for C cells, by the distances to their ends
    (Zou and Donner, Statistics in Medicine 2008): mean - sqrt(sum (p - l)^2) / C to mean + sqrt(sum (u - p)^2) / C. It
    does not shrink to nothing where all, or no, questions are solved. Where a question is asked several times, p is the
    mean over its attempts: a share between 0 and 1 varies no more over questions than a coin of that mean, so the
    interval is too wide rather than too narrow. Where their spread is known, p (1 - p) / error^2 coins vary as much.

    Args:
        shares: of the questions of each cell that were solved, 0 to 1.
        questions: the number of them, or of coins that vary as much.

    Raises:
        ValueError: there is no cell, a cell has no questions, or a share is none.
    """
    if len(shares) != len(questions) or not shares:
        raise ValueError(f"shares and questions must be of the same cells; got {len(shares)} and {len(questions)}")
    z = statistics.NormalDist().inv_cdf(0.975)
    below = above = 0.0
    for cell, (p, n) in enumerate(zip(shares, questions, strict=True)):
        if n < 1 or not 0.0 <= p <= 1.0:
            raise ValueError(f"cell {cell} has a share of {p} of {n} questions; it must be 0 to 1, of 1 or more")
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        below, above = below + (p - middle + half) ** 2, above + (middle + half - p) ** 2
    mean, cells = statistics.fmean(shares), len(shares)
    return Estimate(mean=mean, interval=(mean - math.sqrt(below) / cells, mean + math.sqrt(above) / cells))
