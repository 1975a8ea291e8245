"""Layout: where each token of a batch stands, and which tokens are strangers to each other."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from einops import repeat
from jaxtyping import Array, Bool, Int


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where each token stands. The tokens of one document lie side by side, in order.

    positions: counted from 0 inside each document; rotary angles and chunk boundaries follow them.
    segments: 0 is padding, documents are numbered from 1; tokens attend inside their own segment only.
    tempering: the position that the attention temperature of NoPE layers goes by.
    aligned: every row is one document from its first column to its last, so that chunk boundaries stand at the same
        columns everywhere; attention then needs one block of keys a chunk instead of two.
    """

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with shardings, shapes or stacks at its leaves

    positions: Int[Array, "b t"]
    segments: Int[Array, "b t"]
    tempering: Int[Array, "b t"]
    aligned: bool = field(default=False, metadata={"static": True})

    @property
    def valid(self) -> Bool[Array, "b t"]:
        """Which columns hold a token, not padding."""
        return self.segments > 0

    @staticmethod
    def dense(b: int, t: int) -> "Layout":
        """One document of t tokens in each of b rows."""
        positions = repeat(jnp.arange(t), "t -> b t", b=b)
        return Layout(positions=positions, segments=jnp.ones_like(positions), tempering=positions, aligned=True)

    @staticmethod
    def packed(positions: Int[Array, "b t"], segments: Int[Array, "b t"]) -> "Layout":
        """Several documents in a row, each as if it were alone: everything restarts with it."""
        return Layout(positions=positions, segments=segments, tempering=positions)

    @staticmethod
    def left_padded(mask: Bool[Array, "b t"], huggingface: bool = False) -> "Layout":
        """One document a row with padding before it (or after it); mask is true at its tokens.

        huggingface: temper by the column, as transformers does, in place of the position. A padded row then differs
        from the same row unpadded; only comparisons with transformers want that.
        """
        segments = mask.astype(jnp.int32)
        positions = jnp.maximum(jnp.cumsum(segments, axis=1) - 1, 0)
        columns = jnp.broadcast_to(jnp.arange(mask.shape[1]), mask.shape)
        return Layout(positions=positions, segments=segments, tempering=columns if huggingface else positions)
