"""Do mixture-of-experts students learn more from a mixture-of-experts teacher than from the text alone?

A small Behemoth-style teacher is trained on real text, then a Scout-style and a Maverick-style student learn from one
teacher pass per batch, each weighing soft against hard targets by itself; their twins (same initial weights, same
batches, same optimizer) learn from the labels alone.

    make herd                                   # this file, seed 0
    python experiments/herd.py --seeds 3        # the table in experiments/README.md, with paired 95 % intervals
    python experiments/herd.py --tiny           # the same in a minute

Cost: see experiments/README.md, which also has the result.
"""

from distill import AdamW, Experiment, Learner, Stage, WarmupCosine, launch
from models.config import BEHEMOTH_PICO, MAVERICK_PICO, SCOUT_PICO

BEHEMOTH = Learner(name="behemoth", model=BEHEMOTH_PICO, optimizer=AdamW(rate=WarmupCosine(peak=2e-3, warmup=0.05)))
SCOUT = Learner(name="scout", model=SCOUT_PICO, optimizer=AdamW(rate=WarmupCosine(peak=6e-3)))
MAVERICK = Learner(name="maverick", model=MAVERICK_PICO, optimizer=AdamW(rate=WarmupCosine(peak=6e-3)))

EXPERIMENT = Experiment(
    name="herd",
    stages=(
        Stage(name="teach", learners=(BEHEMOTH,), steps=800),
        Stage(name="distil", learners=(SCOUT, MAVERICK), teacher="behemoth", steps=300, stream=1),
        Stage(name="alone", learners=(SCOUT, MAVERICK), steps=300, stream=1),
    ),
    compare=("distil", "alone"),
)

if __name__ == "__main__":
    launch(EXPERIMENT)
