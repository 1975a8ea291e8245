"""Does a learning rate that was tuned at pico hold at nano and at mini? `experiments.transfer`, for an accelerator.

    python -m distill.sweep experiments/transfer_mini.py --workers 1
    python -m experiments.transfer_results --run runs/transfer_mini --table mini.csv --figure mini.png

Width and depth grow together here, and mini has other head channels, which no rate makes up for. All sizes read bytes,
so that their losses compare. Not run yet: experiments/README.md.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from distill import AdamW, Experiment, Learner, Stage, Trained, WarmupCosine
from distill.sweep import shrunk
from experiments.transfer import ARMS, RATES, TUNED
from models.config import BEHEMOTH_NANO, SCOUT_MINI, SCOUT_NANO, SCOUT_PICO
from models.llama4 import Execution

FAMILY = tuple(replace(one, vocab=272, chunk=64, experts=16) for one in (SCOUT_PICO, SCOUT_NANO, SCOUT_MINI))
TEACHER = Learner(
    name="behemoth", model=replace(BEHEMOTH_NANO, vocab=272), optimizer=AdamW(rate=WarmupCosine(peak=1e-3, warmup=0.05))
)


def learners(arm: str, rate: float) -> tuple[Learner, ...]:
    """Every size at one rate; the tuned one with the plain arm alone."""
    sizes = FAMILY if arm == "plain" else FAMILY[1:]
    optimizer = AdamW(rate=WarmupCosine(peak=rate), scaling=ARMS[arm])
    return tuple(Learner(name=f"{one.width}x{one.layers}", model=one, optimizer=optimizer) for one in sizes)


def prepare(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """The teacher."""
    teach = Stage(name="teach", learners=(TEACHER,), steps=2000, rows=32, length=256)
    yield from shrunk(iter([Experiment(name="teacher", stages=(teach,))]), tiny)


def sweep(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """Both arms at every rate, from labels and from the teacher."""
    assert (TUNED.width, TUNED.layers) == (FAMILY[0].width, FAMILY[0].layers)
    teacher = Trained(name="behemoth", run=str(folder / "teacher"), stage="teach", learner="behemoth")

    def experiment(arm: str, rate: float) -> Experiment:
        common = {"learners": learners(arm, rate), "steps": 600, "rows": 32, "length": 256, "stream": 1}
        stages = (Stage(name="hard", **common), Stage(name="distilled", teacher="behemoth", **common))
        return Experiment(
            name=f"family-{arm}-{1e3 * rate:g}", stages=stages, given=(teacher,), execution=Execution(dtype="bfloat16")
        )

    yield from shrunk((experiment(arm, rate) for rate in RATES for arm in ARMS), tiny)
