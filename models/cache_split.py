"""What a piece sees of a cache that it is written to, whole or split: each device has its rows, heads and columns."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jax.sharding import PartitionSpec as Spec
from jaxtyping import Array, Bool, Float, Int

from models.layers import contract
from models.layout import Layout
from models.pairs import attend_by_head
from models.placement import Placement, along

CACHE = ("p", "b", "k", "s", "c")
"""letters of a cache's keys and values"""


def see(
    placement: Placement | None,
    chunk: int | None,
    q: Float[Array, "b t h c"],
    k: Float[Array, "b t k c"],
    v: Float[Array, "b t k c"],
    layout: Layout,
    i: Int[Array, ""],
    keys: Float[Array, "p b k s c"],
    values: Float[Array, "p b k s c"],
) -> tuple[Float[Array, "b t h c"], Float[Array, "p b k s c"], Float[Array, "p b k s c"]]:
    """What the tokens of a piece see of period i, and keys and values with theirs written into them.

    No key leaves its device: where columns are split, an answer is put together from what each device found, relative
    to the largest score of all. Without a chunk a token sees all before it.
    """
    operands = q, k, v, layout.positions, layout.valid, i, keys, values
    if placement is None:
        return _see(chunk, (), keys.shape[3], *operands)
    cut = placement.spec(CACHE, keys.shape)
    token, row = Spec(cut[1], None, cut[2]), Spec(cut[1])
    call = jax.shard_map(
        partial(_see, chunk, along(cut[3]), keys.shape[3]),
        mesh=placement.mesh,
        in_specs=(token, token, token, row, row, Spec(), cut, cut),
        out_specs=(token, cut, cut),
        check_vma=False,
    )
    return call(*operands)


def _see(chunk: int | None, columns: tuple[str, ...], whole: int, q, k, v, positions, valid, i, keys, values) -> Any:
    """The same on one device, whose slots of each row are one part of `whole`, in the order of the axes `columns`."""
    size = keys.shape[3]
    first = lax.axis_index(columns) * size if columns else 0
    rows, where = jnp.arange(q.shape[0])[:, None], _slots(positions, valid, whole)
    if columns:
        own = where - first
        where = jnp.where((own >= 0) & (own < size), own, size)
    old_keys, old_values = keys[i], values[i]
    keys = keys.at[i, rows, :, where].set(k, mode="drop")
    values = values.at[i, rows, :, where].set(v, mode="drop")
    slots = first + jnp.arange(size)
    if chunk is not None and q.shape[1] > 1:
        # The piece may take the place of what its own first tokens still see: they see the ring as it was.
        k, v = rearrange([k, v], "two b t k c -> two b k t c")
        k, v = jnp.concatenate([old_keys, k], axis=2), jnp.concatenate([old_values, v], axis=2)
        ring, piece = _see_ring(positions, slots, chunk), _see_piece(positions, chunk)
        # Every device has the piece, and one of them looks at it.
        piece = piece & (lax.axis_index(columns) == 0) if columns else piece
        visible = jnp.concatenate([ring, piece], axis=-1)
    else:
        k, v = keys[i], values[i]
        visible = slots <= (positions % whole)[..., None]
    y = _attend_together(columns, q, k, v, visible) if columns else attend_by_head(q, k, v, visible)
    return y, keys, values


def _attend_together(columns: tuple[str, ...], q, k, v, visible) -> Float[Array, "b t h c"]:
    """As `attend_by_head`, of keys on several devices, some of which may have none that a query sees."""
    q = rearrange(q, "b t (k g) c -> b k g t c", k=k.shape[1])
    scores = contract("bkgtc,bksc->bkgts", q, k) * q.shape[-1] ** -0.5
    seen = visible[:, None, None]
    largest = lax.pmax(jnp.max(jnp.where(seen, scores, -jnp.inf), axis=-1, keepdims=True), columns)
    weights = jnp.where(seen, jnp.exp(scores - largest), 0)
    total = lax.psum(jnp.sum(weights, axis=-1), columns)
    sums = lax.psum(contract("bkgts,bksc->bkgtc", weights.astype(v.dtype), v), columns)
    return rearrange((sums / total[..., None]).astype(v.dtype), "b k g t c -> b t (k g) c")


def _slots(positions: Int[Array, "b t"], valid: Bool[Array, "b t"], s: int) -> Int[Array, "b t"]:
    """The slot of each token among s; out of bounds for padding, and for what the same piece would overwrite."""
    end = positions[:, :1] + jnp.sum(valid, axis=1, keepdims=True)
    return jnp.where(valid & (positions >= end - s), positions % s, s)


def _see_ring(positions: Int[Array, "b t"], slots: Int[Array, " s"], chunk: int) -> Bool[Array, "b t s"]:
    """Which of these slots of a ring, as it was before the piece, each of its tokens sees."""
    rooms = positions // chunk
    held = slots < positions[:, :1] % chunk
    return (rooms == rooms[:, :1])[..., None] & held[:, None]


def _see_piece(positions: Int[Array, "b t"], chunk: int) -> Bool[Array, "b t t"]:
    """Which tokens of the piece itself each of them sees."""
    rooms = positions // chunk
    columns = jnp.arange(rooms.shape[1])
    return (rooms[:, :, None] == rooms[:, None]) & (columns <= columns[:, None])
