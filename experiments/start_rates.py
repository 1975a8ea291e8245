"""Learning rates for `experiments.starts`, chosen on another seed and another half of the held-out text.

    python -m experiments.start_rates

Prints the best rate of every student, which goes into RATES there. Cost and result: experiments/README.md.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace

from distill import launch, load_run
from distill.launch import parse
from experiments.starts import EXPERIMENT, TEACH, students
from experiments.weighting_data import Languages

TRIED = {"low": 1.5e-3, "middle": 3e-3, "high": 6e-3, "higher": 1.2e-2}
NAMES = [stage.name for stage in students({})]
STUDENTS = {name: students(dict.fromkeys(NAMES, rate), f"-{name}") for name, rate in TRIED.items()}
CHOICE = replace(
    EXPERIMENT,
    name="start_rates",
    corpus=Languages(part="choose"),
    stages=(TEACH, *(stage for stages in STUDENTS.values() for stage in stages)),
    seed=100,
)


def main(arguments: Sequence[str]) -> None:
    """Trains everybody at every rate, and says which was best for whom."""
    launch(CHOICE, arguments)
    found = {row["stage"]: row["cross_entropy"] for row in load_run(parse(CHOICE, arguments).folder).results["models"]}
    for name in NAMES:
        tried = {rate: found[f"{name}-{which}"] for which, rate in TRIED.items()}
        values = ", ".join(f"{rate:g}: {value:.4f}" for rate, value in tried.items())
        print(f'"{name}": {min(tried, key=tried.__getitem__):g},  # {values}')


if __name__ == "__main__":
    main(sys.argv[1:])
