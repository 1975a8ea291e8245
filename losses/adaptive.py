"""Divergences that choose between the forward and the reverse KL by where teacher and student stand."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from losses.signal import Signal, contract


@dataclass(frozen=True, kw_only=True)
class AdaptiveKL:
    """Forward KL and reverse KL, weighed by where the student errs (AKL, arXiv:2404.02657).

    The head is the teacher's most probable tokens up to a cumulated mass of `mass`, the one that reaches it included
    and of equals all; the forward KL weighs as much as sum |p - q| over the head, the reverse as over the tail. No
    gradient flows through the weights.
    """

    detached: ClassVar[bool] = True

    mass: float = 0.5

    def __post_init__(self):
        if not 0.0 < self.mass <= 1.0:
            raise ValueError(f"AdaptiveKL(mass={self.mass}) must be above 0 and at most 1; the paper has 0.5.")

    def __call__(
        self, signal: Signal, logits: Float[Array, "b t v"], temperature: Float[Array, ""]
    ) -> Float[Array, "b t"]:
        """T^2 (w KL(p || q) + (1 - w) KL(q || p))."""
        p, q = signal.against(logits, temperature).whole(self)
        probs = jnp.exp(p)
        falling = -jnp.sort(-probs, axis=-1)
        before = jnp.cumsum(falling, axis=-1) - falling
        least = jnp.min(jnp.where(before < self.mass, falling, jnp.inf), axis=-1, keepdims=True)
        gap = jax.lax.stop_gradient(jnp.abs(probs - jnp.exp(q)))
        head = jnp.sum(jnp.where(probs >= least, gap, 0.0), axis=-1)
        total = jnp.sum(gap, axis=-1)
        share = jnp.where(total > 0.0, head / jnp.maximum(total, 1e-30), 0.5)
        forward, reverse = contract(probs, p - q), contract(jnp.exp(q), q - p)
        return temperature**2 * (share * forward + (1.0 - share) * reverse)


@dataclass(frozen=True)
class ToDi:
    """Forward and reverse KL weighed outcome by outcome (ToDi, arXiv:2505.16297).

    The forward term counts where the teacher gives more, the reverse where the student does: w = sigmoid(log p -
    log q), without gradient.
    """

    detached: ClassVar[bool] = True

    def __call__(
        self, signal: Signal, logits: Float[Array, "b t v"], temperature: Float[Array, ""]
    ) -> Float[Array, "b t"]:
        """T^2 sum w p log(p / q) + (1 - w) q log(q / p)."""
        p, q = signal.against(logits, temperature).whole(self)
        up = jax.lax.stop_gradient(jax.nn.sigmoid(p - q))
        # 1 - w by the other side's sigmoid: exactly 0 where the teacher excludes what the student hardly considers.
        down = jax.lax.stop_gradient(jax.nn.sigmoid(q - p))
        return temperature**2 * (contract(up * jnp.exp(p), p - q) + contract(down * jnp.exp(q), q - p))
