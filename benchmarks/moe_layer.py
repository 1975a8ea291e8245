"""What does dropless dispatch cost, forward and backward, against products that need no dispatch?

    python -m benchmarks.moe_layer [--shapes full] [--rounds 9] [--skew 0.5]

The sides of a table run in alternation in one process. `balanced` is one batched product [e, n / e]: what a perfectly
even router would need and nothing else. `ideal` is one dense expert on all tokens: the same FLOPs without experts.
`ceiling` is a large square product, as fast as this machine multiplies. Float32, top-1.
"""

import argparse
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import rearrange

from benchmarks.timing import alternate
from models.blocks import Blocks
from models.moe import suited


@dataclass(frozen=True)
class Shape:
    """Tokens, width, feed-forward width and experts of a layer."""

    n: int
    d: int
    f: int
    e: int

    @property
    def flops(self) -> float:
        """FLOPs of forward and backward: three products of n d f, each with two for the gradient."""
        return 3 * 3 * 2 * self.n * self.d * self.f


SHAPES = {
    "full": [Shape(2048, 256, 512, 16), Shape(2048, 256, 512, 128)],
    "pico": [
        Shape(1024, 64, 104, 16), Shape(2048, 64, 104, 16), Shape(1024, 64, 104, 32), Shape(2048, 64, 104, 32),
        Shape(1024, 128, 208, 16), Shape(2048, 128, 208, 16),
    ],
}  # fmt: skip


def balanced(x, gate_up, down):
    """Experts on equally many tokens each: x [e c d], gate_up [e d 2f]."""
    gate, up = jnp.split(jnp.einsum("ecd,edf->ecf", x, gate_up), 2, axis=-1)
    return jnp.einsum("ecf,efd->ecd", jax.nn.silu(gate) * up, down)


def contest(shape: Shape, skew: float):
    """Forward and backward of each side as a function of no arguments, and the fullest expert's load over the mean."""
    keys = jax.random.split(jax.random.key(0), 7)
    x = jax.random.normal(keys[0], (shape.n, shape.d))
    gate_up = jax.random.normal(keys[1], (shape.e, shape.d, 2, shape.f)) * shape.d**-0.5
    down = jax.random.normal(keys[2], (shape.e, shape.f, shape.d)) * shape.f**-0.5
    slope = jax.random.normal(keys[3], x.shape)
    scores = jax.random.uniform(keys[4], (shape.n, 1))
    taste = jnp.broadcast_to(skew * jax.random.normal(keys[5], (shape.e,)), (shape.n, shape.e))
    ids = jax.random.categorical(keys[6], taste)[:, None].astype(jnp.int32)

    def dispatched(dispatch):
        def loss(x, scores, gate_up, down):
            return jnp.sum(dispatch(x, ids, scores, gate_up, down) * slope)

        run = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))
        return lambda: run(x, scores, gate_up, down)

    def dense(groups):
        fused = rearrange(gate_up[:groups], "e d z f -> e d (z f)")
        rows, slopes = (rearrange(each, "(e c) d -> e c d", e=groups) for each in (x, slope))
        run = jax.jit(jax.grad(lambda *given: jnp.sum(balanced(*given) * slopes), argnums=(0, 1, 2)))
        return lambda: run(rows, fused, down[:groups])

    sides = {"ideal": dense(1), "balanced": dense(shape.e), "suited": dispatched(suited(jax.default_backend()))}
    sides["loop alone"] = dispatched(Blocks(first=0, rows=max(16, shape.n // shape.e)))
    return sides, float(jnp.bincount(ids[:, 0], length=shape.e).max() * shape.e / shape.n)


def main() -> None:
    """Prints one table a shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=SHAPES, default="full")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--skew", type=float, default=0.0, help="std of the experts' log popularity")
    given = parser.parse_args()
    square = jnp.ones((1024, 1024))
    multiply = jax.jit(jnp.matmul)
    for shape in SHAPES[given.shapes]:
        sides, load = contest(shape, given.skew)
        table = alternate({**sides, "ceiling": lambda: multiply(square, square)}, given.rounds)
        ceiling = 2 * 1024**3 / table.median("ceiling") / 1e9
        reached = shape.flops / table.median("suited") / 1e9
        print(f"\n{shape}, fullest expert {load:.1f} x the mean")
        print(table.show("balanced", "ideal", flops=shape.flops))
        print(f"suited does {reached:.0f} of the measured {ceiling:.0f} GFLOP/s: {reached / ceiling:.0%}")


if __name__ == "__main__":
    main()
