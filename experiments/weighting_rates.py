"""Settings for `experiments.dynamic_weighting`, chosen on the half of the held-out text that it does not report.

Every method at four learning rates in the main conditions, those that like the highest best at one more, and forms of
the gate (kappa, margin, cost of motion) at one rate in five. Prints what is best for each over these conditions; the
first goes into RATES there.

    python -m distill.sweep experiments/weighting_rates.py --only rate
    python -m distill.sweep experiments/weighting_rates.py --only gate margins
    python -m experiments.weighting_rates                                   # what is best, of what has been run

Cost and result: experiments/README.md.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from distill import Experiment, Learner
from distill.sweep import shrunk
from experiments import dynamic_weighting
from experiments.dynamic_weighting import HIGHER, MAIN, METHODS, TEACHER, experiment, methods, student
from losses import Distill, Evidence, Motion
from models.config import tiny as shrink

SEED = 100
RATES = (4e-3, 8e-3, 1.6e-2, 3.2e-2)
EDGE = 6.4e-2
"""a rate for those that do best at the highest of RATES"""
KAPPAS = (0.015, 0.03, 0.06)
OPENINGS = (-2.0, -1.0, 0.0, 1.0)
"""b: the margin is -b kappa"""
GATED = (*MAIN, "mixed-noise", "errors-shared")
"""conditions in which the gate's forms are compared"""
COSTS = {"cost0": 0.0, "cost_half": 0.5, "cost2": 2.0, "cost4": 4.0}
"""of the teacher's motion"""


def prepare(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """Teachers of a seed that is not reported."""
    yield from (replace(one, seed=SEED) for one in dynamic_weighting.prepare(folder, tiny))


def sweep(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """Every main condition at each rate, and five with each form of the gate."""
    teacher = replace(TEACHER, model=shrink(TEACHER.model)) if tiny else TEACHER
    gates = {
        f"kappa{1000 * kappa:.0f}_b{b:.0f}": Distill(gate=Evidence(kappa=kappa, margin=-b * kappa))
        for kappa in KAPPAS
        for b in OPENINGS
    }
    gates |= {name: Distill(gate=Evidence(trust=Motion(cost=cost))) for name, cost in COSTS.items()}
    wider = {f"kappa{1000 * kappa:.0f}_b2": Distill(gate=Evidence(kappa=kappa, margin=-2 * kappa)) for kappa in KAPPAS}

    def at(name: str, condition: str, students: Iterator[Learner]) -> Experiment:
        made = experiment(condition, students, folder, teacher, "choose")
        return replace(made, name=f"{condition}-{name}", seed=SEED)

    def of(losses: dict[str, Distill], rate: float) -> Iterator[Learner]:
        return (student(method, loss, "scout", rate) for method, loss in losses.items())

    made = [at(f"rate{rate}", name, of(methods(name), rate)) for rate in RATES for name in MAIN]
    made += [at(f"rate{EDGE}", name, of({one: METHODS[one] for one in HIGHER}, EDGE)) for name in MAIN]
    made += [at("gate", name, of(gates, dynamic_weighting.RATE)) for name in GATED]
    made += [at("margins", name, of(wider, dynamic_weighting.RATE)) for name in GATED]
    yield from shrunk(iter(made), tiny)


def best(rows: Sequence[dict[str, Any]]) -> dict[str, list[tuple[str, float]]]:
    """Of every method at each rate, and of the gate in each form, the mean held-out cross-entropy over conditions.

    Args:
      rows: of trials.jsonl. Only conditions in which all settings of a method were run count; the best comes first.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        condition, _, setting = row["trial"].rpartition("-")
        method, key = ("gate", row["name"]) if setting in ("gate", "margins") else (row["name"], setting)
        if row["name"] != TEACHER.name:
            found.setdefault(method, {}).setdefault(key, {})[condition] = row["cross_entropy"]
    means = {}
    for method, settings in found.items():
        common = set.intersection(*(set(values) for values in settings.values()))
        if common:
            each = {key: fmean(values[name] for name in common) for key, values in settings.items()}
            means[method] = sorted(each.items(), key=lambda pair: pair[1])
    return means


if __name__ == "__main__":
    lines = Path("runs/weighting_rates/trials.jsonl").read_text().splitlines()
    for method, settings in best([json.loads(line) for line in lines]).items():
        print(f"{method:20} " + "  ".join(f"{key} {value:.4f}" for key, value in settings))
