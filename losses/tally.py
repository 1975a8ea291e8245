"""A sum and the number of things summed: what every loss returns."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tally:
    """A total and a count, kept apart so that pieces, micro-batches and hosts combine by `+`.

    Dividing early is the classic mistake: a mean of means weighs a short answer's tokens more than a long one's, and
    the gradient then depends on how a batch was split. A Tally is divided once, at the edge.

    Attributes:
      total: sum of the values that count, in the values' unit (nats for a loss).
      count: how many values that was.
    """

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    total: Float[Array, ""]
    count: Float[Array, ""]

    @staticmethod
    def of(values: Shaped[Array, "b t"], mask: Bool[Array, "b t"]) -> "Tally":
        """Tallies the values where the mask holds; a masked value may be anything, even NaN."""
        return Tally(
            total=jnp.sum(jnp.where(mask, values.astype(jnp.float32), 0.0)),
            count=jnp.sum(mask, dtype=jnp.float32),
        )

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.total + other.total, self.count + other.count)

    def mean(self) -> Float[Array, ""]:
        """Total over count; 0 where nothing was counted."""
        return self.total / jnp.maximum(self.count, 1.0)
