"""What is left to gain after pre-training, and by what: light fine-tuning, reinforcement learning, preferences?

The course of Llama 4's students on a small scale: a student is pre-trained beside a larger teacher, the questions that
it finds easy are dropped, it is fine-tuned on the rest under system prompts that change what is right, rewarded for
right answers to questions of rising difficulty while it draws them (asynchronously), and at last taught to prefer its
own right answers to its own wrong ones. Beside it, from the same fine-tuned student, go the controls: as many steps
more on right answers, and the teacher's word on the student's own answers. And where a third of the demonstrations are
wrong: rewards against more of the same.

    python -m experiments.post_training --seeds 3
    python -m experiments.post_training --tiny

Cost and result: experiments/README.md.
"""

from dataclasses import replace

from distill import (
    AdamW,
    Experiment,
    Learner,
    OnPolicy,
    Preference,
    Reinforcement,
    Selection,
    Stage,
    WarmupCosine,
    launch,
)
from distill.curriculum.filter import DropEasiest
from distill.curriculum.sampler import Target
from distill.tasks.exam import Exam
from distill.tasks.examination import Examination
from distill.tasks.small import Small
from distill.tasks.source import Questions
from distill.tasks.system import BRACKETED, PLAIN
from experiments.on_policy import WIDE
from losses import Constant, Distill, Loss, NoGate, ReverseKL

STUDENT, LARGER = replace(WIDE, width=64, dense_width=176), replace(WIDE, width=96, dense_width=264)
SYSTEMS = (PLAIN, BRACKETED)
MANY, FEW = Small(train=4000), Small(train=800)
NOISE = 0.36
"""of the answers are given an error; some errors change nothing, and a third is wrong"""

LABELS = Distill(alpha=Constant(0.0), gate=NoGate())
OWN = Distill(soft=ReverseKL(), gate=NoGate())
"""the teacher's word alone, on the student's own answers"""


def student(name: str, start: str | None, peak: float, loss: Loss = LABELS, warmup: float = 0.05) -> Learner:
    """The student at a stage of its course."""
    optimizer = AdamW(rate=WarmupCosine(peak=peak, warmup=warmup))
    return Learner(name=name, model=STUDENT, start=start, loss=loss, optimizer=optimizer)


def lesson(one: Learner, steps: int, rows: int = 128, **changes) -> Stage:
    """A stage of rows of questions with their answers, of the name of its learner."""
    return Stage(name=one.name, learners=(one,), steps=steps, rows=rows, length=24, save_every=steps, **changes)


def rewarded(name: str, start: str, steps: int) -> Reinforcement:
    """A stage of rewards for right answers, of the name of its learner; it asks what it gets right half of the time.

    The rate rises slowly: a new optimizer's first steps are as long as later ones, and of little but noise. With 5 % of
    the steps in place of 30 % answers became worse before they became better.
    """
    one = student(name, start, 1e-3, warmup=0.3)
    return Reinforcement(
        name=name, learner=one, steps=steps, groups=64, questions=FEW, systems=SYSTEMS, sampler=Target(), save_every=25
    )


TEACHER = Learner(name="teacher", model=LARGER, loss=LABELS, optimizer=AdamW(rate=WarmupCosine(peak=4e-3)))
ASKED, WRONG = Questions(FEW, SYSTEMS), Questions(FEW, SYSTEMS, noisy=NOISE)
PREFER = Preference(
    name="preferred", learner=student("preferred", "rewarded", 1e-4), journal="rewarded", steps=40, rows=64
)
HARD = Selection(by="pretrained", rule=DropEasiest(share=0.5), attempts=4)

EXPERIMENT = Experiment(
    name="post_training",
    corpus=Questions(MANY, SYSTEMS),
    stages=(
        lesson(TEACHER, 800),
        lesson(student("pretrained", None, 6e-3, Distill()), 300, teacher="teacher", corpus=Questions(MANY)),
        lesson(student("tuned", "pretrained", 6e-3), 150, corpus=ASKED, selection=HARD),
        rewarded("rewarded", "tuned", 100),
        PREFER,
        lesson(student("gold", "tuned", 1e-2), 100, 512, corpus=ASKED),
        lesson(student("judged", "tuned", 6e-3, OWN), 100, 512, corpus=ASKED, teacher="teacher", rollout=OnPolicy()),
        lesson(student("misled", "pretrained", 6e-3), 150, corpus=WRONG),
        rewarded("misled-rewarded", "misled", 60),
        lesson(student("misled-again", "misled", 6e-3), 60, 512, corpus=WRONG),
    ),
    examination=Examination(questions=Questions(FEW, SYSTEMS), exam=Exam(attempts=16, slots=256)),
    contrasts=(
        ("rewarded", "tuned"),
        ("preferred", "rewarded"),
        ("gold", "rewarded"),
        ("judged", "rewarded"),
        ("misled-rewarded", "misled-again"),
    ),
    held_out=8,
    glance=1,
)

if __name__ == "__main__":
    launch(EXPERIMENT)
