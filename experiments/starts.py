"""Is a student better begun as a part of its teacher than at random?

Students of three shapes (half the layers; half the experts; twice the experts), each from random weights and from the
teacher's: every second layer dropped, experts merged in pairs, experts copied (models/inherit.py). All take as many
steps on the same batches, taught by the teacher, and again without it. Rates are for experiments/start_rates.py to
choose, on another seed and other held-out text; it was not run to its end, so all have RATE.

    python -m experiments.starts --seeds 3      # the table in experiments/README.md
    python -m experiments.starts --tiny

Cost and result: experiments/README.md.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

import jax

from distill import AdamW, Experiment, Learner, Stage, WarmupCosine, launch, load_run, load_weights
from distill.evaluate import evaluate
from distill.launch import Options, parse
from distill.reading import stage_loader
from distill.state import Weights, seed_key
from distill.statistics import paired
from distill.teacher import LiveTeacher
from experiments.weighting_data import Languages
from models.config import SCOUT_PICO, Layer
from models.inherit import inherit

MODEL = replace(SCOUT_PICO, experts=8, pattern=(Layer(rope=True, moe=True), Layer(rope=False, moe=True)))
TEACHER = Learner(name="teacher", model=MODEL, optimizer=AdamW(rate=WarmupCosine(peak=3e-3, warmup=0.05)))
TEACH = Stage(name="teach", learners=(TEACHER,), steps=500, rows=16, length=64, save_every=500)
SHAPES = {"dropped": {"layers": 2}, "merged": {"experts": 4}, "copied": {"experts": 16}}
RATE = 6e-3
RATES: dict[str, float] = {}
"""peak learning rates of students that do better with another: for experiments/start_rates.py to choose"""


def students(rates: Mapping[str, float], suffix: str = "") -> tuple[Stage, ...]:
    """A stage for every student: a shape, taught or alone, from the teacher's weights or from random ones.

    Alone, so that programs are compiled once for all that are of one shape and rate.
    """
    made = []
    for side, teacher in (("taught", "teacher"), ("alone", None)):
        for shape, sizes in SHAPES.items():
            for name, start in ((shape, "teacher"), (f"{shape}-random", None)):
                rate = AdamW(rate=WarmupCosine(peak=rates.get(f"{side}-{name}", RATE)))
                one = Learner(name=name, model=replace(MODEL, **sizes), start=start, optimizer=rate)
                made.append(
                    Stage(
                        name=f"{side}-{name}{suffix}", learners=(one,), teacher=teacher, steps=120, rows=16, length=64,
                        stream=1, save_every=120,
                    )
                )  # fmt: skip
    return tuple(made)


EXPERIMENT = Experiment(
    name="starts", corpus=Languages(part="report"), stages=(TEACH, *students(RATES)), held_out=32, glance=1
)


def born(options: Options) -> dict[str, list[float]]:
    """Held-out cross-entropy of the heirs before they have learned anything, and of their teacher, by seed."""
    found: dict[str, list[float]] = {}
    for folder, experiment in options.seeded():
        stage = experiment.stages[0]
        batches = stage_loader(experiment, stage).held_out_batches(experiment.corpus, experiment.held_out)
        teacher = load_weights(folder, stage.name, TEACHER.name)
        models = {TEACHER.name: teacher.model}
        for one in [
            each.learners[0] for each in experiment.stages if each.name in [f"taught-{name}" for name in SHAPES]
        ]:
            models[one.name] = jax.jit(inherit, static_argnums=1)(
                teacher.model, one.model, seed_key(experiment.seed, one.name)
            )
        weights = {name: Weights(model, None) for name, model in models.items()}
        scores = evaluate(weights, LiveTeacher(teacher, experiment.execution), batches, experiment.execution)
        for name, score in scores.items():
            found.setdefault(name, []).append(score.cross_entropy)
    return found


def main(arguments: Sequence[str]) -> None:
    """Trains and reports, then holds every start against random weights, seed by seed."""
    launch(EXPERIMENT, arguments)
    options = parse(EXPERIMENT, arguments)
    rows = load_run(options.folder).results["models"]
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["stage"], []).append(row["cross_entropy"])
    print("\nheld-out cross-entropy before the first step:")
    for name, each in born(options).items():
        print(f"  {name:10}{sum(each) / len(each):8.4f}  {[round(value, 4) for value in each]}")
    for shape in SHAPES:
        for side in ("taught", "alone"):
            print(f"{side}: {shape} - random  {paired(values[f'{side}-{shape}'], values[f'{side}-{shape}-random'])}")
        print(f"{shape}: taught - alone  {paired(values[f'taught-{shape}'], values[f'alone-{shape}'])}")


if __name__ == "__main__":
    main(sys.argv[1:])
