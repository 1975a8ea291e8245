"""Log-probabilities by pieces beside the whole in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from losses import decoupled_ppo, token_logps

B, T, D, V = 2, 11, 4, 7
RNG = np.random.default_rng(0)
HIDDEN, HEAD = RNG.normal(size=(B, T, D)), RNG.normal(size=(D, V))
LABELS, MASK = RNG.integers(0, V, (B, T)), RNG.random((B, T)) < 0.7
PULL = RNG.normal(size=(B, T))
"""what is asked of each token: a gradient of its own"""


def whole(hidden, head, temperature):
    """Values, entropies, and the gradients of sum(PULL * values), in float64."""
    logits = hidden @ head / temperature
    logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    pull = np.where(MASK, PULL, 0.0)[..., None] * (np.eye(V)[LABELS] - np.exp(logps)) / temperature
    values = np.take_along_axis(logps, LABELS[..., None], -1)[..., 0]
    entropy = -(np.exp(logps) * logps).sum(-1)
    return (
        np.where(MASK, values, 0.0),
        np.where(MASK, entropy, 0.0),
        np.einsum("btv,dv->btd", pull, head),
        np.einsum("btd,btv->dv", hidden, pull),
    )


@partial(jax.jit, static_argnums=(2, 3))
def learn(hidden, head, temperature, chunk):
    def total(hidden, head):
        values, entropy = token_logps(hidden, head, jnp.asarray(LABELS), jnp.asarray(MASK), temperature, chunk)
        return jnp.sum(PULL * values) + jnp.sum(entropy), (values, entropy)

    slopes, found = jax.grad(total, (0, 1), has_aux=True)(hidden, head)
    return *found, *slopes


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("chunk", [1, 3, 4, 10, 11, 64, None])
def test_values_and_gradients_are_those_of_the_whole(chunk, temperature):
    # The entropy is in the sum that is differentiated, and must leave no trace.
    found = learn(np.float32(HIDDEN), np.float32(HEAD), temperature, chunk)
    for got, want in zip(found, whole(HIDDEN, HEAD, temperature), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


def test_bfloat16_is_read_and_written_and_float32_in_between():
    hidden, head = (jnp.asarray(x, jnp.bfloat16) for x in (HIDDEN, HEAD))
    values, entropy, d_hidden, d_head = learn(hidden, head, 1.0, 4)
    assert values.dtype == entropy.dtype == jnp.float32 and d_hidden.dtype == d_head.dtype == jnp.bfloat16
    want = whole(np.asarray(hidden, np.float64), np.asarray(head, np.float64), 1.0)
    np.testing.assert_allclose(values, want[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.asarray(d_hidden, np.float64), want[2], rtol=0.02, atol=0.01)
    np.testing.assert_allclose(np.asarray(d_head, np.float64), want[3], rtol=0.02, atol=0.02)


def test_the_heads_gradient_is_summed_in_float32_however_many_pieces():
    # A hundred pieces of 1/256 each beside a first of 1: bfloat16 would lose them all.
    hidden = jnp.concatenate([jnp.ones((1, 1, 1)), jnp.full((1, 100, 1), 1 / 256)], axis=1).astype(jnp.bfloat16)
    head, labels = jnp.zeros((1, 2), jnp.bfloat16), jnp.zeros((1, 101), jnp.int32)

    def total(head):
        return token_logps(hidden, head, labels, labels == 0, 1.0, 1)[0].sum()

    np.testing.assert_allclose(float(jax.jit(jax.grad(total))(head)[0, 0]), 0.5 * (1 + 100 / 256), rtol=2**-8)


@pytest.mark.parametrize("chunk", [3, None])
def test_masked_positions_may_hold_anything(chunk):
    hidden = np.float32(np.where(MASK[..., None], HIDDEN, np.nan))
    labels = jnp.asarray(np.where(MASK, LABELS, -100))

    def total(hidden, head):
        return jnp.sum(PULL * token_logps(hidden, head, labels, jnp.asarray(MASK), 1.0, chunk)[0])

    d_hidden, d_head = jax.jit(jax.grad(total, (0, 1)))(jnp.asarray(hidden), jnp.asarray(HEAD, jnp.float32))
    _, _, want_hidden, want_head = whole(HIDDEN, HEAD, 1.0)
    np.testing.assert_allclose(d_hidden, want_hidden, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(d_head, want_head, rtol=2e-5, atol=2e-6)


def policy(hidden, head, labels, chunk):
    mask = labels >= 0
    logps, _ = token_logps(hidden, head, labels, mask, 1.0, chunk)
    return decoupled_ppo(labels.shape[1]).loss(logps, -jnp.ones(labels.shape), jnp.ones(labels.shape[0]), mask)[0].total


def test_the_logits_of_the_whole_batch_are_never_formed():
    b, t, d, v = 2, 96, 4, 1000
    shapes = jax.ShapeDtypeStruct((b, t, d), jnp.float32), jax.ShapeDtypeStruct((d, v), jnp.float32)
    labels = jax.ShapeDtypeStruct((b, t), jnp.int32)
    compiled = jax.jit(jax.grad(partial(policy, chunk=8), (0, 1))).lower(*shapes, labels).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < b * t * v * 4
    assert f"[{b},{t},{v}]" not in compiled.as_text()


def test_eight_devices_give_what_one_gives_and_gather_nothing():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split, same = (NamedSharding(mesh, spec) for spec in (PartitionSpec("data"), PartitionSpec()))
    hidden, head = np.float32(RNG.normal(size=(8, T, D))), np.float32(HEAD)
    labels = np.int32(RNG.integers(0, V, (8, T)))
    arrays = jax.device_put((hidden, head, labels), (split, same, split))
    slopes = jax.jit(jax.grad(partial(policy, chunk=4), (0, 1)))
    for got, want in zip(slopes(*arrays), slopes(hidden, head, labels), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)
    text = slopes.lower(*arrays).compile().as_text()
    assert "all-gather" not in text and "all-to-all" not in text


@pytest.mark.parametrize(("settings", "message"), [
    ({"temperature": 0.0}, "temperature=0.0.* must be above 0 and finite"),
    ({"temperature": float("inf")}, "temperature=inf.* must be above 0 and finite"),
    ({"chunk": 0}, "chunk=0.* must be at least 1 position"),
])  # fmt: skip
def test_a_setting_without_meaning_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        token_logps(
            jnp.zeros((1, 1, 1)), jnp.zeros((1, 2)), jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool), **settings
        )
