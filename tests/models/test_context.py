"""Attention over split rows is attention over whole rows, and every device has as much to do."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from models.across import Gather, Ring, balanced_places
from models.attention import attend_chunk, attend_document
from models.blockwise import visits
from models.context import attend_chunk_split, attend_document_split
from models.flash import Blockwise
from models.layout import Layout

T = 64
NEAR = Blockwise(block=4)
WAYS = {"gather": Gather(), "gather in parts": Gather(parts=2), "ring": Ring(block=4)}


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


@pytest.mark.parametrize(
    ("n", "layout", "across"),
    [
        (2, "packed", "gather"),
        (4, "aligned", "gather"),
        (8, "padded", "gather"),
        (4, "packed", "gather in parts"),
        (2, "aligned", "ring"),
        (4, "padded", "ring"),
        (8, "packed", "ring"),
    ],
)
def test_split_documents_are_whole_documents(n, layout, across):
    see = partial(attend_document_split, attend=NEAR, across=WAYS[across])
    same(split(see, n), attend_document, LAYOUTS[layout])


@pytest.mark.parametrize(
    ("n", "layout", "chunk", "across"),
    [
        (2, "packed", 6, "gather"),
        (2, "packed", 50, "gather"),
        (4, "aligned", 8, "gather"),
        (4, "aligned", 6, "gather"),
        (4, "padded", 16, "gather"),
        (8, "aligned", 16, "gather"),
        (8, "aligned", 32, "ring"),
        (8, "aligned", 24, "gather"),
        (8, "padded", 20, "gather"),
    ],
)
def test_split_chunks_are_whole_chunks(n, layout, chunk, across):
    see = partial(attend_chunk_split, chunk=chunk, attend=NEAR, across=WAYS[across])
    same(split(see, n), partial(attend_chunk, chunk=chunk), LAYOUTS[layout])


def sent(layout, chunk, n=4):
    """The collectives of a call on rows in n slices."""
    see = split(partial(attend_chunk_split, chunk=chunk, attend=NEAR), n)
    text = str(jax.make_jaxpr(see)(*arrays()[:3], layout))
    return {name for name in ("ppermute", "all_gather", "psum", "all_to_all") if name in text}


def test_nothing_is_sent_where_no_chunk_crosses_a_border():
    assert sent(LAYOUTS["aligned"], 8) == sent(LAYOUTS["aligned"], 16) == set()


def test_chunks_that_cross_a_border_fetch_the_columns_before_and_not_the_row():
    assert sent(LAYOUTS["packed"], 8) == {"ppermute"}


def places(n):
    """The columns of each of n devices after halves are swapped, [n t]."""
    mesh = jax.make_mesh((n,), ("in",), axis_types=(AxisType.Auto,), devices=jax.devices()[:n])
    run = lambda: balanced_places(T // n, "in", n)[None]  # noqa: E731
    return jax.shard_map(run, mesh=mesh, in_specs=(), out_specs=PartitionSpec("in"), check_vma=False)()


def blocks(ours, theirs, block=2):
    """How many blocks are computed of queries at these columns over keys at those."""
    ours, theirs = (x.reshape(-1, block) for x in (ours, theirs))
    rooms = [jnp.zeros_like(x)[:, None] for x in (ours, theirs)]
    return int(jnp.sum(visits(*rooms, ours, theirs)))


@pytest.mark.parametrize("n", [2, 4, 8])
def test_every_device_computes_equally_many_blocks(n):
    counts = [blocks(mine, jnp.arange(T)) for mine in places(n)]
    assert max(counts) - min(counts) <= 1
    contiguous = [blocks(mine, jnp.arange(T)) for mine in jnp.arange(T).reshape(n, -1)]
    assert sum(contiguous) == sum(counts) and max(contiguous) - min(contiguous) > T // n


def test_every_device_computes_equally_many_blocks_at_every_turn_of_the_ring():
    columns = places(8)
    counts = {blocks(mine, theirs) for i, mine in enumerate(columns) for j, theirs in enumerate(columns) if i != j}
    own = {blocks(mine, mine) for mine in columns}
    assert len(counts) == len(own) == 1


def test_what_a_device_computes_is_what_was_counted():
    """An Attend that answers with its count; half of each answer comes from another device."""

    def count(q, k, v, rooms, theirs, places):
        fold = lambda x: x.reshape(1, -1, 2).swapaxes(0, 1)  # noqa: E731
        seen = visits(fold(rooms), fold(theirs), places.reshape(-1, 2), jnp.arange(T).reshape(-1, 2))
        return jnp.full(q.shape, jnp.sum(seen), q.dtype)

    n = 8
    y = split(partial(attend_document_split, attend=count), n)(*arrays()[:3], LAYOUTS["aligned"])
    found = {blocks(mine, jnp.arange(T)) for mine in places(n)}
    assert set(np.unique(y).tolist()) == found


def test_a_gather_in_parts_that_do_not_divide_the_heads_is_refused():
    see = partial(attend_document_split, attend=NEAR, across=Gather(parts=3))
    with pytest.raises(ValueError, match="Gather.parts = 3 does not divide 2 key/value heads; take a divisor"):
        split(see, 2)(*arrays()[:3], LAYOUTS["aligned"])


@pytest.mark.parametrize(("make", "name"), [(Gather, "Gather.parts is 0"), (Ring, "Ring.block is 0")])
def test_ways_of_nothing_are_refused(make, name):
    with pytest.raises(ValueError, match=f"{name}; it must be at least 1"):
        make(0)
