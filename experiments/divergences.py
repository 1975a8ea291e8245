"""Which divergence from the teacher suits a student that learns from random weights?

One teacher, one pass of it a batch; students from the same initial weights, on the same batches, each with another
divergence and no labels. Rates were chosen by experiments/divergence_rates.py, on another seed and other held-out text,
for every divergence apart.

    python -m distill.sweep experiments/divergences.py --seeds 3 --against forward    # experiments/README.md
    python -m distill.sweep experiments/divergences.py --tiny --against forward

Cost and result: experiments/README.md.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from distill import AdamW, Experiment, Learner, Stage, Trained, WarmupCosine
from distill.sweep import shrunk
from experiments.herd import BEHEMOTH, SCOUT
from experiments.weighting_data import Languages, Part
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
RATES = {
    "forward": 0.012,
    "reverse": 0.012,
    "jensen-shannon": 0.024,
    "skew": 0.012,
    "skew-reverse": 0.012,
    "alpha-beta": 0.024,
    "total-variation": 0.012,
    "adaptive": 0.024,
    "todi": 0.012,
}
"""peak learning rate of every student"""


def student(name: str, rate: float) -> Learner:
    """Drawn like all the others; the teacher's word alone."""
    loss = Distill(soft=DIVERGENCES[name], gate=NoGate())
    return replace(SCOUT, name=name, twin="scout", loss=loss, optimizer=AdamW(rate=WarmupCosine(peak=rate)))


def experiment(name: str, rates: Mapping[str, float], folder: Path, part: Part) -> Experiment:
    """All students side by side; the held-out text is one half of it."""
    teacher = Trained(name="behemoth", run=str(folder / "teacher"), stage="teach", learner="behemoth")
    learners = tuple(student(divergence, rate) for divergence, rate in rates.items())
    distil = Stage(name="distil", learners=learners, teacher="behemoth", steps=150, stream=1)
    return Experiment(name=name, stages=(distil,), given=(teacher,), corpus=Languages(part=part))


def prepare(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """The teacher."""
    teach = Stage(name="teach", learners=(BEHEMOTH,), steps=800)
    yield from shrunk(iter([Experiment(name="teacher", stages=(teach,), corpus=Languages())]), tiny)


def sweep(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """Every divergence at its rate."""
    yield from shrunk(iter([experiment("divergences", RATES, folder, "report")]), tiny)
