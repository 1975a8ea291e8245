"""What the machine can do: a chain of 1024 x 1024 matmuls in JAX, asked step by step like the sides it is held against.

float32 is a plain product; bfloat16 reads bfloat16 and writes float32, the form XLA runs natively on a CPU.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from benchmarks.sizes import DENSE_STEP, Options  # noqa: E402
from benchmarks.worker import serve  # noqa: E402

SIDE, PRODUCTS = 1024, 32


@jax.jit
def chain(x: jax.Array, w: jax.Array) -> jax.Array:
    """PRODUCTS matmuls, each waiting for the last."""
    for _ in range(PRODUCTS):
        x = jnp.matmul(x.astype(w.dtype), w, preferred_element_type=jnp.float32)
    return x


if __name__ == "__main__":
    options = Options.of(DENSE_STEP)
    w = (jax.random.normal(jax.random.key(0), (SIDE, SIDE)) / SIDE**0.5).astype(options.dtype)
    x = jax.random.normal(jax.random.key(1), (SIDE, SIDE))

    def step() -> float:
        """One chain; its value stands where a loss would."""
        return float(chain(x, w)[0, 0])

    serve(step, {"jax": jax.__version__, "flops": 2 * PRODUCTS * SIDE**3}, options.steps)
