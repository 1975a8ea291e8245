"""Gradients are kept in the dtype of the products, and are the same numbers."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill import Mesh
from distill import mesh as meshes
from distill.letters import arrays
from distill.state import moving
from distill.step import Step
from models.execution import Execution
from models.remat import Inputs
from models.taps import taps
from tests.distill.small import QUIET, assert_close, batch, learner, states, take

HALF = Execution(dtype="bfloat16", remat=Inputs())
THIN = replace(HALF, gradients="bfloat16")


def slopes(execution: Execution, mesh: Mesh):
    """Gradient of a small learner."""
    one, own = learner(), mesh.build()
    part = jax.device_put(jax.tree.map(lambda x: x[0], batch()), meshes.rows(own))
    step = Step((one,), 10, meshes.executed(execution, own))
    return jax.jit(lambda state, part: step.slope(one, state, None, part).gradient)(*states(one, mesh=mesh), part)


@pytest.fixture(scope="module", params=[Mesh(), Mesh(fsdp=2, expert=2)], ids=str)
def both(request):
    return slopes(HALF, request.param), slopes(THIN, request.param)


def test_they_are_those_of_float32_bit_for_bit(both):
    wide, thin = (jax.tree.map(lambda x: np.asarray(x, np.float32), each) for each in both)
    assert_close(wide, thin, tolerance=0)


def test_matrices_of_layers_take_half_the_bytes_and_all_else_stays_in_float32(both):
    for axes, gradient in arrays(both[1]):
        stacked = gradient.ndim > len(axes) > 1 and axes[-1] != "e"
        assert gradient.dtype == (jnp.bfloat16 if stacked else jnp.float32), axes
    thin, wide = (sum(x.nbytes for x in jax.tree.leaves(each)) for each in reversed(both))
    assert thin < 0.75 * wide


def test_micro_batches_add_up_in_float32():
    one = learner(router=QUIET)
    whole, _ = take([one], states(one), batches=[batch(parts=4)], execution=HALF)
    thin, _ = take([one], states(one), batches=[batch(parts=4)], execution=THIN)
    assert_close(whole[0].weights, thin[0].weights, tolerance=0)


def test_products_in_float32_have_nothing_to_save():
    params = moving(states(learner())[0])
    assert all(x is y for x, y in zip(*map(jax.tree.leaves, (params, taps(params, "float32"))), strict=True))


def test_a_dtype_that_products_do_not_have_is_refused():
    with pytest.raises(
        ValueError, match=r'gradients is "bfloat16"; with products in float32 .* set dtype to it as well'
    ):
        Execution(gradients="bfloat16")
    with pytest.raises(
        ValueError, match=r'gradients is "float16"; with products in bfloat16 it must be .* or "bfloat16"'
    ):
        Execution(dtype="bfloat16", gradients="float16")
