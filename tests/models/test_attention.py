import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.attention import attend_chunk, attend_document, temper
from models.config import Tempering
from models.layout import Layout
from models.pairs import attend

CHUNK = 4


def _qkv(key, b, t, h=4, k=2, c=8):
    shapes = ((b, t, h, c), (b, t, k, c), (b, t, k, c))
    return [jax.random.normal(each, shape) for each, shape in zip(jax.random.split(key, 3), shapes, strict=True)]


def _pack(*lengths, t):
    """One row of documents of these lengths, then padding."""
    positions = np.concatenate([np.arange(length) for length in lengths] + [np.zeros(t - sum(lengths), int)])
    segments = np.concatenate([np.full(length, i + 1) for i, length in enumerate(lengths)])
    segments = np.concatenate([segments, np.zeros(t - sum(lengths), int)])
    return Layout.packed(jnp.asarray(positions, jnp.int32)[None], jnp.asarray(segments, jnp.int32)[None])


@jax.jit
def _blocks(q, k, v, layout):
    return attend_chunk(q, k, v, layout, CHUNK)


@jax.jit
def _whole(q, k, v, layout):
    """The rule as it is written: one mask over all pairs."""
    rooms, t = layout.positions // CHUNK, q.shape[1]
    visible = (layout.segments[:, :, None] == layout.segments[:, None, :]) & (rooms[:, :, None] == rooms[:, None, :])
    return attend(q, k, v, visible & jnp.tril(jnp.ones((t, t), bool)))


def test_tempering_begins_at_the_floor():
    got = temper(jnp.array([[0, 6, 7, 14, 15]]), Tempering(floor=8, scale=0.1))
    np.testing.assert_allclose(got[0], [1, 1, 1 + 0.1 * np.log(2), 1 + 0.1 * np.log(2), 1 + 0.1 * np.log(3)], rtol=1e-6)


def test_tempering_is_exact_at_ten_million():
    floor = Tempering(floor=8192, scale=0.1)
    got = temper(jnp.array([[8192 * 1250 - 2, 8192 * 1250 - 1]]), floor)
    np.testing.assert_allclose(got[0], [1 + 0.1 * np.log(1250), 1 + 0.1 * np.log(1251)], rtol=1e-7)


def test_equal_scores_average_the_visible_values():
    q, k, v = jnp.zeros((1, 3, 1, 2)), jnp.zeros((1, 3, 1, 2)), jnp.arange(6.0).reshape(1, 3, 1, 2)
    got = attend_document(q, k, v, Layout.dense(1, 3))
    np.testing.assert_allclose(got[0, :, 0], [[0, 1], [1, 2], [2, 3]])


def test_query_heads_share_values_in_equal_groups():
    q, k = jnp.zeros((1, 1, 4, 2)), jnp.zeros((1, 1, 2, 2))
    v = jnp.array([[[[1.0, 1.0], [2.0, 2.0]]]])
    got = attend_document(q, k, v, Layout.dense(1, 1))
    np.testing.assert_array_equal(got[0, 0, :, 0], [1, 1, 2, 2])


def test_the_first_token_of_a_chunk_sees_only_itself(key):
    q, k, v = _qkv(key, 1, 10, h=2)
    got = _blocks(q, k, v, Layout.dense(1, 10))
    np.testing.assert_allclose(got[:, ::CHUNK], v[:, ::CHUNK], rtol=1e-6)


@pytest.mark.parametrize("t", [3, 4, 8, 11])
def test_blocks_of_an_aligned_row_are_the_chunk_rule(key, t):
    q, k, v = _qkv(key, 2, t)
    layout = Layout.dense(2, t)
    np.testing.assert_allclose(_blocks(q, k, v, layout), _whole(q, k, v, layout), atol=1e-6)


@pytest.mark.parametrize(
    "layout",
    [
        _pack(3, t=4),
        _pack(3, 6, 1, 5, t=17),
        _pack(2, 13, 2, t=20),
        Layout.left_padded(jnp.arange(15)[None] >= 6),
        Layout.left_padded(jnp.arange(15)[None] < 6),
    ],
)
def test_blocks_of_any_layout_are_the_chunk_rule(key, layout):
    q, k, v = _qkv(key, *layout.positions.shape)
    got, wanted = _blocks(q, k, v, layout), _whole(q, k, v, layout)
    np.testing.assert_allclose(got[layout.valid], wanted[layout.valid], atol=1e-6)
    assert jnp.all(jnp.isfinite(got))


@pytest.mark.parametrize("layout", [Layout.dense(1, 20), _pack(20, t=20)])
def test_chunked_attention_has_exactly_zero_gradient_outside_the_chunk(key, layout):
    q, k, v = _qkv(key, 1, 20)
    slopes = jax.grad(lambda k, v: jnp.sum(_blocks(q, k, v, layout)[:, 10] ** 2), argnums=(0, 1))(k, v)
    for slope in slopes:
        moved = np.flatnonzero(np.any(np.asarray(slope[0]) != 0, axis=(1, 2)))
        np.testing.assert_array_equal(moved, [8, 9, 10])


@pytest.mark.parametrize("see", [attend_document, lambda *args: attend_chunk(*args, chunk=64)])
def test_documents_of_a_row_have_exactly_zero_gradient_on_each_other(key, see):
    q, k, v = _qkv(key, 1, 12)
    layout = _pack(5, 4, t=12)
    slope = jax.grad(lambda v: jnp.sum(see(q, k, v, layout)[:, 7] ** 2))(v)
    np.testing.assert_array_equal(np.flatnonzero(np.any(np.asarray(slope[0]) != 0, axis=(1, 2))), [5, 6, 7])


@pytest.mark.parametrize("make", [Layout.dense, lambda b, t: _pack(t, t=t)])
def test_chunked_attention_costs_grow_with_the_tokens_not_their_square(make):
    def flops(t):
        shapes = [jax.ShapeDtypeStruct((1, t, n, 8), jnp.float32) for n in (4, 2, 2)]
        step = jax.jit(lambda q, k, v: attend_chunk(q, k, v, make(1, t), 32))
        return step.lower(*shapes).compile().cost_analysis()["flops"]

    small, large = flops(256), flops(2048)
    assert large / small == pytest.approx(8, rel=0.02)


def test_whole_documents_cost_the_square():
    def flops(t):
        shapes = [jax.ShapeDtypeStruct((1, t, n, 8), jnp.float32) for n in (4, 2, 2)]
        step = jax.jit(lambda q, k, v: attend_document(q, k, v, Layout.dense(1, t)))
        return step.lower(*shapes).compile().cost_analysis()["flops"]

    assert flops(512) / flops(128) == pytest.approx(16, rel=0.05)
