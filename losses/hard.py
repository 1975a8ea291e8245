"""The hard target: what the data says."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int


@runtime_checkable
class Hard(Protocol):
    """A loss of logits against labels at every position, in nats."""

    def __call__(self, logits: Float[Array, "b t v"], labels: Int[Array, "b t"]) -> Float[Array, "b t"]:
        """The loss at every position; labels[:, t] is the token that follows position t."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Negative log-likelihood of the label, and optionally the z-loss.

    Attributes:
      z_weight: weight of logsumexp(logits)^2, which keeps logits from drifting; 1e-4 in PaLM (arXiv:2204.02311).
    """

    z_weight: float = 0.0

    def __post_init__(self):
        if self.z_weight < 0.0:
            raise ValueError(f"CrossEntropy(z_weight={self.z_weight}) must not be negative; 0 turns the z-loss off.")

    def __call__(self, logits: Float[Array, "b t v"], labels: Int[Array, "b t"]) -> Float[Array, "b t"]:
        """Logsumexp minus the label's logit; labels[:, t] is the token that follows position t."""
        log_norm = jax.nn.logsumexp(logits, axis=-1)
        gold = jnp.take_along_axis(logits, rearrange(labels, "b t -> b t 1"), axis=-1)
        return log_norm - rearrange(gold, "b t 1 -> b t") + self.z_weight * log_norm**2
