"""Is it worth more to be fine-tuned on the questions that are hard than on as many others?

A model has begun to learn words to reverse, digits to sort and numbers to add, and answers every question that it may
learn from 8 times. From there it takes as many steps on all questions; on those that the 50 % and the 95 % filters
leave (Llama 4 dropped so much of its data before fine-tuning, as easy); and on random subsets of the same sizes.

    python -m experiments.filters --seeds 5     # the tables in experiments/README.md
    python -m experiments.filters --tiny

A seed has its own questions, subsets, weights and batches; what is held out is asked of all alike. A run that was
stopped goes on where it was. Cost and result: experiments/README.md.
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill import AdamW, Experiment, Learner, Stage, WarmupCosine
from distill.curriculum.filter import DropEasiest, RandomShare
from distill.curriculum.selection import Selection
from distill.launch import run_experiment
from distill.process import settle
from distill.statistics import paired
from distill.tasks.exam import Exam
from distill.tasks.examination import Examination
from distill.tasks.small import Small
from distill.tasks.source import Questions
from experiments.on_policy import WIDE
from losses import Constant, Distill, NoGate

MODEL = replace(WIDE, width=64, dense_width=176)
LABELS = Distill(alpha=Constant(0.0), gate=NoGate())
TRAIN = 800
"""questions to learn from, of each of the nine cells"""
BEGIN, TUNE = 200, 200
"""optimizer steps"""
ARMS = ("all", "hard-50", "random-50", "hard-95", "random-95")
PAIRS = (
    ("hard-50", "random-50"), ("hard-95", "random-95"), ("hard-50", "all"), ("random-50", "all"), ("hard-95", "all"),
    ("random-95", "all"), ("all", "base"),
)  # fmt: skip
FIELDS = ("pass@1", "pass@k", "greedy")


def selection(arm: str, seed: int) -> Selection | None:
    """What an arm learns from."""
    kind, _, share = arm.partition("-")
    if kind == "all":
        return None
    rule = {"hard": DropEasiest, "random": RandomShare}[kind](share=int(share) / 100, seed=seed)
    return Selection(by="base", rule=rule, attempts=8 if kind == "hard" else 1, seed=seed)


def stage(name: str, steps: int, peak: float, start: str | None = None, **changes: Any) -> Stage:
    """A stage of one learner of the same name."""
    rate = AdamW(rate=WarmupCosine(peak=peak))
    one = Learner(name=name, model=MODEL, loss=LABELS, start=start, optimizer=rate)
    return Stage(name=name, learners=(one,), steps=steps, rows=64, length=24, save_every=steps, **changes)


def experiment(seed: int) -> Experiment:
    """The model that has begun, and from it every arm."""
    tuned = (stage(arm, TUNE, 3e-3, "base", selection=selection(arm, seed), stream=1) for arm in ARMS)
    asked = Small(train=TRAIN, seed=seed)
    return Experiment(
        name="filters", stages=(stage("base", BEGIN, 6e-3), *tuned), corpus=Questions(asked), held_out=8, glance=1,
        examination=Examination(questions=Questions(Small(train=TRAIN)), exam=Exam(attempts=8)), seed=seed,
    )  # fmt: skip


def shares(row: dict[str, Any], level: int | None = None) -> list[float]:
    """Mean over the cells (of a level) of pass@1, pass@8 and the share of greedy answers that are right."""
    cells = [cell for name, cell in row["exam"].items() if level is None or name.endswith(f"/{level}")]
    return [statistics.fmean(cell[field] for cell in cells) for field in FIELDS]


def tables(found: Sequence[dict[str, dict[str, Any]]]) -> Iterator[str]:
    """Lines of an arm each, then of a pair each: means over seeds, paired differences."""
    head = ("pass@1", "pass@8", "greedy", "level 0", "level 1", "level 2", "nats", "seconds")
    yield f"{'':12}" + "".join(f"{name:>10}" for name in head)
    for arm in ("base", *ARMS):
        rows = [seed[arm] for seed in found]
        columns = [[*shares(row), *(shares(row, level)[0] for level in range(3))] for row in rows]
        columns = [[*each, row["cross_entropy"], row["seconds"]] for each, row in zip(columns, rows, strict=True)]
        yield f"{arm:12}" + "".join(f"{statistics.fmean(column):10.4f}" for column in zip(*columns, strict=True))
    for one, two in PAIRS:
        yield f"{one} - {two}"
        for place, field in enumerate(FIELDS):
            first, second = ([shares(seed[arm])[place] for seed in found] for arm in (one, two))
            yield f"    {field:8} {paired(first, second)}"
        first, second = ([seed[arm]["cross_entropy"] for seed in found] for arm in (one, two))
        yield f"    {'nats':8} {paired(first, second)}"


def main() -> None:
    """Runs the seeds, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/filters"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="shrunk to a minute")
    said = parser.parse_args()
    settle()
    folder, found = said.run.with_name(f"{said.run.name}-tiny") if said.tiny else said.run, []
    for seed in range(said.seeds):
        one = experiment(seed)
        rows = run_experiment(one.tiny() if said.tiny else one, folder / f"seed{seed}", quiet=True)["models"]
        found.append({row["name"]: row for row in rows})
    print("\n".join(tables(found)))


if __name__ == "__main__":
    main()
