"""Attention over long documents by blocks: exact, in memory that grows with the row and not with its square."""

from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jaxtyping import Array, Float, Int

from models.layers import contract

BLOCK = 512
"""columns of a block of queries or keys"""
LONG = BLOCK
"""longer rows are taken by blocks; on a CPU that is much faster, too (`benchmarks/long_context.py`)"""
NEVER = jnp.finfo(jnp.float32).min
"""below every score, and finite: infinity minus infinity would be no number"""

Running = tuple[Float[Array, "b k g t"], Float[Array, "b k g t"], Float[Array, "b k g t c"]]
"""of the keys seen so far: the largest score, the sum of weights relative to it, and of weights times values"""


def attend_blocks(
    q: Float[Array, "b t h c"],
    k: Float[Array, "b t k c"],
    v: Float[Array, "b t k c"],
    segments: Int[Array, "b t"] | None,
    block: int = BLOCK,
) -> Float[Array, "b t h c"]:
    """Causal softmax attention inside segments, one block of queries after the other over one block of keys at a time.

    The softmax is kept relative to the largest score so far (Milakov and Gimelshein 2018, arXiv:1805.02867), so nothing
    larger than block x block is ever there; blocks of keys behind the queries are skipped. The gradient computes every
    block again (Rabe and Staats 2021, arXiv:2112.05682).

    segments: None is one document a row.
    """
    b, t = q.shape[:2]
    q, k, v = (_fold(x, block) for x in (q, k, v))
    q = rearrange(q, "n b t (k g) c -> n b k g t c", k=k.shape[3])
    k, v = rearrange([k, v], "two n b s k c -> two n b k s c")
    kinds = _fold(jnp.ones((b, t), jnp.int32) if segments is None else segments, block)
    count = len(q)

    def row(each: tuple[Array, Array, Array]) -> Array:
        """One block of queries, over all blocks of keys."""
        i, queries, own = each

        def step(running: Running, block: tuple[Array, Array, Array, Array]) -> tuple[Running, None]:
            j, keys, values, theirs = block
            take = partial(_take, queries, keys, values, own[:, :, None] == theirs[:, None], i - j)
            return lax.cond(j <= i, take, lambda running: running, running), None

        shape = queries.shape[:-1]
        start = (jnp.full(shape, NEVER), jnp.zeros(shape), jnp.zeros(queries.shape, jnp.float32))
        (_, total, sums), _ = lax.scan(jax.checkpoint(step), start, (jnp.arange(count), k, v, kinds))
        return (sums / total[..., None]).astype(queries.dtype)

    y = lax.map(jax.checkpoint(row), (jnp.arange(count), q, kinds))
    return rearrange(y, "n b k g t c -> b (n t) (k g) c")[:, :t]


def _take(
    q: Float[Array, "b k g t c"],
    k: Float[Array, "b k s c"],
    v: Float[Array, "b k s c"],
    same: Array,
    ahead: Array,
    running: Running,
) -> Running:
    """Adds one block of keys, `ahead` blocks before the queries, to what the queries have seen."""
    largest, total, sums = running
    scores = contract("bkgtc,bksc->bkgts", q, k) * q.shape[-1] ** -0.5
    places = jnp.arange(q.shape[-2])
    seen = same & ((places[None, :] <= places[:, None]) | (ahead > 0))
    seen = seen[:, None, None]
    # Weights do not depend on what they are relative to, so no gradient need go through it.
    now = lax.stop_gradient(jnp.maximum(largest, jnp.max(jnp.where(seen, scores, NEVER), axis=-1)))
    weights = jnp.exp(jnp.where(seen, scores - now[..., None], -jnp.inf))
    kept = jnp.exp(largest - now)
    more = contract("bkgts,bksc->bkgtc", weights.astype(v.dtype), v)
    return now, total * kept + jnp.sum(weights, axis=-1), sums * kept[..., None] + more


def _fold(x: Array, block: int) -> Array:
    """Cuts rows into blocks, blocks first, the last filled up with zeros; those come after every real column."""
    padded = jnp.pad(x, [(0, 0), (0, -x.shape[1] % block)] + [(0, 0)] * (x.ndim - 2))
    return rearrange(padded, "b (n t) ... -> n b t ...", t=block)
