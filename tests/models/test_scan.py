"""The loop over layers is jax's own in value and gradient, and keeps no second copy of the weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from models.scan import scan_layers

L, B, D = 6, 3, 5
KEYS = jax.random.split(jax.random.key(0), 5)
LAYERS = {"w": jax.random.normal(KEYS[0], (L, D, D)) / 2, "scale": jax.random.normal(KEYS[1], (L, D))}
X = jax.random.normal(KEYS[2], (B, D))
SHARED = jax.random.normal(KEYS[3], (B, D)), jnp.arange(B)
BESIDE = jax.random.normal(KEYS[4], (L, D))


def body(shared, x, layer, own):
    """A layer that says its stream and another number, of which both have gradients."""
    angle, numbers = shared
    own = 0.0 if own is None else own
    y = x + jnp.tanh(x @ layer["w"] * jnp.cos(angle) + own) * layer["scale"] * (1 + numbers[:, None])
    return y, (y, jnp.sum(layer["scale"] * y))


def ours(x, layers, beside=BESIDE, unroll=1):
    return scan_layers(body, SHARED, x, layers, beside, unroll)


def jaxs(x, layers, beside=BESIDE, unroll=1):
    return jax.lax.scan(lambda x, each: body(SHARED, x, *each), x, (layers, beside), unroll=unroll)


def loss(run, x, layers, **given):
    last, (states, sums) = run(x, layers, **given)
    return jnp.sum(last**2) + jnp.sum(jnp.sin(states)) + jnp.sum(sums)


@pytest.mark.parametrize(
    "given", [{}, {"beside": None}, {"unroll": 2}, {"unroll": L}], ids=["plain", "nothing beside", "two", "all"]
)
def test_value_and_gradients_are_those_of_jax(given):
    one, other = (jax.jit(jax.value_and_grad(partial(loss, run, **given), (0, 1)))(X, LAYERS) for run in (ours, jaxs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), one, other)


def test_what_is_beside_the_weights_and_what_they_share_get_no_gradient():
    slope = jax.grad(lambda beside: loss(ours, X, LAYERS, beside=beside))(BESIDE)
    np.testing.assert_array_equal(slope, 0)


def test_whole_numbers_beside_the_weights_are_no_hindrance():
    def choose(shared, x, layer, own):
        return x * layer["scale"][own], None

    def run(layers):
        return jnp.sum(scan_layers(choose, None, jnp.ones(2), layers, jnp.arange(L) % D)[0])

    slope = jax.grad(run)(LAYERS)["scale"]
    assert np.count_nonzero(slope) == L and all(slope[i, i % D] != 0 for i in range(L))


def stacked(run):
    """Shapes of what the forward loop stacks up for the gradient."""
    found = []

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "scan" and not equation.params["reverse"]:
                found.extend(each.aval.shape for each in equation.outvars[equation.params["num_carry"] :])
            for inner in jaxprs_in_params(equation.params):
                walk(inner)

    walk(jax.make_jaxpr(jax.grad(partial(loss, run), 1))(X, LAYERS).jaxpr)
    return found


def test_no_second_copy_of_the_weights_is_kept_for_the_gradient():
    assert stacked(ours) and LAYERS["w"].shape not in stacked(ours)
