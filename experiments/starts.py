"""Is a student better begun as a part of its teacher than at random?

Students of three shapes (half the layers; half the experts; twice the experts), each from random weights and from the
teacher's: every second layer dropped, experts merged in pairs, experts copied (models/inherit.py). All take as many
steps on the same batches, taught by the teacher, and again without it. Rates were chosen by experiments/start_rates.py,
on another seed and other held-out text, for every student apart.

    python -m distill.sweep experiments/starts.py --seeds 3     # trains
    python -m experiments.starts runs/starts 3                  # then: the table in experiments/README.md
    python -m distill.sweep experiments/starts.py --tiny

Cost and result: experiments/README.md.
"""

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import jax

from distill import AdamW, Experiment, Learner, Stage, WarmupCosine, load_run, load_weights
from distill.evaluate import evaluate
from distill.reading import stage_loader
from distill.state import Weights, seed_key
from distill.statistics import paired
from distill.sweep import shrunk
from distill.teacher import LiveTeacher
from distill.trained import describe
from experiments.weighting_data import Languages, Part
from models.config import SCOUT_PICO, Layer
from models.inherit import inherit

MODEL = replace(SCOUT_PICO, experts=8, pattern=(Layer(rope=True, moe=True), Layer(rope=False, moe=True)))
TEACHER = Learner(name="teacher", model=MODEL, optimizer=AdamW(rate=WarmupCosine(peak=3e-3, warmup=0.05)))
TEACH = Stage(name="teach", learners=(TEACHER,), steps=500, rows=16, length=64, save_every=500)
SHAPES = {"dropped": {"layers": 2}, "merged": {"experts": 4}, "copied": {"experts": 16}}
RATES = {
    "taught-dropped": 2.4e-2,
    "taught-dropped-random": 2.4e-2,
    "taught-merged": 3e-3,
    "taught-merged-random": 2.4e-2,
    "taught-copied": 7.5e-4,
    "taught-copied-random": 1.2e-2,
    "alone-dropped": 6e-3,
    "alone-dropped-random": 1.2e-2,
    "alone-merged": 3e-3,
    "alone-merged-random": 1.2e-2,
    "alone-copied": 7.5e-4,
    "alone-copied-random": 1.2e-2,
}
"""peak learning rate of every student, by stage"""


def students(rates: Mapping[str, float]) -> tuple[Stage, ...]:
    """A stage for every student: a shape, taught or alone, from the teacher's weights or from random ones.

    Alone, so that programs are compiled once for all that are of one shape and rate.
    """
    made = []
    for side, teacher in (("taught", "teacher"), ("alone", None)):
        for shape, sizes in SHAPES.items():
            for name, start in ((shape, "teacher"), (f"{shape}-random", None)):
                rate = AdamW(rate=WarmupCosine(peak=rates[f"{side}-{name}"]))
                one = Learner(name=name, model=replace(MODEL, **sizes), start=start, optimizer=rate)
                made.append(
                    Stage(
                        name=f"{side}-{name}", learners=(one,), teacher=teacher, steps=120, rows=16, length=64,
                        stream=1, save_every=120,
                    )
                )  # fmt: skip
    return tuple(made)


def experiment(name: str, rates: Mapping[str, float], part: Part) -> Experiment:
    """The teacher, then everybody; the held-out text is one half of it."""
    return Experiment(name=name, corpus=Languages(part=part), stages=(TEACH, *students(rates)), held_out=32, glance=1)


def sweep(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """One run a seed."""
    yield from shrunk(iter([experiment("starts", RATES, "report")]), tiny)


def born(run: Path) -> dict[str, float]:
    """Held-out cross-entropy of the heirs before they have learned anything, and of their teacher."""
    one = experiment("starts", RATES, "report")
    batches = stage_loader(one, TEACH).held_out_batches(one.corpus, one.held_out)
    teacher, seed = load_weights(run, TEACH.name, TEACHER.name), load_run(run).config["seed"]
    weights = {TEACHER.name: teacher}
    for kind in SHAPES:
        model = describe(run, f"taught-{kind}", kind)
        weights[kind] = Weights(jax.jit(inherit, static_argnums=1)(teacher.model, model, seed_key(seed, kind)), None)
    scores = evaluate(weights, LiveTeacher(teacher, one.execution), batches, one.execution)
    return {name: score.cross_entropy for name, score in scores.items()}


def report(folder: Path, seeds: int) -> None:
    """Holds every start against random weights, and every teacher against none, seed by seed."""
    runs = [folder / f"seed{seed}" / "starts" for seed in range(seeds)]
    births = [born(run) for run in runs]
    print("held-out cross-entropy before the first step:")
    for name in births[0]:
        print(f"  {name:24}{statistics.fmean(one[name] for one in births):8.4f}")
    scores = [{row["stage"]: row["cross_entropy"] for row in load_run(run).results["models"]} for run in runs]
    values = {name: [one[name] for one in scores] for name in scores[0]}
    print("after training:")
    for name, each in values.items():
        print(f"  {name:24}{statistics.fmean(each):8.4f}")
    for shape in SHAPES:
        for side in ("taught", "alone"):
            print(f"{side}: {shape} - random  {paired(values[f'{side}-{shape}'], values[f'{side}-{shape}-random'])}")
        print(f"{shape}: taught - alone  {paired(values[f'taught-{shape}'], values[f'alone-{shape}'])}")
        print(
            f"{shape}-random: taught - alone  "
            f"{paired(values[f'taught-{shape}-random'], values[f'alone-{shape}-random'])}"
        )


if __name__ == "__main__":
    import tyro

    tyro.cli(report, config=(tyro.conf.PositionalRequiredArgs,))
