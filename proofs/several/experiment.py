"""The experiment that several processes run: a teacher, and a student whose batches are cut and filled by readers."""

from dataclasses import replace

from distill import AdamW, Experiment, Learner, Stage, WarmupCosine, launch
from models.config import SCOUT_PICO, Layer, tiny

MODEL = replace(tiny(SCOUT_PICO), pattern=(Layer(rope=True, moe=True), Layer(rope=False, moe=False)), layers=2)
RATE = AdamW(rate=WarmupCosine(peak=5e-3))
EXPERIMENT = Experiment(
    name="processes",
    stages=(
        Stage(
            name="teach",
            learners=(Learner(name="teacher", model=replace(MODEL, width=64), optimizer=RATE),),
            steps=10, rows=8, length=32, log_every=1, save_every=5,
        ),
        Stage(
            name="distil",
            learners=(Learner(name="student", model=MODEL, optimizer=RATE),),
            teacher="teacher", steps=60, rows=16, accumulate=2, readers=4, length=32, stream=1, log_every=1,
            save_every=10,
        ),
    ),
    held_out=2,
    glance=1,
)  # fmt: skip
"""its second stage cuts batches into micro-batches, which four readers fill"""

if __name__ == "__main__":
    launch(EXPERIMENT)
