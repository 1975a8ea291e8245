"""Attention by blocks is attention."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.attention import attend_chunk, attend_document
from models.blockwise import BLOCK
from models.flash import Blockwise
from models.layout import Layout
from models.pairs import attend

T = 22


def arrays(t=T, dtype=jnp.float32):
    shapes = ((2, t, 4, 8), (2, t, 2, 8), (2, t, 2, 8))
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(each, shape).astype(dtype) for each, shape in zip(keys, shapes, strict=True)]


SEGMENTS = {
    "one document": None,
    "several, and padding": jnp.array([[1] * 5 + [2] * 9 + [3] * 5 + [0] * 3, [0] * 4 + [1] * 18]),
}


def blocks(q, k, v, segments, block=8):
    return Blockwise(block=block)(q, k, v, segments, segments)


def whole(q, k, v, segments):
    visible = jnp.tril(jnp.ones((q.shape[1], q.shape[1]), bool))[None]
    if segments is not None:
        visible = visible & (segments[:, :, None] == segments[:, None, :])
    return attend(q, k, v, visible)


@partial(jax.jit, static_argnums=0)
def value_and_slopes(form, q, k, v, segments):
    weight = jnp.cos(jnp.arange(q.size, dtype=jnp.float32)).reshape(q.shape)
    loss = lambda *given: jnp.sum(form(*given, segments) * weight)  # noqa: E731
    return form(q, k, v, segments), *jax.grad(loss, argnums=(0, 1, 2))(q, k, v)


@pytest.mark.parametrize("segments", SEGMENTS.values(), ids=SEGMENTS.keys())
@pytest.mark.parametrize("block", [3, 8, 64])
def test_blocks_give_what_one_piece_gives_and_so_does_their_gradient(segments, block):
    given = arrays()
    found = value_and_slopes(partial(blocks, block=block), *given, segments)
    for ours, theirs in zip(found, value_and_slopes(whole, *given, segments), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_scores_of_any_size_do_not_overflow():
    q, k, v = arrays()
    found = jax.jit(partial(blocks, block=8))(1e4 * q, k, v, None)
    np.testing.assert_allclose(found, jax.jit(whole)(1e4 * q, k, v, None), atol=1e-5)


def test_bfloat16_answers_in_bfloat16_and_adds_up_in_float32():
    found = jax.jit(partial(blocks, block=8))(*arrays(dtype=jnp.bfloat16), None)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), jax.jit(whole)(*arrays(), None), atol=0.05)


@pytest.mark.parametrize("see", [attend_document, partial(attend_chunk, chunk=10**6)], ids=["document", "chunk"])
def test_memory_of_a_long_row_grows_with_it_and_not_with_its_square(see):
    def temporary(t):
        given = [jax.ShapeDtypeStruct((1, t, heads, 8), jnp.float32) for heads in (2, 1, 1)]
        run = jax.jit(lambda q, k, v: see(q, k, v, Layout.dense(1, t)))
        return run.lower(*given).compile().memory_analysis().temp_size_in_bytes

    assert temporary(8 * BLOCK) < 3 * temporary(4 * BLOCK) < 4 * BLOCK * 4 * BLOCK * 4


def test_a_long_row_is_causal():
    q, k, v = (x[:1, : BLOCK + 9] for x in arrays(BLOCK + 9))
    see = jax.jit(lambda q, k, v: attend_document(q, k, v, Layout.dense(1, BLOCK + 9)))
    moved = see(q, k.at[:, BLOCK].add(1.0), v.at[:, BLOCK].add(1.0)) - see(q, k, v)
    assert jnp.all(moved[:, :BLOCK] == 0) and jnp.all(jnp.any(moved[:, BLOCK:] != 0, axis=(2, 3)))


def test_a_chunk_longer_than_a_packed_row_is_the_document_by_blocks():
    def packed(t):
        places = jnp.arange(t)[None].repeat(2, axis=0)
        return Layout.packed(places % 300, 1 + places // 300)

    t = BLOCK + 40
    form, layout = jax.jit(partial(attend_chunk, chunk=4 * BLOCK)), packed(t)
    given = arrays(t)
    np.testing.assert_allclose(form(*given, layout), jax.jit(whole)(*given, layout.segments), atol=2e-6)
    t = 4 * BLOCK
    scores = 2 * 4 * t * t * 4
    assert form.lower(*arrays(t), packed(t)).compile().memory_analysis().temp_size_in_bytes < scores / 2


def test_blocks_of_other_documents_and_behind_are_not_computed_there_and_back():
    """Zero weight on a value that is no number would be no number."""
    q, k, v = arrays(24)
    segments = jnp.array([[1] * 8 + [2] * 8 + [3] * 8] * 2)
    k, v = (x.at[:, :8].set(jnp.nan).at[:, 16:].set(jnp.nan) for x in (k, v))
    _, *slopes = found = value_and_slopes(blocks, q, k, v, segments)
    assert all(jnp.all(jnp.isfinite(x[:, 8:16])) for x in found) and not jnp.all(jnp.isfinite(slopes[0]))


def test_a_block_of_nothing_is_refused():
    with pytest.raises(ValueError, match="Blockwise.block is 0; it must be at least 1 column"):
        Blockwise(block=0)
