"""Which divergence from the teacher suits a student that learns from random weights?

One teacher; students from the same initial weights, on the same batches, each with another divergence and no labels.

    python -m experiments.divergences --seeds 3      # the table in experiments/README.md
    python -m experiments.divergences --tiny

The learning rate is that of the herd for all; a divergence of smaller gradient would like a higher one (`experiments.
rates` shows how to look). Cost and result: experiments/README.md.
"""

from dataclasses import replace

from distill import Experiment, Stage, launch
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
EXPERIMENT = Experiment(
    name="divergences",
    stages=(
        Stage(name="teach", learners=(BEHEMOTH,), steps=800),
        *(
            Stage(
                name=name,
                learners=(replace(SCOUT, loss=Distill(soft=divergence, gate=NoGate())),),
                teacher="behemoth",
                steps=300,
                stream=1,
            )
            for name, divergence in DIVERGENCES.items()
        ),
    ),
    compare=("skew-reverse", "forward"),
)

if __name__ == "__main__":
    launch(EXPERIMENT)
