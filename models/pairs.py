"""Attention in one piece: every query with every key, and a mask over the pairs."""

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from models.layers import contract


def attend(
    q: Float[Array, "b t h c"],
    k: Float[Array, "b s k c"],
    v: Float[Array, "b s k c"],
    visible: Bool[Array, "#b t s"],
) -> Float[Array, "b t h c"]:
    """Softmax attention of every query over its visible keys, of which there must be one; t s scores in float32."""
    k, v = rearrange([k, v], "two b s k c -> two b k s c")
    return attend_by_head(q, k, v, visible)


def attend_by_head(
    q: Float[Array, "b t h c"],
    k: Float[Array, "b k s c"],
    v: Float[Array, "b k s c"],
    visible: Bool[Array, "#b t s"],
) -> Float[Array, "b t h c"]:
    """The same with keys and values that already lie head by head, as a cache keeps them."""
    # Heads first: then no product transposes the scores, forward or backward, and they are the largest arrays here.
    q = rearrange(q, "b t (k g) c -> b k g t c", k=k.shape[1])
    scores = contract("bkgtc,bksc->bkgts", q, k) * q.shape[-1] ** -0.5
    # Exactly zero weight, and so exactly zero gradient, for what must not be seen.
    weights = jax.nn.softmax(jnp.where(visible[:, None, None], scores, -jnp.inf), axis=-1)
    y = contract("bkgts,bksc->bkgtc", weights.astype(v.dtype), v).astype(v.dtype)
    return rearrange(y, "b k g t c -> b t (k g) c")


def causal(t: int, s: int) -> Bool[Array, "1 t s"]:
    """Query i of the last t columns of s sees the columns up to its own."""
    return (jnp.arange(s)[None, :] <= jnp.arange(s - t, s)[:, None])[None]


def equal(queries: Int[Array, "b t"], keys: Int[Array, "b s"]) -> Bool[Array, "b t s"]:
    """Which queries and keys bear the same number."""
    return queries[:, :, None] == keys[:, None, :]
