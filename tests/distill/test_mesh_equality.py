"""A mesh of any shape makes what one device makes: loss, gradient and the weights after an update, within 1e-5.

Updates are those of descent with momentum after clipping: Adam divides a gradient by its own size, so that where it is
nearly 0 the rounding of a sum would be all that there is to see.
"""

from dataclasses import dataclass, replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from distill import Mesh
from distill import mesh as meshes
from distill.data.batch import Batch
from distill.state import create
from distill.step import Step
from distill.teacher import LiveTeacher, listen
from losses import Batch as WholeBatch
from losses import Credit, Distill, Evidence, Hidden, NoGate, Reinforce, RouterHealth, RouterMatch, Window, decoupled_ppo
from models.execution import Execution
from tests.distill.small import MOE, WIDE, assert_close, batch, learner
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


def made(one, mesh, teacher=TEACHER, rows=None, word=None, execution=Execution()):  # noqa: B008 (frozen)
    """Loss, gradient, and weights after an update, of a micro-batch on this mesh, and the state that it began with."""
    own = mesh.build()
    step = Step((one,), 10, meshes.executed(execution, own))
    start = create(one, 10, own, 0, inside=teacher if one.opens else None)
    voice = LiveTeacher(create(learner("teacher", model=teacher), 1, own, 7).weights, step.execution)

    @jax.jit
    def go(state, voice, part, word):
        signal, inside = listen(voice, part, one.opens) if word is None else (word, None)
        slope = step.slope(one, state, signal, part, inside)
        after, metrics = step.update(one, state, slope)
        count = slope.metrics["loss"].count
        gradient = jax.tree.map(lambda g: g / count, slope.gradient)
        return {name: tally.mean() for name, tally in metrics.items()}, gradient, (after.weights, after.projection)

    part = jax.tree.map(lambda x: x[0], batch() if rows is None else rows)
    placed = jax.device_put((part, word), meshes.rows(own))
    return jax.device_get(go(start, voice, *placed))


@cache
def alone(one, teacher=TEACHER):
    """What one device makes."""
    return made(one, Mesh(), teacher)


def assert_equal(found, wanted):
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted[1])) > 0.01  # there is something to compare
    for ours, theirs in zip(found, wanted, strict=True):
        assert_close(ours, theirs)


MESHES = [
    Mesh(data=8),
    Mesh(fsdp=8),
    Mesh(expert=4),
    Mesh(context=8),
    Mesh(tensor=2),
    Mesh(data=2, fsdp=4),
    Mesh(fsdp=2, expert=4),
    Mesh(data=4, expert=2),
    Mesh(fsdp=4, tensor=2),
    Mesh(fsdp=2, context=4),
    Mesh(data=2, context=2, tensor=2),
    Mesh(expert=2, context=2, tensor=2),
]


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_a_student_learns_the_same_on_any_mesh(mesh):
    assert_equal(made(ONE, mesh), alone(ONE))
