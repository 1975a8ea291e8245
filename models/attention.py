"""Attention of Llama 4 (iRoPE): chunked with rotary positions, or over the whole document with none."""

from functools import partial
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from models.config import Config, Tempering
from models.flash import Attend, Blockwise
from models.layers import Rotation, contract, draw, normalize, output_std
from models.layout import Layout
from models.remat import product


@runtime_checkable
class See(Protocol):
    """How tokens see each other (`models.context.Sight`)."""

    def __call__(
        self,
        q: Float[Array, "b t h c"],
        k: Float[Array, "b t k c"],
        v: Float[Array, "b t k c"],
        layout: Layout,
        chunk: int | None,
    ) -> Float[Array, "b t h c"]:
        """What each token gathers from the earlier ones of its chunk of its document, or without one from them all."""
        ...


class Attention(nnx.Module):
    """Grouped-query attention without biases; query head h reads key/value head h // g."""

    def __init__(self, config: Config, key: PRNGKeyArray):
        """Draws q, k, v with std fan_in^-0.5 and the output projection o smaller by the root of 2 * layers."""
        d, h, k, c = config.width, config.heads, config.kv_heads, config.head_dim
        keys = jax.random.split(key, 4)
        self.q = draw(keys[0], (d, h, c), d**-0.5, ("d", "h", "c"))
        self.k = draw(keys[1], (d, k, c), d**-0.5, ("d", "k", "c"))
        self.v = draw(keys[2], (d, k, c), d**-0.5, ("d", "k", "c"))
        self.o = draw(keys[3], (h, c, d), output_std(config, fan_in=h * c), ("h", "c", "d"))
        self.config = config

    def __call__(
        self, x: Float[Array, "b t d"], rope: bool, layout: Layout, rotation: Rotation, see: See
    ) -> Float[Array, "b t d"]:
        """What each token gathers from the tokens it sees; rotations, norms and softmax in float32.

        rope: rotary positions within a chunk of the document; otherwise none, over all of it.
        """
        q, k, v = self.project(x, rope, layout, rotation)
        # Kernels name what they gave by themselves.
        return product(self.gather(see(q, k, v, layout, self.config.chunk if rope else None)))

    def project(
        self, x: Float[Array, "b t d"], rope: bool, layout: Layout, rotation: Rotation
    ) -> tuple[Float[Array, "b t h c"], Float[Array, "b t k c"], Float[Array, "b t k c"]]:
        """Queries, keys and values, turned, normalised and tempered: what a cache keeps, and what attention needs."""
        config = self.config
        q, k, v = (
            product(contract(spec, x, weight[...]).astype(x.dtype)).astype(jnp.float32)
            for spec, weight in (("btd,dhc->bthc", self.q), ("btd,dkc->btkc", self.k), ("btd,dkc->btkc", self.v))
        )
        if rope:
            q, k = rotation(q), rotation(k)
            if config.qk_norm:
                q, k = normalize(q, config.eps), normalize(k, config.eps)
        elif config.tempering is not None:
            q = q * temper(layout.tempering, config.tempering)[..., None, None]
        return q.astype(x.dtype), k.astype(x.dtype), v.astype(x.dtype)

    def gather(self, y: Float[Array, "b t h c"]) -> Float[Array, "b t d"]:
        """From what the heads saw back to the width of the stream."""
        return contract("bthc,hcd->btd", y, self.o[...]).astype(y.dtype)


def temper(positions: Int[Array, "b t"], tempering: Tempering) -> Float[Array, "b t"]:
    """Factor on the queries of NoPE layers, in float32 from whole positions: bfloat16 would lose those past 256."""
    floors = (positions + 1) // tempering.floor
    return 1 + tempering.scale * jnp.log1p(floors.astype(jnp.float32))


def attend_document(
    q: Float[Array, "b t h c"],
    k: Float[Array, "b t k c"],
    v: Float[Array, "b t k c"],
    layout: Layout,
    attend: Attend = Blockwise(),  # noqa: B008 (frozen)
) -> Float[Array, "b t h c"]:
    """Every token over itself and all earlier ones of its document: O(t^2) time, and in long rows O(t) memory.

    Padding sees padding, so that no query is left without a key; no token sees it.
    """
    return attend(q, k, v) if layout.aligned else attend(q, k, v, layout.segments, layout.segments)


def attend_chunk(
    q: Float[Array, "b t h c"],
    k: Float[Array, "b t k c"],
    v: Float[Array, "b t k c"],
    layout: Layout,
    chunk: int,
    attend: Attend = Blockwise(),  # noqa: B008 (frozen)
) -> Float[Array, "b t h c"]:
    """Every token over itself and the earlier ones of its chunk of its document: O(t chunk).

    Chunks are counted from each document's start. Where all start at column 0, they are blocks of columns. Anywhere
    else a chunk reaches back at most chunk - 1 columns, into one block more.
    """
    b, t = q.shape[:2]
    if t <= chunk:  # no document has a second chunk
        return attend_document(q, k, v, layout, attend)
    fold = partial(_fold, chunk=chunk)
    if layout.aligned:
        y = attend(fold(q), fold(k), fold(v))
    else:
        # The zeros before and after a row are padding to the rooms too: of segment 0.
        rooms, keys = number_rooms(layout, chunk, t), partial(_fold_with_previous, chunk=chunk)
        y = attend(fold(q), keys(k), keys(v), fold(rooms), keys(rooms))
    return rearrange(y, "(b n) t h c -> b (n t) h c", b=b)[:, :t]


def number_rooms(layout: Layout, chunk: int, t: int) -> Int[Array, "b t"]:
    """A number for each chunk of each document of rows of t columns, in order; of padding less than of any document."""
    return layout.segments * (t // chunk + 1) + layout.positions // chunk


def _fold(x: Shaped[Array, "b t *rest"], chunk: int) -> Shaped[Array, "bn chunk *rest"]:
    """Cuts rows into blocks of `chunk` columns, the last filled up with zeros."""
    return rearrange(_pad(x, 0, -x.shape[1] % chunk), "b (n t) ... -> (b n) t ...", t=chunk)


def _fold_with_previous(x: Shaped[Array, "b t *rest"], chunk: int) -> Shaped[Array, "bn chunk2 *rest"]:
    """The same blocks, each after the block before it; zeros stand before the first."""
    before = _pad(x, chunk, -x.shape[1] % chunk)[:, :-chunk]
    return jnp.concatenate([_fold(before, chunk), _fold(x, chunk)], axis=1)


def _pad(x: Shaped[Array, "b t *rest"], before: int, after: int) -> Shaped[Array, "b s *rest"]:
    return jnp.pad(x, [(0, 0), (before, after)] + [(0, 0)] * (x.ndim - 2))
