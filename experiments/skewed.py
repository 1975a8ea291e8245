"""What does a curriculum save where most questions are easy?

Nine questions in ten are of the easiest level, and what a student has begun to learn is that. From there it is
rewarded over as many updates by questions drawn alike, and by questions that are solved about half of the time
(`Learnability`), whichever level they are of and however many such there are (`even`) or each as likely as another, all
else being equal: groups that teach nothing are replaced in all. What counts is how many answers
were drawn, those of replaced groups too, until the share of right answers to held-out questions, as many of every
level, has risen by what was set beforehand. The same from a pool with as many questions of every level.

    python -m experiments.skewed --seeds 5              # the tables in experiments/README.md
    python -m experiments.skewed --first 5 --seeds 5
    python -m experiments.skewed --tiny

A seed has its own questions, weights and answers. A run that was stopped goes on where it was. Cost and result:
experiments/README.md.
"""

import argparse
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distill import Experiment, Reinforcement, Stage
from distill.curriculum.sampler import Learnability, Uniform
from distill.launch import run_experiment
from distill.process import settle
from distill.run import Run
from distill.statistics import over_seeds
from distill.tasks.exam import Exam
from distill.tasks.examination import Examination
from distill.tasks.item import Item, Pool
from distill.tasks.small import Small
from distill.tasks.source import Pooled, Questions
from experiments.post_training import student

BEGIN, UPDATES, EVERY = 200, 60, 5
"""optimizer steps; of them, between two looks at the held-out questions"""
GAIN = 0.03
"""of the share of right answers, to be reached; set after seeds 0 to 4, before 5 to 9: see experiments/README.md"""
SAMPLERS = {"uniform": Uniform(), "even": Learnability(even=True), "learnability": Learnability()}
ARMS = {"skewed": ("uniform", "even", "learnability"), "balanced": ("uniform", "even")}
"""samplers by pool; where there are as many of every kind the last two are nearly the same"""


@dataclass(frozen=True)
class Skewed:
    """Questions to learn from of which a share is of the easiest level; what is held out is as it was."""

    small: Small = Small(tasks=("reverse", "sort"), train=2000)
    easy: float = 0.9

    def __call__(self) -> Pool:
        """All of the easiest level, and the first of every other."""
        small, (easiest, *others) = self.small, sorted(self.small.levels)
        few = round(small.train * (1 - self.easy) / self.easy / len(others))
        items: list[Item] = []
        for task in small.tasks:
            items += replace(small, tasks=(task,), levels=(easiest,))()
            items += replace(small, tasks=(task,), levels=tuple(others), train=few)()
        return replace(small(), items=tuple(items))


def experiment(seed: int) -> Experiment:
    """The student that has begun, and from it both samplers on both pools."""
    small = Small(tasks=("reverse", "sort"), train=2000, seed=seed)
    skewed = Skewed(small)
    begun = Stage(
        name="begun", learners=(student("begun", None, 6e-3),), steps=BEGIN, rows=128, length=24, save_every=BEGIN
    )
    pools: dict[str, Pooled] = {"skewed": skewed, "balanced": replace(small, train=740)}
    arms = (
        Reinforcement(
            name=f"{name}-{kind}", learner=student(f"{name}-{kind}", "begun", 1e-3, warmup=0.3), steps=UPDATES,
            groups=64, questions=pool, sampler=SAMPLERS[name], save_every=EVERY,
        )
        for kind, pool in pools.items()
        for name in ARMS[kind]
    )  # fmt: skip
    return Experiment(
        name="skewed", corpus=Questions(skewed), stages=(begun, *arms), held_out=4, glance=1, seed=seed,
        examination=Examination(questions=Questions(small), exam=Exam(attempts=4, slots=256), k=4, few=96),
    )  # fmt: skip


def course(run: Run, stage: str, samples: int) -> list[tuple[float, float]]:
    """Answers drawn and the share of right ones to held-out questions, at each look."""
    drawn, found = 0.0, []
    for line in run.metrics():
        if line["stage"] == stage and line["kind"] == "train":
            drawn = (line["admitted"] - line["in_flight"]) * samples
        if line["stage"] == stage and line["kind"] == "exam":
            found.append((drawn, line["exam"]))
    return found


def start(run: Run) -> float:
    """The share before: of four answers to each question."""
    (row,) = (row for row in run.results["models"] if row["name"] == "begun")
    return statistics.fmean(cell["pass@1"] for cell in row["exam"].values())


def reached(found: Sequence[tuple[float, float]], target: float) -> float:
    """Answers drawn until the share is `target`, a mean of three looks, on a line between two; infinite if it never is.

    A look is at 576 answers, so a share has a standard error of about 0.014, and its mean with two others of 0.008.
    """
    places = [(found[i][0], sum(share for _, share in found[i - 1 : i + 2]) / 3) for i in range(1, len(found) - 1)]
    if places and places[0][1] >= target:
        return places[0][0]
    for (before, low), (after, high) in zip(places, places[1:], strict=False):
        if low < target <= high:
            return before + (after - before) * (target - low) / (high - low)
    return math.inf


def tables(runs: Mapping[int, Run], gain: float, samples: int) -> Iterator[str]:
    """A line for every seed and arm, then the mean ratio of each arm to uniform sampling, with its interval.

    Where uniform sampling never gained as much all that it drew until the last mean of three is counted, so that the
    ratio is an upper bound.
    """
    ratios: dict[str, list[float]] = {}
    for seed, run in runs.items():
        before = start(run)
        for pool, arms in ARMS.items():
            courses = {arm: course(run, f"{arm}-{pool}", samples) for arm in arms}
            whole = courses["uniform"][-2][0]
            needed = {arm: reached(found, before + gain) for arm, found in courses.items()}
            for arm, found in courses.items():
                ratio = needed[arm] / min(needed["uniform"], whole)
                ratios.setdefault(f"{pool} {arm}", []).append(ratio)
                bound = "at most " if math.isinf(needed["uniform"]) else ""
                yield (
                    f"seed {seed} {pool:9} {arm:13} {before:.3f} + {gain:g} after {needed[arm]:6.0f} answers, "
                    f"{bound}{ratio:.2f} of uniform; at the end {found[-1][1]:.3f} after {found[-1][0]:.0f}"
                )
    for name, found in ratios.items():
        if all(map(math.isfinite, found)):
            mean = over_seeds(found)
            yield f"{name:23} {mean.mean:.3f} {mean.interval or ''}"
        else:
            yield f"{name:23} did not gain {gain:g} in every seed"


def main() -> None:
    """Runs the seeds, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/skewed"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--gain", type=float, default=GAIN)
    parser.add_argument("--tiny", action="store_true", help="shrunk to a minute")
    said = parser.parse_args()
    settle()
    folder, runs = said.run.with_name(f"{said.run.name}-tiny") if said.tiny else said.run, {}
    for seed in range(said.first, said.first + said.seeds):
        one, run = experiment(seed), folder / f"seed{seed}"
        run_experiment(one.tiny() if said.tiny else one, run, quiet=True)
        runs[seed] = Run(run)
    print("\n".join(tables(runs, said.gain, 4 if said.tiny else 8)))


if __name__ == "__main__":
    main()
