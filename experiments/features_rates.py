"""Weights and learning rates for `experiments.features`, of a seed and on text that it does not report.

Every term at five weights, and none, each at four learning rates, with the student that has all of them.

    python -m distill.sweep experiments/features_rates.py

The best of each kind went into ARMS there. Cost and result: experiments/README.md.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from distill import Experiment
from distill.sweep import shrunk
from experiments import features
from experiments.features import KINDS, Arm, experiment, student
from models.config import tiny as shrink

SEED = 100
RATES = (6e-3, 1.2e-2, 2.4e-2, 4.8e-2)
TRIED = (0.1, 1.0, 10.0, 30.0, 100.0)
WEIGHTS = {"off": (0.0,), "squared": TRIED, "angle": TRIED, "routers": TRIED}


def prepare(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """A teacher of a seed that is not reported."""
    yield from (replace(one, seed=SEED) for one in features.prepare(folder, tiny))


def sweep(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """An experiment a rate."""
    model = shrink(KINDS["scout"]) if tiny else KINDS["scout"]
    for rate in RATES:
        arms = [Arm(kind=kind, weight=weight, rate=rate) for kind, weights in WEIGHTS.items() for weight in weights]
        students = (student(f"{arm.kind}-{10 * arm.weight:.0f}", arm, model) for arm in arms)
        made = replace(experiment(f"rate{1e3 * rate:.0f}", students, folder, "choose"), seed=SEED)
        yield from shrunk(iter([made]), tiny)
