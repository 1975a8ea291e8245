"""Does a student learn more from its teacher when documents come from easy to hard, or only the hard ones do?

A student has begun to learn; how much of its loss on each of 300 documents it could lose is its cross-entropy less the
teacher's. From there it takes as many steps, so as many tokens, by every rule of which documents come when. All are
judged on the same held-out text. Rules that leave out half are beside a random half.

    python -m experiments.pacing --seeds 5     # the table in experiments/README.md
    python -m experiments.pacing --tiny

One teacher for all seeds; a seed has its own documents, weights and batches. A run that was stopped goes on where it
was. Cost and result: experiments/README.md.
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distill import AdamW, Experiment, Learner, Stage, Trained, WarmupCosine
from distill.curriculum.filter import DropEasiest, RandomShare
from distill.curriculum.pacing import Pacing
from distill.curriculum.reducible import Reducible
from distill.curriculum.sampler import Learnability, Rising, Sliding, Uniform
from distill.launch import run_experiment
from distill.process import settle
from distill.statistics import paired
from experiments.on_policy import WIDE
from experiments.stored import sized
from models.config import BEHEMOTH_PICO, Layer

TEACHER = Learner(
    name="teacher",
    model=replace(BEHEMOTH_PICO, pattern=(*[Layer(rope=True, moe=False)] * 3, Layer(rope=False, moe=False))),
    optimizer=AdamW(rate=WarmupCosine(peak=2e-3, warmup=0.05)),
)
STUDENT = Learner(name="student", model=WIDE, optimizer=AdamW(rate=WarmupCosine(peak=6e-3)))
TEACH = Experiment(name="teacher", stages=(Stage(name="teach", learners=(TEACHER,), steps=600),))
DOCUMENTS, BEGIN, STEPS = 300, 60, 120
RULES = {
    "uniform": Pacing(by="begun", sampler=Uniform()),
    "easy to hard": Pacing(by="begun", sampler=Rising()),
    "hard to easy": Pacing(by="begun", sampler=Sliding(begins=0.7, ends=0.0, width=0.3)),
    "hardest half": Pacing(by="begun", sampler=Uniform(), keep=DropEasiest(share=0.5)),
    "random half": Pacing(by="begun", sampler=Uniform(), keep=RandomShare(share=0.5)),
    "learnability": Pacing(by="begun", sampler=Learnability(temperature=0.1)),
}
BASE = "uniform"
"""whom the others are held against"""
HALVES = ("hardest half", "random half")


def experiment(teacher: Path, seed: int) -> Experiment:
    """A student that has begun, and from it every rule."""
    given = Trained(name="teacher", run=str(teacher), stage="teach", learner="teacher")
    begun = Stage(
        name="begin", learners=(replace(STUDENT, name="begun"),), teacher="teacher", steps=BEGIN, save_every=BEGIN
    )
    paced = (
        Stage(
            name=rule.replace(" ", "-"), learners=(replace(STUDENT, start="begun"),), teacher="teacher", steps=STEPS,
            documents=DOCUMENTS, pacing=pacing, stream=1, save_every=STEPS,
        )
        for rule, pacing in RULES.items()
    )  # fmt: skip
    return Experiment(name="pacing", stages=(begun, *paced), given=(given,), held_out=48, glance=1, seed=seed)


def table(found: Sequence[dict[str, dict[str, Any]]]) -> Iterator[str]:
    """A line a rule: means over seeds, and the paired difference from all documents alike."""
    yield f"{'':14}{'nats':>9}{'code':>9}{'docs':>9}{'KL':>9}{'seconds':>9}  minus {BASE} [95 %]"
    values = {rule: [seed[rule.replace(" ", "-")] for seed in found] for rule in RULES}
    nats = {rule: [row["cross_entropy"] for row in rows] for rule, rows in values.items()}
    yield f"{'begun':14}{statistics.fmean(seed['begin']['cross_entropy'] for seed in found):9.4f}"
    for rule, rows in values.items():
        columns = [[row["cross_entropy"], *row["domains"].values(), row["kl"], row["seconds"]] for row in rows]
        figures = "".join(f"{statistics.fmean(column):9.4f}" for column in zip(*columns, strict=True))
        yield f"{rule:14}{figures}  {'' if rule == BASE else paired(nats[rule], nats[BASE])}"
    one, other = HALVES
    yield f"{one} - {other}: {paired(nats[one], nats[other])}"


def spread(folder: Path, seeds: int) -> Iterator[str]:
    """What was measured: how far documents differ in what can be reduced."""
    for seed in range(seeds):
        losses = Reducible.load(folder / f"seed{seed}" / "difficulty" / "uniform.json").losses
        low, middle, high = np.percentile(losses, [5, 50, 95])
        yield f"seed {seed}: reducible loss of {len(losses)} documents {low:.3f} {middle:.3f} {high:.3f} (5, 50, 95 %)"


def main() -> None:
    """Runs the seeds, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/pacing"), help="folder of the teacher and the seeds")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="shrunk to a minute or two")
    said = parser.parse_args()
    settle()
    folder, found = said.run.with_name(f"{said.run.name}-tiny") if said.tiny else said.run, []
    run_experiment(sized(TEACH, said.tiny), folder / "teacher", quiet=True)
    for seed in range(said.seeds):
        one = sized(experiment(folder / "teacher", seed), said.tiny)
        rows = run_experiment(one, folder / f"seed{seed}", quiet=True)["models"]
        found.append({row["stage"]: row for row in rows})
    print("\n".join([*table(found), *spread(folder, said.seeds)]))


if __name__ == "__main__":
    main()
