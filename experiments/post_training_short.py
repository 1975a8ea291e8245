"""The course of experiments/post_training.py in two minutes: the second half of `make herd`.

A student begins on right answers, keeps the half of the questions that it finds hard, is fine-tuned on them under
system prompts, rewarded, and taught what to prefer. No teacher and no controls: experiments/post_training.py has them.

    python -m experiments.post_training_short
"""

from dataclasses import replace

from distill import Experiment, launch
from distill.tasks.exam import Exam
from distill.tasks.examination import Examination
from distill.tasks.source import Questions
from experiments.post_training import ASKED, FEW, HARD, MANY, PREFER, SYSTEMS, lesson, rewarded, student

EXPERIMENT = Experiment(
    name="post_training_short",
    corpus=Questions(MANY, SYSTEMS),
    stages=(
        lesson(student("pretrained", None, 6e-3), 200, corpus=Questions(MANY)),
        lesson(student("tuned", "pretrained", 6e-3), 100, corpus=ASKED, selection=HARD),
        rewarded("rewarded", "tuned", 50),
        replace(PREFER, steps=20),
    ),
    examination=Examination(questions=Questions(FEW, SYSTEMS), exam=Exam(attempts=4, slots=256), k=4),
    contrasts=(("rewarded", "tuned"), ("preferred", "rewarded")),
    held_out=8,
    glance=1,
)

if __name__ == "__main__":
    launch(EXPERIMENT)
