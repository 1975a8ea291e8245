"""Does a learning rate that was tuned at one width and depth hold at others?

Scouts of three widths and of three depths at every rate, from the labels and from a teacher that all share, with AdamW
as it stands and with rates that go with the size of the model (`distill.scaling.MaximalUpdate`). At the width and depth
where rates are tuned both are the same, bit for bit, so that they are run once.

    python -m distill.sweep experiments/transfer.py --workers 1
    python -m experiments.transfer_results --run runs/transfer      # tables and docs/transfer.png

Cost and result: experiments/README.md. For an accelerator, up to the mini family: experiments/transfer_mini.py.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from distill import AdamW, Experiment, Learner, MaximalUpdate, Stage, Trained, WarmupCosine
from distill.sweep import shrunk
from experiments.herd import BEHEMOTH
from models.config import SCOUT_PICO, Config, interleave

WIDTHS, DEPTHS, RATES = (64, 128, 256), (4, 8, 16), (3e-3, 6e-3, 1.2e-2, 2.4e-2, 4.8e-2)
TUNED = MaximalUpdate(width=64, layers=4)
ARMS = {"plain": None, "scaled": TUNED}


def scout(width: int, layers: int) -> Config:
    """A Scout with the ratios and the head channels of its family; for time, a shorter pattern and fewer experts."""
    return replace(
        SCOUT_PICO, width=width, layers=layers, heads=width // 16, expert_width=13 * width // 8,
        dense_width=13 * width // 4, experts=4, pattern=interleave(nope=2, moe=1),
    )  # fmt: skip


def learner(width: int, layers: int, rate: float, scaling: MaximalUpdate | None) -> Learner:
    """A Scout at this rate; named by its size, so that it is drawn alike at every rate and in every arm."""
    optimizer = AdamW(rate=WarmupCosine(peak=rate), scaling=scaling)
    return Learner(name=f"{width}x{layers}", model=scout(width, layers), optimizer=optimizer)


def learners(kind: str, arm: str, rate: float) -> tuple[Learner, ...]:
    """Every width, or every depth, at one rate; the tuned size but once, with the widths of the plain arm."""
    sizes = [(width, 4) for width in WIDTHS] if kind == "width" else [(64, layers) for layers in DEPTHS]
    known = [] if (kind, arm) == ("width", "plain") else [(TUNED.width, TUNED.layers)]
    return tuple(learner(*size, rate, ARMS[arm]) for size in sizes if size not in known)


def experiment(kind: str, arm: str, rate: float, folder: Path) -> Experiment:
    """The learners of a rate, side by side; the depths from labels alone, for time."""
    teacher = Trained(name="behemoth", run=str(folder / "teacher"), stage="teach", learner="behemoth")
    common = {"learners": learners(kind, arm, rate), "steps": 150, "length": 64, "stream": 1, "save_every": 150}
    stages = (Stage(name="hard", **common), Stage(name="distilled", teacher="behemoth", **common))
    name = f"{kind}-{arm}-{1e3 * rate:g}"
    return Experiment(name=name, stages=stages if kind == "width" else stages[:1], given=(teacher,), held_out=32)


def prepare(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """The teacher."""
    teach = Stage(name="teach", learners=(BEHEMOTH,), steps=600, save_every=600)
    yield from shrunk(iter([Experiment(name="teacher", stages=(teach,))]), tiny)


def sweep(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """Both arms at every rate, widths first."""
    kinds = [(kind, arm, rate) for kind in ("width", "depth") for rate in RATES for arm in ARMS]
    yield from shrunk((experiment(*one, folder) for one in kinds), tiny)
