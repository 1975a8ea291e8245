"""Which weight should a teacher's word have, and does one rule do everywhere?

Conditions differ in what the teacher knows, in whether labels lie, and in whether it is still learning; in each of them
one small student per method learns from the same initial weights, the same batches and one teacher pass. See CONDITIONS
and METHODS below. Where soft and hard targets conflict, is the default at or near the best?

    python -m distill.sweep experiments/dynamic_weighting.py --seeds 5 --against hard
    python -m distill.sweep experiments/dynamic_weighting.py --tiny

Cost and result: experiments/README.md.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import jax.numpy as jnp

from distill import AdamW, Experiment, Learner, Stage, Trained, WarmupCosine
from distill.sweep import shrunk
from experiments.weighting_data import Languages, Mix, Noise, Part
from losses import (
    WSD,
    WSLD,
    Balance,
    Batch,
    Constant,
    Distill,
    Domain,
    Evidence,
    Gap,
    Gate,
    Linear,
    LogScore,
    Motion,
    NoGate,
    PutRight,
    Segment,
    Sequence,
    TeacherConfidence,
    TeacherGold,
    Token,
    Window,
)
from models.config import BEHEMOTH_PICO, MAVERICK_PICO, SCOUT_PICO, Layer
from models.config import tiny as shrink

SHALLOW = {"layers": 2, "expert_width": 80, "dense_width": 160}
KINDS = {
    "scout": replace(SCOUT_PICO, **SHALLOW, pattern=(Layer(rope=True, moe=True), Layer(rope=False, moe=True))),
    "maverick": replace(MAVERICK_PICO, **SHALLOW, pattern=(Layer(rope=True, moe=False), Layer(rope=False, moe=True))),
}
TEACHER = Learner(name="teacher", model=BEHEMOTH_PICO, optimizer=AdamW(rate=WarmupCosine(peak=2e-3, warmup=0.05)))


@dataclass(frozen=True)
class Oracle(Gate):
    """Knows which language the teacher knows: its number among the domains."""

    domain: int = 1

    def __call__(self, look, place):
        """One there, zero elsewhere."""
        return (place.domains == self.domain).astype(jnp.float32)


METHODS = {
    "hard": Distill(alpha=Constant(0.0), gate=NoGate()),
    "fixed-25": Distill(alpha=Constant(0.25), gate=NoGate()),
    "fixed-50": Distill(alpha=Constant(0.5), gate=NoGate()),
    "fixed-75": Distill(alpha=Constant(0.75), gate=NoGate()),
    "soft": Distill(gate=NoGate()),
    "linear": Distill(alpha=Linear(), gate=NoGate()),
    "wsd": Distill(alpha=WSD(), gate=NoGate()),
    "gold": Distill(gate=TeacherGold()),
    "confidence": Distill(gate=TeacherConfidence(vocab=272)),
    "wsld": Distill(gate=WSLD()),
    "gap": Distill(gate=Gap()),
    "balance": Distill(gate=Balance()),
    "corrected": Distill(gate=NoGate(), lens=PutRight()),
    "evidence": Distill(),
    "evidence-wsd": Distill(alpha=WSD()),
    "evidence-window": Distill(gate=Evidence(scope=Window())),
    "evidence-sequence": Distill(gate=Evidence(scope=Sequence())),
    "evidence-domain": Distill(gate=Evidence(scope=Domain())),
    "evidence-still": Distill(gate=Evidence(trust=Motion(cost=0.0))),
}
FORMS = {name: METHODS[name] for name in ("hard", "evidence")} | {
    "evidence-segment": Distill(gate=Evidence(scope=Segment())),
    "evidence-batch": Distill(gate=Evidence(scope=Batch())),
    "evidence-token": Distill(gate=Evidence(scope=Token())),
    "evidence-log": Distill(gate=Evidence(score=LogScore(), kappa=0.2, margin=-0.2)),
}
"""what else the gate might be, in the main conditions"""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What the student reads, and who teaches it.

    Attributes:
      mix: of languages, in the student's text.
      noise: in the student's labels.
      teacher: `plain` knows the plain language, `errors` was trained on the same wrong labels, `weak` stopped early;
        `live` learns beside its students from nothing, `warm` goes on from where the weak one stopped.
      average: of the weights of one that learns, by which it teaches; None: by its weights as they are.
      documents: the student sees so few, again and again.
      oracle: whether someone who knows the languages could do better.
    """

    mix: Mix = "plain"
    noise: Noise | None = None
    teacher: str = "plain"
    average: float | None = 3.0
    documents: int | None = None
    oracle: bool = False


