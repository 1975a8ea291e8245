"""Divergences that choose between the forward and the reverse KL by where teacher and student stand."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

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
        least = rearrange(least_of_head(probs, self.mass), "b t -> b t 1")
        gap = jax.lax.stop_gradient(jnp.abs(probs - jnp.exp(q)))
        head = jnp.sum(jnp.where(probs >= least, gap, 0.0), axis=-1)
        total = jnp.sum(gap, axis=-1)
        share = jnp.where(total > 0.0, head / jnp.maximum(total, 1e-30), 0.5)
        forward, reverse = contract(probs, p - q), contract(jnp.exp(q), q - p)
        return temperature**2 * (share * forward + (1.0 - share) * reverse)


def least_of_head(probs: Float[Array, "b t n"], mass: float) -> Float[Array, "b t"]:
    """The greatest x such that the outcomes of probability x or more together have this mass; 0 where none do.

    That is what one finds by sorting and adding up from the top. Found by halving instead: floats from 0 to 1 are in
    the order of their bits, so 30 sums tell it exactly, in a tenth of the time that sorting a vocabulary takes.
    """

    def halve(_, ends):
        low, high = ends
        middle = low + (high - low) // 2
        edge = rearrange(_as_float(middle), "b t -> b t 1")
        enough = jnp.sum(jnp.where(probs >= edge, probs, 0.0), axis=-1) >= mass
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    zero = jnp.zeros(probs.shape[:-1], jnp.int32)
    beyond = jax.lax.bitcast_convert_type(jnp.float32(1.0), jnp.int32) + 2  # a probability may round to just above 1
    return _as_float(jax.lax.fori_loop(0, 30, halve, (zero, zero + beyond))[0])


def _as_float(bits: Int[Array, "b t"]) -> Float[Array, "b t"]:
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


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
