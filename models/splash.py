"""Splash: the TPU's flash attention, forward and backward, with grids that skip what nobody sees."""

from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from models.blockwise import NOWHERE, visits
from models.remat import PRODUCT

LANES = 128
"""a TPU's vectors are this long: blocks are multiples of it"""


@dataclass(frozen=True)
class Splash:
    """jax's splash attention for TPUs, told for each row which blocks hold something to see.

    Causality is computed in the kernel from each query's place, rooms are its segment ids. Which blocks to visit is
    computed from both before, on the device: so places may differ between the devices of a mesh, and packed documents
    cost only their own blocks. Queries are scaled by c^-0.5 before the kernel, in float32, and rounded to their dtype.

    block_q, block_kv: columns of a block, multiples of 128; a row takes the largest that divide it.
    interpret: as plain XLA, on any backend: slow, to test it.
    """

    block_q: int = 512
    block_kv: int = 1024
    interpret: bool = False

    def __post_init__(self):
        """Refuses blocks that a TPU cannot hold in vectors."""
        for name in ("block_q", "block_kv"):
            size = vars(self)[name]
            if size < LANES or size % LANES:
                raise ValueError(f"Splash.{name} is {size}; it must be a multiple of {LANES}, such as 512")

    def __call__(
        self,
        q: Float[Array, "b t h c"],
        k: Float[Array, "b s k c"],
        v: Float[Array, "b s k c"],
        rooms: Int[Array, "b t"] | None = None,
        theirs: Int[Array, "b s"] | None = None,
        places: Int[Array, " t"] | None = None,
    ) -> Float[Array, "b t h c"]:
        """See Attend."""
        t, s = q.shape[1], k.shape[1]
        q = (q.astype(jnp.float32) * q.shape[-1] ** -0.5).astype(q.dtype)
        q, k, v = (rearrange(_pad(x, 1), "b t h c -> b h t c") for x in (q, k, v))
        last = jnp.arange(s - t, s) if places is None else places
        places = _pad(last.astype(jnp.int32), 0, mode="edge")
        if rooms is None or theirs is None:
            # What fills the row up stands after every query's place.
            y = jax.vmap(lambda q, k, v: self._row(q, k, v, None, None, places))(q, k, v)
        else:
            rooms, theirs = _pad(rooms, 1, mode="edge"), _pad(theirs, 1, constant_values=NOWHERE)
            # Rows differ in what to skip, so they come one after the other; each fills the chip.
            row = lambda each: self._row(each[0], each[1], each[2], each[3], each[4], places)  # noqa: E731
            y = lax.map(row, (q, k, v, rooms, theirs))
        return rearrange(y, "b h t c -> b t h c")[:, :t]

    def _row(
        self,
        q: Float[Array, "h t c"],
        k: Float[Array, "k s c"],
        v: Float[Array, "k s c"],
        rooms: Int[Array, " t"] | None,
        theirs: Int[Array, " s"] | None,
        places: Int[Array, " t"],
    ) -> Float[Array, "h t c"]:
        from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
        from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo

        size_q, size_kv = _fit(q.shape[1], self.block_q), _fit(k.shape[1], self.block_kv)
        columns = jnp.arange(k.shape[1])
        ours, others = (jnp.zeros_like(places), columns * 0) if rooms is None or theirs is None else (rooms, theirs)
        seen = visits(
            rearrange(ours, "(n t) -> n 1 t", t=size_q), rearrange(others, "(m s) -> m 1 s", s=size_kv),
            rearrange(places, "(n t) -> n t", t=size_q), rearrange(columns, "(m s) -> m s", s=size_kv),
        )  # fmt: skip
        # Small numbers: the maps lie in a TPU's scalar memory, of which there is 1 MiB.
        ahead = MaskInfo(_next(seen)[None], None, seen[None].astype(jnp.int8), None, cast(Any, places))
        across = ahead._replace(data_next=_next(seen.T).T[None])
        kernel = splash.SplashAttentionKernel(
            ahead, ahead, across, is_mqa=False, save_residuals=False, mask_value=splash.DEFAULT_MASK_VALUE,
            attn_logits_soft_cap=None, residual_checkpoint_name=PRODUCT, mask_function=_behind,
            interpret=self.interpret,
            block_sizes=splash.BlockSizes(
                block_q=size_q, block_kv=size_kv, block_kv_compute=_fit(size_kv, 512),
                block_q_dkv=size_q, block_kv_dkv=size_kv, block_kv_dkv_compute=_fit(size_kv, 512),
                block_q_dq=size_q, block_kv_dq=size_kv,
            ),
        )  # fmt: skip
        numbers = None if rooms is None or theirs is None else splash.SegmentIds(rooms, theirs)
        return cast(Array, kernel(q, k, v, numbers))


def _behind(places: Array, keys: Array) -> Array:
    return places >= keys


def _next(seen: Bool[Array, "n m"]) -> Int[Array, "n m"]:
    """Of each block, in the order of visits, which column to fetch: its own, or that of the next one visited."""
    flat = rearrange(seen, "n m -> (n m)")
    order = jnp.where(flat, jnp.arange(flat.size), flat.size)
    following = lax.cummin(order, reverse=True)
    following = jnp.where(following == flat.size, jnp.min(order), following) % seen.shape[1]
    small = jnp.int16 if seen.shape[1] <= 2**15 else jnp.int32
    return rearrange(following.astype(small), "(n m) -> n m", m=seen.shape[1])


def _fit(length: int, block: int) -> int:
    """The largest multiple of LANES up to block that divides length, itself one."""
    return next(size for size in range(min(block, length) // LANES * LANES, 0, -LANES) if length % size == 0)


def _pad(x: Array, axis: int, **fill: Any) -> Array:
    """Filled up to a multiple of LANES, with zeros where nothing else is said."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % LANES)
    return jnp.pad(x, widths, **fill)
