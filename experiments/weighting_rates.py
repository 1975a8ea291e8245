"""Settings for `experiments.dynamic_weighting`, chosen on the half of the held-out text that it does not report.

Every method at three learning rates in every condition, and the gate's kappa and margin at one. Prints what is best for
each over all conditions; the first goes into RATES there.

    python -m distill.sweep experiments/weighting_rates.py --only rate
    python -m distill.sweep experiments/weighting_rates.py --only gate
    python experiments/weighting_rates.py                                   # what is best, of what has been run

Cost and result: experiments/README.md.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from distill import Experiment, Learner
from distill.sweep import shrunk
from experiments import dynamic_weighting
from experiments.dynamic_weighting import CONDITIONS, TEACHER, experiment, methods, student
from losses import Distill, Evidence
from models.config import tiny as shrink

SEED = 100
RATES = (6e-3, 3e-3, 1.2e-2)
KAPPAS = (0.015, 0.03, 0.06)
OPENINGS = (-2.0, -1.0, 0.0, 1.0)
"""b: the margin is -b kappa"""


def prepare(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """Teachers of a seed that is not reported."""
    yield from (replace(one, seed=SEED) for one in dynamic_weighting.prepare(folder, tiny))


def sweep(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """Every condition at each rate, and with each form of the gate."""
    teacher = replace(TEACHER, model=shrink(TEACHER.model)) if tiny else TEACHER
    gates = {
        f"kappa{1000 * kappa:.0f}_b{b:.0f}": Distill(gate=Evidence(kappa=kappa, margin=-b * kappa))
        for kappa in KAPPAS
        for b in OPENINGS
    }

    def at(name: str, condition: str, students: Iterator[Learner]) -> Experiment:
        made = experiment(condition, students, folder, teacher, "choose")
        return replace(made, name=f"{condition}-{name}", seed=SEED)

    def of(losses: dict[str, Distill], rate: float) -> Iterator[Learner]:
        return (student(method, loss, "scout", rate) for method, loss in losses.items())

    made = [at(f"rate{rate}", name, of(methods(name), rate)) for rate in RATES for name in CONDITIONS]
    made += [at("gate", name, of(gates, dynamic_weighting.RATE)) for name in CONDITIONS]
    yield from shrunk(iter(made), tiny)