NEXT = Noise(kind="next")
CONDITIONS = {
    "reliable": Condition(),
    "specialist": Condition(mix="apart", oracle=True),
    "specialist-noise": Condition(mix="apart", noise=Noise(domain=1), oracle=True),
    "mixed": Condition(mix="fixed"),
    "mixed-noise": Condition(mix="fixed", noise=Noise()),
    "random": Condition(mix="random"),
    "random-noise": Condition(mix="random", noise=Noise()),
    "weak": Condition(teacher="weak"),
    "live": Condition(teacher="live"),
    "warm": Condition(teacher="warm"),
    "live-jumps": Condition(teacher="live", average=None),
    "errors": Condition(noise=NEXT),
    "errors-shared": Condition(noise=NEXT, teacher="errors"),
    "few": Condition(documents=60, noise=Noise()),
}
BLIND = ("mixed", "mixed-noise", "random", "random-noise")
CONDITIONS |= {
    f"{name}-known": replace(CONDITIONS[name], mix=f"{CONDITIONS[name].mix}-known", oracle=True) for name in BLIND
}
"""the same text, where the language of every position is known to those who ask: to gates by domain, and the oracle"""
MAIN = ("reliable", "specialist-noise", "live")
"""in these, rates are chosen, and both kinds of student learn; elsewhere Scout alone does"""
RATE = 1.6e-2
HIGHER = ("fixed-50", "linear", "wsd", "confidence", "wsld", "balance", "corrected", "evidence-still")
RATES: dict[str, float] = dict.fromkeys(HIGHER, 3.2e-2)
"""peak learning rates of methods that do better with another than RATE, as experiments/weighting_rates.py chose"""
RUNS = {"plain": "teacher", "errors": "teacher-errors", "weak": "warmed"}
"""the runs of teachers that are finished"""
TEACH = Stage(name="teach", learners=(TEACHER,), steps=800, rows=16, length=64)
LEARN = Stage(name="learn", learners=(), steps=300, rows=16, length=64, stream=1, save_every=300)


def experiment(name: str, students: Iterable[Learner], folder: Path, teacher: Learner, part: Part) -> Experiment:
    """A condition: these students, and whoever teaches them; the held-out text is one half of it."""
    given, students = CONDITIONS[name], tuple(students)
    stage = replace(LEARN, learners=students, teacher="teacher", change=given.noise, documents=given.documents)
    models: tuple[Trained, ...] = ()
    if given.teacher in ("live", "warm"):
        start = "warm" if given.teacher == "warm" else None
        stage = replace(stage, learners=(replace(teacher, start=start), *students), average=given.average)
        models = () if start is None else (_trained("warm", folder, "warmed"),)
    else:
        models = (_trained("teacher", folder, RUNS[given.teacher]),)
    return Experiment(
        name=name,
        stages=(stage,),
        given=models,
        corpus=Languages(mix=given.mix, part=part),
        held_out=32,
    )


def student(method: str, loss: Distill, kind: str, rate: float) -> Learner:
    """Drawn like all the others."""
    rates = AdamW(rate=WarmupCosine(peak=rate))
    return Learner(name=method, twin="student", model=KINDS[kind], loss=loss, optimizer=rates)


def methods(condition: str) -> dict[str, Distill]:
    """The losses that are compared there."""
    oracle = {"oracle": Distill(gate=Oracle())} if CONDITIONS[condition].oracle else {}
    if condition.endswith("-known"):
        return {name: METHODS[name] for name in ("hard", "evidence", "evidence-domain")} | oracle
    return METHODS | oracle


def prepare(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """Teachers: one that knows the plain language, one of wrong labels, and one that has only begun."""
    teachers = {
        "teacher": TEACH,
        "teacher-errors": replace(TEACH, change=NEXT),
        "warmed": replace(TEACH, steps=300, stream=2),
    }
    made = (Experiment(name=name, stages=(stage,), corpus=Languages()) for name, stage in teachers.items())
    yield from shrunk(made, tiny)


def sweep(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """Every condition with Scout, the main ones with Maverick too; then what is asked beside it, of few students."""
    teacher = replace(TEACHER, model=shrink(TEACHER.model)) if tiny else TEACHER

    def of(name: str, kind: str, losses: dict[str, Distill], title: str) -> Experiment:
        students = (student(method, loss, kind, RATES.get(method, RATE)) for method, loss in losses.items())
        return replace(experiment(name, students, folder, teacher, "report"), name=f"{title}-{kind}")

    known = [name for name in CONDITIONS if name.endswith("-known")]
    made = [of(name, "scout", methods(name), name) for name in CONDITIONS if name not in known]
    made += [of(name, "maverick", methods(name), name) for name in MAIN]
    made += [of(name, "scout", methods(name), name) for name in known]
    made += [of(name, "scout", FORMS, f"{name}-forms") for name in MAIN]
    yield from shrunk(iter(made), tiny)


def _trained(name: str, folder: Path, run: str) -> Trained:
    return Trained(name=name, run=str(folder / run), stage="teach", learner="teacher")
