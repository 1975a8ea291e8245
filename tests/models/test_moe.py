"""The MoE layer: who is chosen, how much they weigh, and what is counted."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.config import SCOUT_PICO
from models.moe import MoE, Routing, select, suited


@pytest.fixture(scope="module")
def layer():
    return MoE(SCOUT_PICO, jax.random.key(1))


def tokens(b=2, t=9):
    x = jax.random.normal(jax.random.key(2), (b, t, SCOUT_PICO.width))
    return x, jnp.ones((b, t), bool)


@jax.jit
def apply(layer, x, valid, bias=None):
    return layer(x, valid, bias, suited("cpu"))


def logits_of(layer, x):
    return jnp.einsum("btd,de->bte", x, layer.router[...])


def test_the_layer_is_the_shared_expert_plus_the_chosen_one_on_its_scored_input(layer):
    x, valid = tokens(1, 1)
    logits = logits_of(layer, x)[0, 0]
    best = int(jnp.argmax(logits))
    scored = jax.nn.sigmoid(logits[best]) * x[0, 0]
    gate, up = jnp.einsum("d,dzf->zf", scored, layer.experts.gate_up[...][best])
    want = layer.shared(x)[0, 0] + (jax.nn.silu(gate) * up) @ layer.experts.down[...][best]
    np.testing.assert_allclose(apply(layer, x, valid)[0][0, 0], want, rtol=1e-4, atol=1e-5)


def test_a_bias_changes_who_is_chosen_and_not_how_much_they_weigh(layer):
    x, valid = tokens()
    assert select(jnp.array([[1.0, 2.0, 3.0]]), jnp.array([5.0, 0.0, 0.0]), 1).tolist() == [[0]]
    everyone = jnp.full(16, 7.0)
    y, routing = apply(layer, x, valid, everyone)
    want, plain = apply(layer, x, valid)
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(routing.counts, plain.counts)
    forced = apply(layer, x, valid, jnp.zeros(16).at[3].set(100.0))[1]
    assert forced.counts[3] == 18
    np.testing.assert_array_equal(forced.probs, plain.probs)


def test_a_bias_has_no_gradient(layer):
    x, valid = tokens()
    slope = jax.grad(lambda bias: apply(layer, x, valid, bias)[0].sum())(jnp.linspace(-1, 1, 16))
    assert not slope.any()


def test_equal_logits_choose_the_first_expert_for_any_top_k():
    assert select(jnp.zeros((1, 4)), None, 1).tolist() == [[0]]
    assert select(jnp.zeros((1, 4)), None, 2).tolist() == [[0, 1]]


def test_the_router_learns_only_through_the_scores_of_the_chosen(layer):
    """The gradient of router column e is zero unless e was chosen, and is that of sigmoid(logit) where it was."""
    x, valid = tokens(1, 3)

    def loss(layer):
        return jnp.sum(apply(layer, x, valid)[0])

    slope = jax.grad(loss)(layer).router[...]
    chosen = np.unique(np.argmax(logits_of(layer, x), axis=-1))
    assert set(np.flatnonzero(np.abs(slope).sum(axis=0))) == set(chosen)
    bumped = jax.tree.map(lambda a: a, layer)
    bumped.router = layer.router.replace(layer.router[...].at[0, chosen[0]].add(1e-3))
    np.testing.assert_allclose((loss(bumped) - loss(layer)) / 1e-3, slope[0, chosen[0]], rtol=2e-2, atol=2e-3)


def test_router_probabilities_and_z_have_gradients_and_counts_have_none(layer):
    x, valid = tokens()

    def slope(read):
        return jax.grad(lambda each: read(apply(each, x, valid)[1]))(layer).router[...]

    assert slope(lambda routing: routing.probs[0]).any()
    assert slope(lambda routing: routing.z).any()
    assert not slope(lambda routing: routing.counts.sum()).any()


def test_routing_statistics_are_those_counted_by_hand(layer):
    x, valid = tokens()
    logits = np.asarray(logits_of(layer, x)).reshape(18, 16)
    routing = apply(layer, x, valid)[1]
    np.testing.assert_array_equal(routing.counts, np.bincount(logits.argmax(1), minlength=16))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(routing.probs, shares.sum(0), rtol=1e-5)
    np.testing.assert_allclose(routing.z, (np.log(np.exp(logits).sum(1)) ** 2).sum(), rtol=1e-5)
    assert routing.tokens == 18


def test_statistics_of_two_halves_add_up_to_those_of_the_whole(layer):
    x, valid = tokens(4)
    halves = jax.tree.map(jnp.add, apply(layer, x[:2], valid[:2])[1], apply(layer, x[2:], valid[2:])[1])
    whole = apply(layer, x, valid)[1]
    assert isinstance(halves, Routing)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), halves, whole)


def test_padding_is_in_no_statistic_gets_the_shared_expert_alone_and_poisons_nothing(layer):
    x, valid = tokens()
    valid = valid.at[1, 4:].set(False)

    def run(layer, x):
        y, routing = apply(layer, x, valid)
        return jnp.sum(jnp.where(valid[..., None], y, 0)) + routing.probs[0] + routing.z, (y, routing)

    (_, (y, routing)), slopes = jax.value_and_grad(run, has_aux=True)(layer, x)
    _, alone = apply(layer, x[1:, :4], valid[1:, :4])
    _, first = apply(layer, x[:1], valid[:1])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), routing, jax.tree.map(jnp.add, first, alone))
    np.testing.assert_allclose(y[1, 4:], layer.shared(x)[1, 4:], rtol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_parameters_name_their_axes(layer):
    assert layer.router.axes == ("d", "e")
    assert layer.experts.gate_up.axes == ("e", "d", "2", "f")
    assert layer.experts.down.axes == ("e", "f", "d")
