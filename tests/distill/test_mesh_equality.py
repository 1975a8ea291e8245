"""A mesh of any shape makes what one device makes: loss, gradient and the weights after an update, within 1e-5.

Updates are those of descent with momentum after clipping: Adam divides a gradient by its own size, so that where it is
nearly 0 the rounding of a sum would be all that there is to see.
"""

from dataclasses import dataclass, replace
from functools import cache

import jax
import numpy as np
import optax
import pytest

from distill import Mesh
from distill import mesh as meshes
from distill.state import create
from distill.step import Step
from distill.teacher import LiveTeacher, listen
from losses import Batch as WholeBatch
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
from tests.distill.small import MOE, QUIET, WIDE, assert_close, batch, learner
from tests.distill.test_images import SEEING, batches


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


def assert_equal(one, mesh, teacher=TEACHER):
    wanted = alone(one, teacher)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted[1])) > 0.01  # there is something to compare
    for ours, theirs in zip(made(one, mesh, teacher), wanted, strict=True):
        assert_close(ours, theirs)


MESHES = [
    Mesh(data=2, fsdp=4),
    Mesh(fsdp=2, expert=4),
    pytest.param(Mesh(data=4, expert=2), marks=pytest.mark.slow),
    Mesh(fsdp=4, tensor=2),
    Mesh(fsdp=2, context=4),
    pytest.param(Mesh(context=8), marks=pytest.mark.slow),
    Mesh(expert=2, context=2, tensor=2),
]


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_a_student_learns_the_same_on_any_mesh(mesh):
    assert_equal(ONE, mesh)


def test_a_gate_that_pools_over_all_of_the_batch_sees_the_rows_and_columns_of_all_devices():
    whole = replace(ONE, loss=replace(ONE.loss, gate=Evidence(scope=WholeBatch())))
    assert whole.loss.gate.reach is None
    assert_equal(whole, Mesh(data=2, context=2))


def test_a_student_whose_layers_and_routers_are_compared_learns_the_same():
    compared = replace(ONE, features=Hidden(weight=Constant(2.0)), routing=RouterMatch(weight=Constant(2.0)))
    assert_equal(compared, Mesh(fsdp=2, expert=2, context=2), replace(TEACHER, experts=4))


def test_a_student_that_sees_images_learns_the_same():
    seeing = replace(ONE, model=replace(SEEING, chunk=4), router=QUIET)
    assert_equal(seeing, Mesh(fsdp=2, context=2, tensor=2), seeing.model)


def test_a_policy_gradient_is_the_same():
    drawing = replace(ONE, loss=Reinforce(policy=decoupled_ppo(16).loss, chunk=5))
    assert_equal(drawing, Mesh(fsdp=2, context=2, tensor=2))
