"""Learning rates for `experiments.divergences`, chosen on another seed and another half of the held-out text.

    python -m distill.sweep experiments/divergence_rates.py
    python -m experiments.divergence_rates runs/divergence_rates

Prints the best rate of every divergence, which goes into RATES there. Cost and result: experiments/README.md.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from distill import Experiment, load_run
from distill.sweep import shrunk
from experiments import divergences
from experiments.divergences import RATES, experiment

SEED = 100
TRIED = (3e-3, 6e-3, 1.2e-2, 2.4e-2, 4.8e-2, 9.6e-2)


def prepare(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """A teacher of a seed that is not reported."""
    yield from (replace(one, seed=SEED) for one in divergences.prepare(folder, tiny))


def sweep(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """Every divergence at one rate, an experiment a rate."""
    made = (experiment(f"rate{1e3 * rate:g}", dict.fromkeys(RATES, rate), folder, "choose") for rate in TRIED)
    yield from shrunk((replace(one, seed=SEED) for one in made), tiny)


def report(folder: Path) -> None:
    """Says which rate was best for which divergence."""
    runs = {rate: load_run(folder / "seed0" / f"rate{1e3 * rate:g}").results["models"] for rate in TRIED}
    found = {rate: {row["name"]: row["cross_entropy"] for row in rows} for rate, rows in runs.items()}
    for name in RATES:
        tried = {rate: found[rate][name] for rate in TRIED}
        values = ", ".join(f"{rate:g}: {value:.4f}" for rate, value in tried.items())
        print(f'"{name}": {min(tried, key=tried.__getitem__):g},  # {values}')


if __name__ == "__main__":
    import tyro

    tyro.cli(report, config=(tyro.conf.PositionalRequiredArgs,))
