"""Which divergence from the teacher suits a student that learns from random weights?

One teacher, one pass of it a batch; students from the same initial weights, on the same batches, each with another
divergence and no labels.

    python -m distill.sweep experiments/divergences.py --seeds 3 --against forward    # experiments/README.md
    python -m distill.sweep experiments/divergences.py --tiny --against forward

The learning rate is that of the herd for all; a divergence of smaller gradient would like a higher one (`experiments.
rates` shows how to look). Cost and result: experiments/README.md.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from distill import Experiment, Stage, Trained
from distill.sweep import shrunk
from experiments.herd import BEHEMOTH, SCOUT
from losses import (
    AdaptiveKL,
    AlphaBeta,
    Distill,
    ForwardKL,
    JensenShannon,
    NoGate,
    ReverseKL,
    SkewKL,
    SkewReverseKL,
    ToDi,
    TotalVariation,
)

DIVERGENCES = {
    "forward": ForwardKL(), "reverse": ReverseKL(), "jensen-shannon": JensenShannon(normalise=True),
    "skew": SkewKL(), "skew-reverse": SkewReverseKL(), "alpha-beta": AlphaBeta(), "total-variation": TotalVariation(),
    "adaptive": AdaptiveKL(), "todi": ToDi(),
}  # fmt: skip
STUDENTS = tuple(
    replace(SCOUT, name=name, twin="scout", loss=Distill(soft=divergence, gate=NoGate()))
    for name, divergence in DIVERGENCES.items()
)


def prepare(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """The teacher."""
    teach = Stage(name="teach", learners=(BEHEMOTH,), steps=800)
    yield from shrunk(iter([Experiment(name="teacher", stages=(teach,))]), tiny)


def sweep(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """All students side by side."""
    teacher = Trained(name="behemoth", run=str(folder / "teacher"), stage="teach", learner="behemoth")
    distil = Stage(name="distil", learners=STUDENTS, teacher="behemoth", steps=150, stream=1)
    yield from shrunk(iter([Experiment(name="divergences", stages=(distil,), given=(teacher,))]), tiny)
