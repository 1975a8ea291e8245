"""Megablox: a dispatch for TPUs. Tokens sorted by expert, then the grouped product that jax has for them in Pallas."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from models.dispatch import flat, sort_by_expert
from models.remat import product


@dataclass(frozen=True, kw_only=True)
class Megablox:
    """As `Ragged`, with `jax.experimental.pallas.ops.tpu.megablox`: dropless, and rows of no expert cost nothing.

    Its kernel (MegaBlocks, arXiv:2211.15841) takes a tile of rows times an expert's tile of weights at once; where an
    expert ends inside a tile, the tile is done for both. Sums add up in float32 and are rounded to the dtype of x, as
    are the slopes, so that the gradient's products are in that dtype too.

    rows, depth, width: of a tile: of tokens, of what is added up over, of what comes out; less where there is less.
    interpret: the kernel as plain XLA, on any backend: slow, to test it.
    """

    rows: int = 512
    depth: int = 1024
    width: int = 1024
    interpret: bool = False

    def __post_init__(self):
        """Refuses tiles that no TPU has lanes for."""
        for name, multiple in (("rows", 8), ("depth", 128), ("width", 128)):
            size = vars(self)[name]
            if size < 1 or size % multiple and not self.interpret:
                raise ValueError(
                    f"Megablox.{name} is {size}; it must be a multiple of {multiple}: take 512 rows, 1024 by 1024"
                )

    @flat
    def __call__(
        self,
        x: Float[Array, "n d"],
        ids: Int[Array, "n r"],
        scores: Float[Array, "n r"],
        gate_up: Float[Array, "e d 2 f"],
        down: Float[Array, "e f d"],
    ) -> Float[Array, "n d"]:
        """See Dispatch."""
        order, place, start = sort_by_expert(ids, gate_up.shape[0])
        sizes = start[1:] - start[:-1]
        # The kernel leaves what was in memory in the rows of no group, in the gradient's as well: anything, NaN too,
        # which times 0 is not 0. So they are replaced where they come out, both ways.
        there = (jnp.arange(ids.size) < start[-1])[:, None]
        only = lambda rows: jnp.where(there, rows, 0)  # noqa: E731
        choices = rearrange(scores, "n r -> (n r) 1")[order].astype(jnp.float32)
        inputs = product(only((choices * x[order // ids.shape[1]].astype(jnp.float32)).astype(x.dtype)))
        fused = rearrange(gate_up, "e d z f -> e d (z f)")
        both = product(only(self._multiply(inputs, fused, sizes)))
        gate, up = rearrange(both.astype(jnp.float32), "m (z f) -> z m f", z=2)
        inner = only((jax.nn.silu(gate) * up).astype(x.dtype))
        outputs = only(self._multiply(inner, down, sizes))[place]
        if ids.shape[1] == 1:
            return outputs
        return jnp.sum(rearrange(outputs.astype(jnp.float32), "(n r) d -> n r d", r=ids.shape[1]), axis=1).astype(
            x.dtype
        )

    def _multiply(
        self, rows: Float[Array, "m k"], weights: Float[Array, "e k n"], sizes: Int[Array, " e"]
    ) -> Float[Array, "m n"]:
        """Each row times the weights of its group; the kernel wants a whole number of tiles of rows."""
        # Pallas for TPUs takes most of a second to import, and nothing else here needs it.
        from jax.experimental.pallas.ops.tpu.megablox import gmm

        m, k, n = *rows.shape, weights.shape[2]
        tile = min(self.rows, -(-m // 8) * 8)
        padded = jnp.pad(rows, ((0, -m % tile), (0, 0)))
        tiling = (tile, min(self.depth, k), min(self.width, n))
        return gmm(padded, weights, sizes, rows.dtype, tiling, interpret=self.interpret)[:m]
