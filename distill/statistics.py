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
