"""Three looks at an experiment that does not learn, before anyone waits for it.

    python -m distill.diagnose experiments/herd.py overfit            # can each learner learn one batch by heart?
    python -m distill.diagnose experiments/herd.py rates              # which learning rates fall, which diverge?
    python -m distill.diagnose experiments/herd.py norms              # gradient norm of every parameter, by layer

The file must define EXPERIMENT. A stage with a teacher is looked at without it: what fails here fails on labels alone.
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from distill.data.batch import Batch
from distill.experiment import Experiment
from distill.items import named_leaves
from distill.options import load
from distill.reading import portion, put, stage_loader
from distill.stage import Learner, Stage
from distill.state import create
from distill.step import Step
from distill.teacher import Silent
from losses import Constant, Distill, NoGate


@dataclass(frozen=True)
class Rising:
    """A learning rate that rises by a constant factor a step (Smith 2017, arXiv:1506.01186)."""

    low: float = 1e-5
    high: float = 1.0

    def at(self, progress: Float[Array, ""] | float) -> Float[Array, ""]:
        """The rate after a share of the steps."""
        return self.low * (self.high / self.low) ** jnp.asarray(progress, jnp.float32)


def losses(experiment: Experiment, stage: Stage, learner: Learner, batches: list[Batch]) -> list[float]:
    """Cross-entropy (nats) before each step of a newborn learner on `batches` [a, b, t]."""
    mesh, learner = experiment.mesh.build(), by_itself(learner)
    step = jax.jit(Step((learner,), len(batches), experiment.execution), donate_argnums=0)
    states, found = (create(learner, len(batches), mesh, experiment.seed),), []
    for batch in batches:
        states, metrics = step(states, Silent(), batch)
        found.append(float(metrics[f"{learner.name}/hard"].mean()))
    return found


def by_itself(learner: Learner) -> Learner:
    """As it learns without a teacher; from labels, where it would have learned from its own draws."""
    loss = Distill(alpha=Constant(0.0), gate=NoGate()) if learner.loss.on_policy else learner.loss
    return dataclasses.replace(learner, features=None, routing=None, loss=loss)


def overfit(experiment: Experiment, stage: Stage, steps: int = 60) -> dict[str, tuple[float, float]]:
    """Cross-entropy on one batch, at first and after `steps` steps on it, by learner."""
    batch = draw(experiment, stage, 1)[0]
    found = {learner.name: losses(experiment, stage, learner, [batch] * steps) for learner in stage.learners}
    return {name: (values[0], values[-1]) for name, values in found.items()}


def rates(experiment: Experiment, stage: Stage, steps: int = 60) -> dict[str, list[tuple[float, float]]]:
    """(learning rate, cross-entropy) step by step while the rate rises from 1e-5 to 1, by learner.

    Raises:
      ValueError: a learner's optimizer has no field `rate` to move.
    """
    for learner in stage.learners:
        if "rate" not in {field.name for field in dataclasses.fields(learner.optimizer)}:  # pyright: ignore[reportArgumentType]
            raise ValueError(f"the optimizer of {learner.name!r} has no field `rate`: {learner.optimizer}; give it one")
    batches, found = draw(experiment, stage, steps), {}
    for learner in stage.learners:
        rising = dataclasses.replace(learner, optimizer=dataclasses.replace(learner.optimizer, rate=Rising()))  # pyright: ignore[reportArgumentType, reportCallIssue]
        values = losses(experiment, stage, rising, batches)
        found[learner.name] = [(float(Rising().at((n + 1) / steps)), value) for n, value in enumerate(values)]
    return found


def norms(experiment: Experiment, stage: Stage) -> dict[str, dict[str, list[float]]]:
    """Norm of the gradient per label of every parameter, one number per repetition of the layer pattern, by learner."""
    mesh, batch = experiment.mesh.build(), draw(experiment, stage, 1)[0]
    part, found = jax.tree.map(lambda x: x[0], batch), {}
    for learner in map(by_itself, stage.learners):
        state = create(learner, 1, mesh, experiment.seed)
        step = Step((learner,), 1, experiment.execution)
        slope = jax.jit(lambda state, part, step=step, learner=learner: step.slope(learner, state, None, part))(
            state, part
        )
        count = float(slope.metrics["loss"].count)
        found[learner.name] = {
            name: [
                float(np.linalg.norm(one)) / count
                for one in (np.asarray(leaf) if "periods" in name else [np.asarray(leaf)])
            ]
            for name, leaf in named_leaves(slope.gradient).items()
        }
    return found


def draw(experiment: Experiment, stage: Stage, count: int) -> list[Batch]:
    """The first batches of a stage, on the devices."""
    source = experiment.corpus_of(stage)
    batches = portion(stage, stage_loader(experiment, stage), source, range(stage.rows))
    return [put(next(batches), stage.accumulate, experiment.mesh.build()) for _ in range(count)]


def best_rate(curve: list[tuple[float, float]]) -> tuple[float, float]:
    """(the rate of the lowest smoothed loss, a tenth of the rate at which it has left that for good)."""
    values = np.convolve([value for _, value in curve], np.ones(5) / 5, mode="valid")
    lowest = int(np.nanargmin(values))
    bad = [n for n in range(lowest, len(values)) if not values[n] < values[lowest] + 0.5]
    edge = curve[bad[0] + 4 if bad else -1][0]
    return curve[lowest + 2][0], edge / 10


def main(
    file: Path,
    look: Literal["overfit", "rates", "norms"],
    stage: str | None = None,
    tiny: bool = False,
) -> None:
    """Print one look at one stage of an experiment.

    Args:
        file: the experiment file.
        look: what to look at.
        stage: name of the stage; the first one if not given.
        tiny: look at the shrunken experiment.
    """
    experiment = load(file).tiny() if tiny else load(file)
    names = [each.name for each in experiment.lessons]
    if stage is not None and stage not in names:
        raise ValueError(f"there is no stage {stage!r} in {file}; there are {names}")
    chosen = experiment.lessons[names.index(stage) if stage else 0]
    if look == "overfit":
        for name, (first, last) in overfit(experiment, chosen).items():
            verdict = "learns" if last < 0.5 * first else "does not learn"
            print(f"{name}: {first:.3f} -> {last:.3f} nats on one batch: {verdict}")
    elif look == "rates":
        for name, curve in rates(experiment, chosen).items():
            for rate, value in curve[4::5]:
                print(f"{name}: {rate:8.1e} {value:8.3f} {'#' * int(min(max(value, 0), 10) * 6)}")
            print(
                f"{name}: lowest loss at {best_rate(curve)[0]:.1e}; a peak of {best_rate(curve)[1]:.1e} is a safe start"
            )
    else:
        for name, leaves in norms(experiment, chosen).items():
            width = max(len(leaf) for leaf in leaves)
            for leaf, values in leaves.items():
                print(f"{name}: {leaf:{width}} {' '.join(f'{value:9.2e}' for value in values)}")


if __name__ == "__main__":
    import tyro

    try:
        tyro.cli(main, config=(tyro.conf.PositionalRequiredArgs,))
    except ValueError as error:
        sys.exit(f"error: {error}")
