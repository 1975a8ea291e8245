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
from experiments.transfer import ARMS, RATES, TUNED, Dialled
from models.config import BEHEMOTH_NANO, SCOUT_MINI, SCOUT_NANO, SCOUT_PICO, Config
from models.llama4 import Execution

FAMILY = tuple(replace(one, vocab=272, chunk=64) for one in (SCOUT_PICO, SCOUT_NANO, SCOUT_MINI))
TEACHER = Learner(
    name="behemoth", model=replace(BEHEMOTH_NANO, vocab=272), optimizer=AdamW(rate=WarmupCosine(peak=1e-3, warmup=0.05))
)


def trials() -> Iterator[tuple[str, Config]]:
    """Arm and size: the tuned size in the plain arm alone."""
    for model in FAMILY:
        new = (model.width, model.layers) != (TUNED.width, TUNED.layers)
        yield from ((arm, model) for arm in ARMS if new or arm == "plain")


def experiment(arm: str, model: Config, folder: Path) -> Experiment:
    """A model at every rate, a stage each, from the labels and from the teacher."""
    teacher = Trained(name="behemoth", run=str(folder / "teacher"), stage="teach", learner="behemoth")
    name = f"{model.width}x{model.layers}"

    def stage(loss: str, rate: float) -> Stage:
        optimizer = Dialled(AdamW(rate=WarmupCosine(peak=1.0), scaling=ARMS[arm]), rate)
        return Stage(
            name=f"{loss}-{1e3 * rate:g}", learners=(Learner(name=name, model=model, optimizer=optimizer),),
            teacher="behemoth" if loss == "distilled" else None, steps=600, rows=32, length=256, stream=1,
        )  # fmt: skip

    stages = tuple(stage(loss, rate) for loss in ("hard", "distilled") for rate in RATES)
    execution = Execution(dtype="bfloat16")
    return Experiment(name=f"family-{arm}-{name}", stages=stages, given=(teacher,), execution=execution)


def prepare(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """The teacher."""
    teach = Stage(name="teach", learners=(TEACHER,), steps=2000, rows=32, length=256)
    yield from shrunk(iter([Experiment(name="teacher", stages=(teach,))]), tiny)


def sweep(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """Every size in both arms."""
    yield from shrunk((experiment(*one, folder) for one in trials()), tiny)
