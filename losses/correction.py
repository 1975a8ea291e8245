"""Samples of another policy: how much a token counts that an older learner, or another engine, has drawn.

The weight of a token is w = proximal(y_t) / behaviour(y_t), the learner at the start of the update over whoever drew
it, without gradient. Nothing else bounds age: with one optimizer step a batch the learner is the proximal policy, its
ratio is 1 and no clip holds.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from losses.ratio import bounded, cleaned, k3, row_mean
from losses.tally import Tally


@runtime_checkable
class Correction(Protocol):
    """From log w to the weights that are used."""

    def __call__(
        self, log_weight: Float[Array, "b t"], mask: Bool[Array, "b t"]
    ) -> tuple[Float[Array, "b t"], Bool[Array, "b t"], Bool[Array, "b t"]]:
        """The weights, where they were lowered, and where the token was dropped (weight 0)."""
        ...


@dataclass(frozen=True)
class NoCorrection:
    """Weight 1: whoever drew the tokens is taken for the learner."""

    def __call__(
        self, log_weight: Float[Array, "b t"], mask: Bool[Array, "b t"]
    ) -> tuple[Float[Array, "b t"], Bool[Array, "b t"], Bool[Array, "b t"]]:
        """Ones; nowhere; nowhere."""
        never = jnp.zeros(log_weight.shape, bool)
        return jnp.ones_like(log_weight), never, never


@dataclass(frozen=True, kw_only=True)
class Truncated:
    """min(w, cap) (truncated importance sampling: Ionides 2008; AReaL, arXiv:2505.24298).

    Attributes:
      cap: of a weight.
    """

    cap: float = 2.0

    def __post_init__(self):
        _check_cap(self, self.cap)

    def __call__(
        self, log_weight: Float[Array, "b t"], mask: Bool[Array, "b t"]
    ) -> tuple[Float[Array, "b t"], Bool[Array, "b t"], Bool[Array, "b t"]]:
        """The weights; where w > cap; nowhere."""
        weight = jnp.exp(log_weight)
        return jnp.minimum(weight, self.cap), weight > self.cap, jnp.zeros(weight.shape, bool)


@dataclass(frozen=True, kw_only=True)
class Masked:
    """w within [low, high], and 0 outside: what the two disagree on so much is dropped (IcePop, arXiv:2510.18855).

    Attributes:
      low, high: of a weight that counts; the paper has 0.5 and 5.
    """

    low: float = 0.2
    high: float = 5.0

    def __post_init__(self):
        _check_range(self, self.low, self.high)

    def __call__(
        self, log_weight: Float[Array, "b t"], mask: Bool[Array, "b t"]
    ) -> tuple[Float[Array, "b t"], Bool[Array, "b t"], Bool[Array, "b t"]]:
        """The weights; nowhere; where w is outside."""
        weight = jnp.exp(log_weight)
        out = (weight < self.low) | (weight > self.high)
        return jnp.where(out, 0.0, weight), jnp.zeros_like(out), out


@dataclass(frozen=True, kw_only=True)
class TruncatedAndMasked:
    """min(w, cap) where w is within [low, high], and 0 outside: both of the above.

    Attributes:
      cap: of a weight.
      low, high: of a weight that counts.
    """

    cap: float = 2.0
    low: float = 0.2
    high: float = 5.0

    def __post_init__(self):
        _check_cap(self, self.cap)
        _check_range(self, self.low, self.high)

    def __call__(
        self, log_weight: Float[Array, "b t"], mask: Bool[Array, "b t"]
    ) -> tuple[Float[Array, "b t"], Bool[Array, "b t"], Bool[Array, "b t"]]:
        """The weights; where they were capped; where w is outside."""
        weight, _, out = Masked(low=self.low, high=self.high)(log_weight, mask)
        return jnp.minimum(weight, self.cap), weight > self.cap, out


@dataclass(frozen=True, kw_only=True)
class SequenceMasked:
    """min(w, cap), and 0 in a completion whose geometric mean of w is outside [low, high] (seq-mask-tis of NeMo RL).

    The mean, never the product: a drift of 0.005 nats a token makes a product of 4.5 over 300 of them, and a bound on
    it drops whole batches for being long (huggingface/trl#7120). A row is a completion.

    Attributes:
      low, high: of the mean of a completion that counts. NeMo RL has 0.999 and 1.002, for two engines with the same
        weights; age moves it more.
      cap: of a token's weight; infinity for none, as NeMo RL.
    """

    low: float = 0.98
    high: float = 1.02
    cap: float = 2.0

    def __post_init__(self):
        _check_cap(self, self.cap)
        _check_range(self, self.low, self.high)

    def __call__(
        self, log_weight: Float[Array, "b t"], mask: Bool[Array, "b t"]
    ) -> tuple[Float[Array, "b t"], Bool[Array, "b t"], Bool[Array, "b t"]]:
        """The weights; where they were capped; the completions that are outside."""
        mean = jnp.exp(row_mean(log_weight, mask))
        out = jnp.broadcast_to((mean < self.low) | (mean > self.high), log_weight.shape)
        weight = jnp.where(out, 0.0, jnp.exp(log_weight))
        return jnp.minimum(weight, self.cap), weight > self.cap, out


def mismatch(
    proximal: Float[Array, "b t"], behaviour: Float[Array, "b t"], mask: Bool[Array, "b t"]
) -> dict[str, Tally]:
    """How far the learner is from who drew its tokens, to log; ask it again with the mask of each age.

    At age 0 it is what two engines make of the same weights, beyond that it grows by what was learned meanwhile.

    Returns:
      weight: w; weight_square: w^2. The effective share of the sample is weight.mean()^2 / weight_square.mean()
      (Kish 1965). mismatch: |log w|, nats. mismatch_kl: KL(behaviour || proximal) by its estimate `k3`, nats a token.
    """
    log_weight = log_weights(proximal, behaviour, mask)
    weight = jnp.exp(log_weight)
    values = {
        "weight": weight,
        "weight_square": weight**2,
        "mismatch": jnp.abs(log_weight),
        "mismatch_kl": k3(log_weight),
    }
    return {name: Tally.of(value, mask) for name, value in values.items()}


def log_weights(
    proximal: Float[Array, "b t"], behaviour: Float[Array, "b t"], mask: Bool[Array, "b t"]
) -> Float[Array, "b t"]:
    """log w, within LIMIT; 0 where masked, whatever stands there."""
    return bounded(cleaned(proximal, mask) - cleaned(behaviour, mask))


def _check_cap(asker: object, cap: float) -> None:
    if not cap >= 1.0:
        raise ValueError(f"{asker} must have a cap of 1 or more: tokens that nothing happened to have weight 1.")


def _check_range(asker: object, low: float, high: float) -> None:
    if not 0.0 <= low < 1.0 < high:
        raise ValueError(f"{asker} must have low below 1 and high above it: what nothing happened to has weight 1.")
