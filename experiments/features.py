"""Does likeness of a student's layers to its teacher's help, beside the teacher's word?

Students of half the teacher's width learn from one teacher pass, from the same initial weights and on the same batches:
by its word alone (off), with a hidden-state term of two distances (squared, angle), and with one that asks for the
teacher's routing (routers). `scout` is as deep as its teacher and has as many experts; `shallow` is half as deep, so
that its routers cannot be compared. Weights and rates were chosen by experiments/features_rates.py, on another seed and
other held-out text.

    python -m distill.sweep experiments/features.py --seeds 3 --against off
    python -m distill.sweep experiments/features.py --tiny

Cost and result: experiments/README.md.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from distill import AdamW, Experiment, Learner, Stage, Trained, WarmupCosine
from distill.sweep import shrunk
from experiments.weighting_data import Languages, Part
from losses import Angle, Constant, Hidden, RouterMatch
from models.config import BEHEMOTH_PICO, SCOUT_PICO, Config
from models.config import tiny as shrink

KINDS = {"scout": SCOUT_PICO, "shallow": replace(SCOUT_PICO, layers=2, pattern=SCOUT_PICO.pattern[2:])}
"""a rotary layer and one without positions are half of iRoPE's period"""
TEACHER = Learner(name="teacher", model=BEHEMOTH_PICO, optimizer=AdamW(rate=WarmupCosine(peak=2e-3, warmup=0.05)))
TEACH = Stage(name="teach", learners=(TEACHER,), steps=400, rows=16, length=64)
LEARN = Stage(name="learn", learners=(), teacher="teacher", steps=150, rows=16, length=64, stream=1)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is asked beside the loss, how much of it, and the student's peak learning rate."""

    kind: str
    weight: float = 0.0
    rate: float = 1.2e-2

    def terms(self) -> dict[str, Hidden | RouterMatch]:
        """The learner's fields."""
        weight = Constant(self.weight)
        return {
            "off": {},
            "squared": {"features": Hidden(weight=weight)},
            "angle": {"features": Hidden(weight=weight, distance=Angle())},
            "routers": {"routing": RouterMatch(weight=weight)},
        }[self.kind]


ARMS = (
    Arm(kind="off", rate=2.4e-2),
    Arm(kind="squared", weight=30.0, rate=4.8e-2),
    Arm(kind="angle", weight=30.0, rate=2.4e-2),
    Arm(kind="routers", weight=30.0, rate=2.4e-2),
)


def student(name: str, arm: Arm, model: Config) -> Learner:
    """Drawn like all the others."""
    rate = AdamW(rate=WarmupCosine(peak=arm.rate))
    return replace(Learner(name=name, twin="student", model=model, optimizer=rate), **arm.terms())


def experiment(name: str, students: Iterable[Learner], folder: Path, part: Part) -> Experiment:
    """The students side by side; the held-out text is one half of it."""
    given = Trained(name="teacher", run=str(folder / "teacher"), stage="teach", learner="teacher")
    stage = replace(LEARN, learners=tuple(students))
    return Experiment(name=name, stages=(stage,), given=(given,), corpus=Languages(part=part), held_out=32)


def prepare(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """The teacher."""
    yield from shrunk(iter([Experiment(name="teacher", stages=(TEACH,), corpus=Languages())]), tiny)


def sweep(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """Every arm with both students; where the routers cannot be compared, without that one."""
    for kind, whole in KINDS.items():
        model = shrink(whole) if tiny else whole
        arms = [arm for arm in ARMS if kind == "scout" or arm.kind != "routers"]
        made = experiment(kind, (student(arm.kind, arm, model) for arm in arms), folder, "report")
        yield from shrunk(iter([made]), tiny)
