"""A cache whose columns are split over devices: each writes, and reads, the columns that it holds."""

from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jaxtyping import Array, Float, Int

from models.layers import contract
from models.placement import Placement, along

CACHE = ("p", "b", "k", "s", "c")
"""letters of a cache's keys and values"""


def split_columns(placement: Placement | None, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Mesh axes over which the columns of such a cache lie."""
    return () if placement is None else along(placement.spec(CACHE, shape)[3])


def see_token(
    placement: Placement,
    q: Float[Array, "b 1 h c"],
    k: Float[Array, "b 1 k c"],
    v: Float[Array, "b 1 k c"],
    positions: Int[Array, "b 1"],
    valid: Int[Array, "b 1"],
    i: Int[Array, ""],
    keys: Float[Array, "p b k s c"],
    values: Float[Array, "p b k s c"],
) -> tuple[Float[Array, "b 1 h c"], Float[Array, "p b k s c"], Float[Array, "p b k s c"]]:
    """What one token of each row sees in period i of a cache that it is written to first.

    No key leaves its device: a row's answer is put together from what each found, relative to the largest score of all.
    """
    cut = placement.spec(CACHE, keys.shape)
    rows, heads, columns = cut[1], cut[2], along(cut[3])
    spec = jax.sharding.PartitionSpec
    token, row = spec(rows, None, heads), spec(rows)
    call = jax.shard_map(
        partial(_own, columns, keys.shape[3]),
        mesh=placement.mesh,
        in_specs=(token, token, token, row, row, spec(), cut, cut),
        out_specs=(token, cut, cut),
        check_vma=False,
    )
    return call(q, k, v, positions, valid, i, keys, values)


def _own(columns: tuple[str, ...], whole: int, q, k, v, positions, valid, i, keys, values):
    size = keys.shape[3]
    first = lax.axis_index(columns) * size
    slot = positions % whole - first
    where = jnp.where((valid > 0) & (slot >= 0) & (slot < size), slot, size)
    rows = jnp.arange(q.shape[0])[:, None]
    keys, values = (old.at[i, rows, :, where].set(new, mode="drop") for old, new in ((keys, k), (values, v)))
    q = rearrange(q, "b t (k g) c -> b k g t c", k=k.shape[2])
    scores = contract("bkgtc,bksc->bkgts", q, keys[i]) * q.shape[-1] ** -0.5
    seen = (first + jnp.arange(size) <= positions % whole)[:, None, None, None]
    largest = lax.pmax(jnp.max(jnp.where(seen, scores, -jnp.inf), axis=-1, keepdims=True), columns)
    weights = jnp.where(seen, jnp.exp(scores - largest), 0)
    total = lax.psum(jnp.sum(weights, axis=-1), columns)
    sums = lax.psum(contract("bkgts,bksc->bkgtc", weights.astype(v.dtype), values[i]), columns)
    y = (sums / total[..., None]).astype(v.dtype)
    return rearrange(y, "b k g t c -> b t (k g) c"), keys, values
