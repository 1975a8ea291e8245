"""Attention over split rows is attention over whole rows, and every device has as much to do."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from models.across import Gather, Ring
from models.attention import attend_chunk, attend_document
from models.context import attend_chunk_split, attend_document_split
from models.flash import Blockwise
from models.layout import Layout

T = 64
NEAR = Blockwise(block=4)
EXCHANGES = {"gather": Gather(), "gather in parts": Gather(parts=2), "ring": Ring(block=4)}


def pack(*lengths):
    positions = np.concatenate([np.arange(length) for length in lengths] + [np.zeros(T - sum(lengths), int)])
    segments = np.concatenate([np.full(length, i + 1) for i, length in enumerate(lengths)])
    segments = np.concatenate([segments, np.zeros(T - sum(lengths), int)])
    return Layout.packed(jnp.asarray(positions, jnp.int32)[None], jnp.asarray(segments, jnp.int32)[None])


LAYOUTS = {
    "aligned": Layout.dense(1, T),
    "packed": pack(3, 21, 8, 27),
    "padded": Layout.left_padded(jnp.arange(T)[None] >= 13),
}


def arrays():
    shapes = ((1, T, 4, 8), (1, T, 2, 8), (1, T, 2, 8), (1, T, 4, 8))
    return [jax.random.normal(each, s) for each, s in zip(jax.random.split(jax.random.key(0), 4), shapes, strict=True)]


def split(form, n):
    """The form on n slices of columns, of two axes where there are four."""
    shape, names = ((2, n // 2), ("out", "in")) if n > 2 else ((n,), ("in",))
    mesh = jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names), devices=jax.devices()[:n])
    columns = PartitionSpec(None, names)
    given = (columns,) * 4
    return jax.shard_map(partial(form, axis=names), mesh=mesh, in_specs=given, out_specs=columns, check_vma=False)


@partial(jax.jit, static_argnums=0)
def value_and_slopes(form, q, k, v, weight, layout):
    def loss(q, k, v):
        y = form(q, k, v, layout)
        return jnp.sum(jnp.where(layout.valid[..., None, None], y * weight, 0)), y

    slopes, y = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(q, k, v)
    return jnp.where(layout.valid[..., None, None], y, 0), *slopes


def same(ours, theirs, layout):
    given = arrays()
    for one, other in zip(*(value_and_slopes(form, *given, layout) for form in (ours, theirs)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES.keys())
@pytest.mark.parametrize("n", [2, 4, 8])
def test_split_documents_are_whole_documents(layout, exchange, n):
    see = partial(attend_document_split, attend=NEAR, exchange=exchange)
    same(split(see, n), attend_document, layout)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("chunk", [4, 6, 16, 24, 50])
@pytest.mark.parametrize("n", [2, 4, 8])
def test_split_chunks_are_whole_chunks(layout, chunk, n):
    see = partial(attend_chunk_split, chunk=chunk, attend=NEAR)
    same(split(see, n), partial(attend_chunk, chunk=chunk), layout)
