"""Does it pay to draw while one learns, and what does it cost that answers are older than who learns from them?

The same student is rewarded over as many updates twice: in step (the learner waits for every answer, which is of its
newest weights) and asynchronously (answers are up to two updates old). A group of answers is late by a log-normal time
that is simulated: on one machine drawing and learning share the cores and cannot overlap, waiting can, and waiting is
what long answers, tools and slow rewards are.

    python -m experiments.asynchronous --seeds 12
    python -m experiments.asynchronous runs/asynchronous     # wall times and lags
    python -m experiments.asynchronous --tiny

Cost and result: experiments/README.md.
"""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

from distill import Experiment, Reinforcement, Stage, launch, load_run
from distill.rl.order import EarliestDeadline, FirstInFirstOut
from distill.rl.stage import LogNormal
from distill.statistics import over_seeds
from distill.tasks.exam import Exam
from distill.tasks.examination import Examination
from distill.tasks.small import Small
from distill.tasks.source import Questions
from experiments.post_training import student

FEW = Small(tasks=("reverse", "sort"), train=800)
LATE = LogNormal(mean=-1.9, sigma=1.0, most=2.0)
"""median 0.15 s; of 32 groups the latest takes 1.1 s in the median"""

ASYNCHRONOUS = Reinforcement(
    name="asynchronous", learner=student("asynchronous", "begun", 1e-3, warmup=0.3), steps=40, questions=FEW,
    latency=LATE, order=EarliestDeadline(), max_policy_lag=2, pipeline_depth=1, save_every=40,
)  # fmt: skip
IN_STEP = replace(
    ASYNCHRONOUS, name="in-step", learner=student("in-step", "begun", 1e-3, warmup=0.3),
    order=FirstInFirstOut(), max_policy_lag=0, pipeline_depth=0,
)  # fmt: skip
BEGIN = Stage(name="begin", learners=(student("begun", None, 6e-3),), steps=200, rows=128, length=24, save_every=200)

EXPERIMENT = Experiment(
    name="asynchronous",
    corpus=Questions(FEW),
    stages=(BEGIN, IN_STEP, ASYNCHRONOUS),
    examination=Examination(questions=Questions(FEW), exam=Exam(attempts=8, slots=256)),
    contrasts=(("asynchronous", "in-step"), ("asynchronous", "begun")),
    held_out=4,
    glance=1,
)


def main(folder: Path) -> None:
    """Prints wall times and their ratio, and the lags, over the seeds of a run; the report has the right answers."""
    seconds: dict[int, dict[str, float]] = {}
    for row in load_run(folder).results["models"]:  # of all seeds, as `launch` left them
        seconds.setdefault(row["seed"], {})[row["name"]] = row["seconds"]
    for seed, its in seconds.items():
        late, in_step = its["asynchronous"], its["in-step"]
        print(f"seed {seed}: in step {in_step:.0f} s, asynchronous {late:.0f} s, {late / in_step:.2f}")
    found = over_seeds([its["asynchronous"] / its["in-step"] for its in seconds.values()])
    print(f"wall time, asynchronous over in step: {found.mean:.3f} {found.interval or ''}")
    lags: Counter[str] = Counter()
    for one in (folder, *sorted(folder.parent.glob(f"{folder.name}-seed*"))):
        for line in load_run(one).metrics():
            if line["stage"] == "asynchronous":
                lags.update({name: int(value) for name, value in line.items() if name.startswith("lag/")})
    for name, count in sorted(lags.items()):
        print(f"{name} {count:6} {'#' * round(50 * count / max(lags.values()))}")


if __name__ == "__main__":
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        main(Path(sys.argv[1]))
    else:
        launch(EXPERIMENT)
