"""Does a learning rate that was tuned at one width and depth hold at others?

Scouts of three widths and of three depths, each at every rate, from the labels and from a teacher that all share, with
AdamW as it stands and with rates that go with the size of the model (`distill.scaling.MaximalUpdate`). Where rates are
tuned both are the same, bit for bit, so that this size is run once.

    python -m distill.sweep experiments/transfer.py --workers 1
    python -m experiments.transfer_results --run runs/transfer      # tables and docs/transfer.png

Cost and result: experiments/README.md. For an accelerator, up to the mini family: experiments/transfer_mini.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from distill import AdamW, Experiment, Learner, MaximalUpdate, Stage, Trained, WarmupCosine
from distill.sweep import shrunk
from experiments.herd import BEHEMOTH
from models.config import SCOUT_PICO, Config, interleave

TUNED = MaximalUpdate(width=64, layers=4)
RATES = (2e-3, 5e-3, 1.2e-2, 3e-2)
ARMS = {"plain": None, "scaled": TUNED}
SIZES = {"width": ((64, 4), (128, 4), (256, 4)), "depth": ((64, 8), (64, 16))}
LOSSES = {"width": ("hard", "distilled"), "depth": ("hard",)}


@dataclass(frozen=True)
class Dialled:
    """AdamW at `peak` times its rate. The factor lies in its state, so that all peaks are one compiled step."""

    optimizer: AdamW
    peak: float

    def build(self, steps: int) -> optax.GradientTransformation:
        """The transformation, its learning rate laid over `steps` steps."""
        inner = self.optimizer.build(steps)

        def init(params: PyTree) -> Any:
            return jnp.float32(self.peak), inner.init(params)

        def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, Any]:
            moved, kept = inner.update(updates, state[1], params)
            return jax.tree.map(lambda x: state[0] * x, moved), (state[0], kept)

        return optax.GradientTransformation(init, update)


def scout(width: int, layers: int) -> Config:
    """A Scout with the ratios and the head channels of its family; for time, a shorter pattern and fewer experts."""
    return replace(
        SCOUT_PICO, width=width, layers=layers, heads=width // 16, expert_width=13 * width // 8,
        dense_width=13 * width // 4, experts=4, pattern=interleave(nope=2, moe=1),
    )  # fmt: skip


def trials() -> Iterator[tuple[str, str, int, int]]:
    """Kind of comparison, arm, width and layers: the tuned size in the plain arm alone."""
    sizes = [(kind, width, layers) for kind, found in SIZES.items() for width, layers in found]
    for kind, width, layers in sizes:
        new = (width, layers) != (TUNED.width, TUNED.layers)
        yield from ((kind, arm, width, layers) for arm in ARMS if new or arm == "plain")


def experiment(kind: str, arm: str, width: int, layers: int, folder: Path) -> Experiment:
    """A model at every rate, a stage each, from the same initial weights on the same batches."""
    teacher = Trained(name="behemoth", run=str(folder / "teacher"), stage="teach", learner="behemoth")
    name, model = f"{width}x{layers}", scout(width, layers)

    def stage(loss: str, rate: float) -> Stage:
        optimizer = Dialled(AdamW(rate=WarmupCosine(peak=1.0), scaling=ARMS[arm]), rate)
        return Stage(
            name=f"{loss}-{1e3 * rate:g}", learners=(Learner(name=name, model=model, optimizer=optimizer),),
            teacher="behemoth" if loss == "distilled" else None, steps=100, length=64, stream=1, save_every=100,
        )  # fmt: skip

    stages = tuple(stage(loss, rate) for loss in LOSSES[kind] for rate in RATES)
    return Experiment(name=f"{kind}-{arm}-{name}", stages=stages, given=(teacher,), held_out=32)


def prepare(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """The teacher."""
    teach = Stage(name="teach", learners=(BEHEMOTH,), steps=600, save_every=600)
    yield from shrunk(iter([Experiment(name="teacher", stages=(teach,))]), tiny)


def sweep(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """Every size in both arms."""
    yield from shrunk((experiment(*one, folder) for one in trials()), tiny)
