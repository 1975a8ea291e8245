"""Should a student learn from its teacher's word on the data, on the teacher's own answers, or on the student's?

Words to reverse, digits to sort, numbers to add (experiments/reasoning.py): a teacher has learned it, and a smaller
student has begun to. From there every method takes as many steps. Rates were chosen by experiments/on_policy_rates.py,
for every method apart, on questions and a seed that are not reported here.

    python -m distill.sweep experiments/on_policy.py --seeds 3      # trains; held-out cross-entropy of right answers
    python -m experiments.on_policy runs/on_policy 3                # then: exact answers, tokens, seconds, differences
    python -m distill.sweep experiments/on_policy.py --tiny

Cost and result: experiments/README.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from distill import AdamW, Experiment, FromTeacher, Learner, OnPolicy, Stage, Trained, WarmupCosine
from distill.run import load_run, write_json
from distill.statistics import paired
from distill.sweep import shrunk
from distill.trained import load_weights
from experiments.reasoning import LENGTH, TASKS, Exam, Reasoning
from losses import Constant, Distill, ForwardKL, JensenShannon, NoGate, ReverseKL, SampledReverseKL
from models.config import SCOUT_PICO, Config, Layer
from models.config import tiny as shrink

PATTERN = (*[Layer(rope=True, moe=False)] * 2, Layer(rope=False, moe=False))
WIDE: Config = replace(SCOUT_PICO, layers=3, pattern=PATTERN)
NARROW = replace(WIDE, width=48, dense_width=144)


@dataclass(frozen=True)
class Method:
    """What is learned from the teacher, on whose answers, at which peak learning rate."""

    loss: Distill | SampledReverseKL
    rollout: OnPolicy | FromTeacher | None
    rate: float = 3e-3


LABELS = Distill(alpha=Constant(0.0), gate=NoGate())
FORWARD, REVERSE = Distill(soft=ForwardKL(), gate=NoGate()), Distill(soft=ReverseKL(), gate=NoGate())
JSD = Distill(soft=JensenShannon(normalise=True), gate=NoGate())
METHODS = {
    "labels": Method(LABELS, None),
    "data-forward": Method(FORWARD, None, 1e-3),
    "sequence": Method(LABELS, FromTeacher()),
    "half-forward": Method(FORWARD, OnPolicy(fraction=0.5)),
    "own-forward": Method(FORWARD, OnPolicy(), 1e-2),
    "own-reverse": Method(REVERSE, OnPolicy(), 1e-3),
    "own-jsd": Method(JSD, OnPolicy(), 1e-3),
    "own-sampled": Method(SampledReverseKL(), OnPolicy(), 3e-4),
}
BASE = "data-forward"
"""whom the others are held against"""


def experiment(name: str, *stages: Stage, given: tuple[Trained, ...] = (), questions: int = 0) -> Experiment:
    """Stages on the questions of a seed."""
    corpus = Reasoning(seed=questions)
    return Experiment(name=name, stages=stages, given=given, corpus=corpus, held_out=8, glance=1)


def stage(name: str, one: Learner, steps: int, **changes) -> Stage:
    """A stage of one learner."""
    return Stage(name=name, learners=(one,), steps=steps, rows=64, length=LENGTH, save_every=steps, **changes)


def learner(name: str, model: Config, method: Method, start: str | None = None) -> Learner:
    """Who learns by a method."""
    return Learner(
        name=name, model=model, loss=method.loss, start=start, optimizer=AdamW(rate=WarmupCosine(peak=method.rate))
    )


def prepare(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """The teacher, and the student as it begins: both from right answers."""
    gold = Method(LABELS, None, 6e-3)
    made = [
        experiment("teacher", stage("learn", learner("teacher", WIDE, gold), 1200)),
        experiment("begun", stage("learn", learner("student", NARROW, gold), 350, stream=1)),
    ]
    yield from shrunk(iter(made), tiny)


def learn(name: str, methods: dict[str, Method], folder: Path, tiny: bool, questions: int = 0) -> Experiment:
    """Methods one after the other, from the same student, on the same prompts."""
    given = tuple(
        Trained(name=one, run=str(folder / one), stage="learn", learner=who)
        for one, who in (("teacher", "teacher"), ("begun", "student"))
    )
    model = shrink(NARROW) if tiny else NARROW
    stages = (
        stage(
            each, learner("student", model, method, "begun"), 120, teacher="teacher", rollout=method.rollout, stream=2
        )
        for each, method in methods.items()
    )
    return experiment(name, *stages, given=given, questions=questions)


def sweep(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """All methods."""
    yield from shrunk(iter([learn("methods", METHODS, folder, tiny)]), tiny)


def examine(run: Path, questions: int = 0, asked: int = 768) -> dict[str, dict[str, float]]:
    """What became of each method in a run: exact answers, and what it cost."""
    exam, found, results = Exam(asked, questions), {}, load_run(run)
    drawn = {line["stage"]: [] for line in results.metrics()}
    for line in results.metrics():
        drawn[line["stage"]] += [line["rollout/tokens"]] if "rollout/tokens" in line else []
    for row in results.results["models"]:
        right = exam(load_weights(run, row["stage"], row["name"]))
        tokens = float(np.mean(drawn[row["stage"]] or [0.0]))
        found[row["stage"]] = right | {name: row[name] for name in ("cross_entropy", "seconds")} | {"drawn": tokens}
    return found


def report(folder: Path, seeds: int) -> None:
    """Prints the table of a sweep, and writes it to on_policy.json."""
    begun = [examine(folder / f"seed{n}" / name)["learn"] for n in range(seeds) for name in ("teacher", "begun")]
    runs = [examine(folder / f"seed{n}" / "methods") for n in range(seeds)]
    lines = {"teacher": begun[::2], "begun": begun[1::2]}
    lines |= {name: [run[name] for run in runs] for name in runs[0]}
    fields = ("mean", *TASKS, "cross_entropy", "drawn", "seconds")
    print(f"{'':14}" + "".join(f"{field:>15}" for field in fields))
    for name, seen in lines.items():
        print(f"{name:14}" + "".join(f"{np.mean([one[field] for one in seen]):15.4f}" for field in fields))
    for name in runs[0]:
        exact, nats = (
            paired([one[field] for one in lines[name]], [one[field] for one in lines[BASE]])
            for field in ("mean", "cross_entropy")
        )
        print(f"{name} - {BASE}: exact {exact}; nats {nats}")
    write_json(folder / "on_policy.json", lines)


if __name__ == "__main__":
    import tyro

    tyro.cli(report, config=(tyro.conf.PositionalRequiredArgs,))
