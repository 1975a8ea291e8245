"""How far an update may go: what is made of ratio and advantage, to be maximised."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


@runtime_checkable
class Surrogate(Protocol):
    """The objective of a token, whose gradient at ratio 1 is the policy gradient's A grad log q."""

    def __call__(
        self, logp: Float[Array, "b t"], log_ratio: Float[Array, "b t"], advantages: Float[Array, "b #t"]
    ) -> tuple[Float[Array, "b t"], Bool[Array, "b t"], Bool[Array, "b t"]]:
        """The objective, and where the ratio was held from below and from above."""
        ...


@dataclass(frozen=True, kw_only=True)
class Clip:
    """min(rho A, clip(rho, 1 - low, 1 + high) A) (PPO, arXiv:1707.06347): past the edge there is nothing to gain.

    Attributes:
      low: how far a token of negative advantage may become less likely.
      high: how far one of positive advantage may become likelier; above low, rare tokens keep a chance (clip-higher,
        DAPO, arXiv:2503.14476).
      dual: for a negative advantage not below dual * A (dual-clip PPO, arXiv:1912.09729, where it is 3), so that a
        token which has become far likelier since it was drawn does not decide the step; None leaves it out.
    """

    low: float = 0.2
    high: float = 0.28
    dual: float | None = None

    def __post_init__(self):
        if not (0.0 <= self.low <= 1.0 and self.high >= 0.0):
            raise ValueError(f"{self} must have low within 0 and 1, and high 0 or more; 0.2 and 0.28 are DAPO's.")
        if self.dual is not None and not self.dual > 1.0:
            raise ValueError(f"{self} must have dual above 1, or it holds what has not moved; 3 is its paper's.")

    def __call__(
        self, logp: Float[Array, "b t"], log_ratio: Float[Array, "b t"], advantages: Float[Array, "b #t"]
    ) -> tuple[Float[Array, "b t"], Bool[Array, "b t"], Bool[Array, "b t"]]:
        """The objective; where rho < 1 - low lost; where rho > 1 + high did not gain, or the dual clip held."""
        ratio = jnp.exp(log_ratio)
        # The minimum, written out: `jnp.minimum` would split the gradient where both sides are rounded to one number.
        low = (advantages < 0.0) & (ratio < 1.0 - self.low)
        high = (advantages > 0.0) & (ratio > 1.0 + self.high)
        held = jnp.where(low, 1.0 - self.low, jnp.where(high, 1.0 + self.high, ratio))
        if self.dual is not None:
            far = (advantages < 0.0) & (ratio > self.dual)
            held, high = jnp.where(far, self.dual, held), high | far
        return held * advantages, low, high


@dataclass(frozen=True, kw_only=True)
class ClippedWeight:
    """sg(min(rho, 1 + high)) A log q (CISPO, arXiv:2506.13585): the weight is bounded, and no token loses its gradient.

    Attributes:
      high: the bound is 1 + high. The paper tunes it and does not say; bounds of 4 to 8 did alike in ScaleRL
        (arXiv:2510.13786).
    """

    high: float = 4.0

    def __post_init__(self):
        if not self.high >= 0.0:
            raise ValueError(f"{self} must have high 0 or more: it bounds the ratio at 1 + high.")

    def __call__(
        self, logp: Float[Array, "b t"], log_ratio: Float[Array, "b t"], advantages: Float[Array, "b #t"]
    ) -> tuple[Float[Array, "b t"], Bool[Array, "b t"], Bool[Array, "b t"]]:
        """The objective, which is no estimate of anything, its gradient is; nowhere; where rho > 1 + high."""
        ratio = jax.lax.stop_gradient(jnp.exp(log_ratio))
        high = ratio > 1.0 + self.high
        return jnp.minimum(ratio, 1.0 + self.high) * advantages * logp, jnp.zeros_like(high), high


@dataclass(frozen=True)
class NoClip:
    """rho A, as it is."""

    def __call__(
        self, logp: Float[Array, "b t"], log_ratio: Float[Array, "b t"], advantages: Float[Array, "b #t"]
    ) -> tuple[Float[Array, "b t"], Bool[Array, "b t"], Bool[Array, "b t"]]:
        """The objective; nowhere; nowhere."""
        never = jnp.zeros(log_ratio.shape, bool)
        return jnp.exp(log_ratio) * advantages, never, never
