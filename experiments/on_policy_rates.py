"""Learning rates for `experiments.on_policy`, chosen on questions and a seed that it does not report.

Every method at four peak rates; prints the exact answers of each, the best of which goes into METHODS there.

    python -m distill.sweep experiments/on_policy_rates.py
    python -m experiments.on_policy_rates runs/on_policy_rates

Cost and result: experiments/README.md.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from distill import Experiment
from distill.sweep import shrunk
from experiments import on_policy
from experiments.on_policy import METHODS, examine, learn

SEED, QUESTIONS = 100, 1
RATES = (3e-4, 1e-3, 3e-3, 1e-2)


def prepare(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """A teacher and a student of a seed that is not reported."""
    yield from (replace(one, seed=SEED) for one in on_policy.prepare(folder, tiny))


def sweep(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """Every method at each rate."""
    made = (
        learn(
            f"rate{rate}",
            {name: replace(one, rate=rate) for name, one in METHODS.items()},
            folder,
            tiny,
            QUESTIONS,
        )
        for rate in RATES
    )
    yield from shrunk((replace(one, seed=SEED) for one in made), tiny)


def report(folder: Path) -> None:
    """Prints exact answers and cross-entropy by method and rate."""
    found = {rate: examine(folder / "seed0" / f"rate{rate}", QUESTIONS) for rate in RATES}
    for name in METHODS:
        cells = (f"{rate}: {seen[name]['mean']:.3f} {seen[name]['cross_entropy']:.4f}" for rate, seen in found.items())
        print(f"{name:14}" + "   ".join(cells))


if __name__ == "__main__":
    import tyro

    tyro.cli(report, config=(tyro.conf.PositionalRequiredArgs,))
