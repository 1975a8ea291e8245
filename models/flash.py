"""Attend: how attention is computed. Every one gives the same answers; they differ in speed, and in where they run."""

from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
from einops import repeat
from jaxtyping import Array, Float, Int

from models.blockwise import BLOCK, attend_blocks
from models.pairs import attend, causal, equal
from models.splash import Splash

__all__ = ["Attend", "Blockwise", "CuDNN", "Splash", "suited"]


@runtime_checkable
class Attend(Protocol):
    """Causal attention inside rooms: a query sees the keys of its own room up to its own place.

    A room is a number that is not negative: of a document on NoPE layers, of a chunk of a document on the others.
    """

    def __call__(
        self,
        q: Float[Array, "b t h c"],
        k: Float[Array, "b s k c"],
        v: Float[Array, "b s k c"],
        rooms: Int[Array, "b t"] | None = None,
        theirs: Int[Array, "b s"] | None = None,
        places: Int[Array, " t"] | None = None,
    ) -> Float[Array, "b t h c"]:
        """Returns the softmax average of values, in the dtype of q; scores are scaled by c^-0.5.

        rooms: of the queries; None (and theirs None) is one room for all. theirs: of the keys; a negative one is seen
            by nobody. Every query sees a key, or what it answers is not defined.
        places: the last column of keys that each query may see; None: the queries are the last t of the columns.
        """
        ...


@dataclass(frozen=True)
class Blockwise:
    """XLA alone, on any backend and in any dtype; rows longer than a block by blocks (`models/blockwise.py`)."""

    block: int = BLOCK

    def __post_init__(self):
        """Refuses a block of nothing."""
        if self.block < 1:
            raise ValueError(f"Blockwise.block is {self.block}; it must be at least 1 column")

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
        (b, t), s = q.shape[:2], k.shape[1]
        if t <= self.block and s <= 2 * self.block:
            visible = causal(t, s) if places is None else (jnp.arange(s)[None, :] <= places[:, None])[None]
            return attend(q, k, v, visible if rooms is None or theirs is None else visible & equal(rooms, theirs))
        if rooms is None or theirs is None:
            rooms, theirs = jnp.zeros((b, t), jnp.int32), jnp.zeros((b, s), jnp.int32)
        places = jnp.arange(s - t, s) if places is None else places
        return attend_blocks(q, k, v, rooms, theirs, places, self.block)


@dataclass(frozen=True)
class CuDNN:
    """NVIDIA: cuDNN's flash attention where a row is one room, the Triton kernel of jax where rooms must be told apart.

    Of what jax gives of cuDNN (`jax.nn.dot_product_attention`) nothing knows rooms but a full t x s bias. It knows
    no float32, and neither kernel places that are no constants: that is done by `otherwise`.

    tile: columns that the Triton kernel takes at once; rows that are no multiple of it are done by `otherwise`, too.
    interpret: the Triton kernel as plain XLA, on any backend: slow, to test it.
    """

    otherwise: Blockwise = Blockwise(block=2048)
    tile: int = 128
    interpret: bool = False

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
        if places is not None or q.dtype == jnp.float32 or s % self.tile or q.shape[-1] % 8:
            return self.otherwise(q, k, v, rooms, theirs, places)
        if rooms is None or theirs is None:
            if t != s:
                return self.otherwise(q, k, v, rooms, theirs, places)
            return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")
        return self._by_rooms(q, k, v, rooms, theirs)

    def _by_rooms(self, q: Array, k: Array, v: Array, rooms: Array, theirs: Array) -> Array:
        """The kernel wants as many queries as keys, and as many heads: whoever is made up sees itself."""
        from jax.experimental.pallas.ops.gpu.attention import BlockSizes, mha

        t, s, c = q.shape[1], k.shape[1], q.shape[-1]
        q = jnp.pad(q, [(0, 0), (s - t, 0), (0, 0), (0, 0)])
        k, v = (repeat(x, "b s k c -> b s (k g) c", g=q.shape[2] // k.shape[2]) for x in (k, v))
        rooms = jnp.concatenate([theirs[:, : s - t], rooms], axis=1)
        sizes = BlockSizes(self.tile, self.tile, *[min(self.tile, 32)] * 4)
        y = cast(Array, mha(q, k, v, rooms, c**-0.5, causal=True, block_sizes=sizes, interpret=self.interpret))
        return y[:, s - t :]


def suited(platform: str) -> Attend:
    """What suits a platform as jax names it ("cpu", "gpu", "cuda", "tpu"): where platforms differ, they differ here."""
    return {"tpu": Splash(), "gpu": CuDNN(), "cuda": CuDNN()}.get(platform, Blockwise())
