"""What a mesh makes of a micro-batch: loss, gradient, and the weights after an update.

Updates are those of descent with momentum after clipping: Adam divides a gradient by its own size, so that where it is
nearly 0 the rounding of a sum would be all that there is to see.
"""

from dataclasses import dataclass, replace
from functools import cache

import jax
import numpy as np
import optax

from distill import Mesh
from distill import mesh as meshes
from distill.state import create
from distill.step import Step
from distill.teacher import LiveTeacher, listen
from losses import (
    Constant,
    Credit,
    Distill,
    Evidence,
    Hidden,
    Reinforce,
    RouterHealth,
    RouterMatch,
    Window,
    decoupled_ppo,
)
from models.execution import Execution
from tests.distill.seeing import SEEING, batches
from tests.distill.small import MOE, QUIET, WIDE, batch, learner


@dataclass(frozen=True)
class Descent:
    """Descent with momentum, after clipping by the norm of all gradients."""

    def build(self, steps):
        return optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1, momentum=0.9))


# Chunks of attention cross the slices of a row, pieces of the loss do not divide it, and its gate sees its neighbours.
SMALL = replace(MOE, chunk=4)
TEACHER = replace(WIDE, chunk=4, experts=8)
ONE = learner(
    model=SMALL,
    loss=Distill(gate=Evidence(scope=Window(size=3)), chunk=5),
    router=RouterHealth(balance=0.01, z=1e-3, bias_rate=0.01),
    optimizer=Descent(),
)


@cache
def begun(one, teacher):
    """The learner's first state and what its teacher is, on one device."""
    own = Mesh().build()
    inside = teacher if one.opens else None
    return create(one, 10, own, 0, inside=inside), create(learner("teacher", model=teacher), 1, own, 7).weights


@cache
def drawn(one):
    """A micro-batch, and what comes with it where a teacher's word would."""
    rows = batches(1, rows=8)[0] if one.model.vision else jax.tree.map(lambda x: x[0], batch())
    if not isinstance(one.loss, Reinforce):
        return rows, None
    random = np.random.default_rng(0)
    numbers = random.normal(size=(2, *rows.tokens.shape)).astype(np.float32)
    return rows, Credit(advantages=numbers[0], behaviour=numbers[1] * 0.1 - 4.2)


def made(one, mesh, teacher=TEACHER):
    """Loss, gradient, and weights after an update, of a micro-batch on this mesh."""
    own, (state, weights) = mesh.build(), begun(one, teacher)
    step = Step((one,), 10, meshes.executed(Execution(), own))
    state, weights = jax.device_put((state, weights), meshes.shardings(own, (state, weights)))

    @jax.jit
    def go(state, weights, part, word):
        voice = LiveTeacher(weights, step.execution)
        signal, inside = listen(voice, part, one.opens) if word is None else (word, None)
        slope = step.slope(one, state, signal, part, inside)
        after, metrics = step.update(one, state, slope)
        gradient = jax.tree.map(lambda g: g / slope.metrics["loss"].count, slope.gradient)
        told = {name: tally.mean() for name, tally in metrics.items()}
        return told, gradient, (after.weights, after.projection, after.memory)

    placed = jax.device_put(drawn(one), meshes.rows(own))
    return jax.device_get(go(state, weights, *placed))


@cache
def alone(one, teacher=TEACHER):
    """What one device makes."""
    return made(one, Mesh(), teacher)


COMPARED = replace(ONE, features=Hidden(weight=Constant(2.0)), routing=RouterMatch(weight=Constant(2.0)))
"""of layers and routers, with a teacher of as many experts: `replace(TEACHER, experts=4)`"""
LOOKING = replace(ONE, model=replace(SEEING, chunk=4), router=QUIET)
"""its teacher sees as it does"""
DRAWING = replace(ONE, loss=Reinforce(policy=decoupled_ppo(16).loss, chunk=5))
"""learns from what answers earned"""
