"""Which learning rate suits the students of the herd, with their teacher and without?

The baseline deserves the tuning that ours gets: one teacher, then both students at every rate on both sides, from the
same initial weights, on the same batches.

    python -m experiments.rates

Cost and result: experiments/README.md.
"""

from dataclasses import replace

from distill import AdamW, Experiment, Learner, Stage, WarmupCosine, launch
from experiments.herd import BEHEMOTH, MAVERICK, SCOUT

RATES = {"low": 3e-3, "middle": 6e-3, "high": 1.2e-2, "higher": 2.4e-2}


def at(rate: float) -> tuple[Learner, ...]:
    """The students with this peak rate."""
    return tuple(replace(one, optimizer=AdamW(rate=WarmupCosine(peak=rate))) for one in (SCOUT, MAVERICK))


EXPERIMENT = Experiment(
    name="rates",
    stages=(
        Stage(name="teach", learners=(BEHEMOTH,), steps=800),
        *(
            Stage(name=f"distil-{name}", learners=at(rate), teacher="behemoth", steps=300, stream=1)
            for name, rate in RATES.items()
        ),
        *(Stage(name=f"alone-{name}", learners=at(rate), steps=300, stream=1) for name, rate in RATES.items()),
    ),
)

if __name__ == "__main__":
    launch(EXPERIMENT)
