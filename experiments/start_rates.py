"""Learning rates for `experiments.starts`, chosen on another seed and another half of the held-out text.

    python -m distill.sweep experiments/start_rates.py
    python -m experiments.start_rates runs/start_rates

Prints the best rate of every student, which goes into RATES there. Cost and result: experiments/README.md.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from distill import Experiment, load_run
from distill.sweep import shrunk
from experiments.starts import RATES, experiment

SEED = 100
TRIED = (7.5e-4, 1.5e-3, 3e-3, 6e-3, 1.2e-2, 2.4e-2)


def sweep(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """Everybody at one rate, an experiment a rate; each trains the same teacher first."""
    made = (experiment(f"rate{1e3 * rate:g}", dict.fromkeys(RATES, rate), "choose") for rate in TRIED)
    yield from shrunk((replace(one, seed=SEED) for one in made), tiny)


def report(folder: Path) -> None:
    """Says which rate was best for whom."""
    runs = {rate: load_run(folder / "seed0" / f"rate{1e3 * rate:g}").results["models"] for rate in TRIED}
    found = {rate: {row["stage"]: row["cross_entropy"] for row in rows} for rate, rows in runs.items()}
    for name in RATES:
        tried = {rate: found[rate][name] for rate in TRIED}
        values = ", ".join(f"{rate:g}: {value:.4f}" for rate, value in tried.items())
        print(f'"{name}": {min(tried, key=tried.__getitem__):g},  # {values}')


if __name__ == "__main__":
    import tyro

    tyro.cli(report, config=(tyro.conf.PositionalRequiredArgs,))
