"""How likely a learner makes a token beside another policy: what the ratio is taken to, and over what.

Log-probabilities are those of the tokens that were drawn, float32, at the temperature that they were drawn with, over
the same set of tokens: a sampler that cuts at top-k or top-p and a learner that does not are two different policies.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from losses.signal import FLOOR

LIMIT = 20.0
"""of a log-ratio, nats: e^20 and its square are floats, and nothing is learned from a token that lies beyond"""


@runtime_checkable
class Reference(Protocol):
    """The policy that the learner's is divided by."""

    def __call__(self, proximal: Float[Array, "b t"], behaviour: Float[Array, "b t"]) -> Float[Array, "b t"]:
        """Its log-probabilities, one of the two."""
        ...


@dataclass(frozen=True)
class Proximal:
    """The learner's own policy at the start of the update (decoupled PPO, arXiv:2110.00641; AReaL, arXiv:2505.24298).

    The clip then bounds the update, however old the samples; that they are old is the correction's matter.
    """

    def __call__(self, proximal: Float[Array, "b t"], behaviour: Float[Array, "b t"]) -> Float[Array, "b t"]:
        """The first."""
        return proximal


@dataclass(frozen=True)
class Behaviour:
    """The policy that drew the tokens: PPO's ratio, and that of the papers which sample from the policy they train.

    It corrects for age by itself, and its clip is centred on a policy that the learner may have left.
    """

    def __call__(self, proximal: Float[Array, "b t"], behaviour: Float[Array, "b t"]) -> Float[Array, "b t"]:
        """The second."""
        return behaviour


@runtime_checkable
class Level(Protocol):
    """Over what a ratio is taken."""

    def __call__(
        self, logp: Float[Array, "b t"], reference: Float[Array, "b t"], mask: Bool[Array, "b t"]
    ) -> Float[Array, "b t"]:
        """The log-ratio at every position, within LIMIT; the inputs are finite, and 0 where masked."""
        ...


@dataclass(frozen=True)
class TokenRatio:
    """Each token's own: rho_t = q(y_t) / reference(y_t). Beyond LIMIT it is constant, and has no gradient."""

    def __call__(
        self, logp: Float[Array, "b t"], reference: Float[Array, "b t"], mask: Bool[Array, "b t"]
    ) -> Float[Array, "b t"]:
        """The difference of the log-probabilities."""
        return bounded(logp - reference)


@dataclass(frozen=True)
class SequenceRatio:
    """The geometric mean over the completion: s = exp(mean over its tokens of the log-ratio) (GSPO, arXiv:2507.18071).

    In the form of its GSPO-token, s_t = sg(s) q(y_t) / sg(q(y_t)): value and gradient are those of s where a completion
    has one advantage, and each token answers for its own where they differ. A row is a completion.
    """

    def __call__(
        self, logp: Float[Array, "b t"], reference: Float[Array, "b t"], mask: Bool[Array, "b t"]
    ) -> Float[Array, "b t"]:
        """The mean, at every position, with the gradient of the position's own."""
        drift = bounded(logp - reference)
        fixed = jax.lax.stop_gradient(drift)
        return row_mean(fixed, mask) + drift - fixed


def cleaned(logp: Float[Array, "b t"], mask: Bool[Array, "b t"]) -> Float[Array, "b t"]:
    """In float32, 0 where masked, and FLOOR where a policy excludes the token: -inf - -inf would be NaN."""
    return jnp.maximum(jnp.where(mask, logp.astype(jnp.float32), 0.0), FLOOR)


def bounded(log_ratio: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Within LIMIT on either side."""
    return jnp.clip(log_ratio, -LIMIT, LIMIT)


def row_mean(values: Float[Array, "b t"], mask: Bool[Array, "b t"]) -> Float[Array, "b 1"]:
    """Mean over a row's positions that count; 0 where none do."""
    total = jnp.sum(jnp.where(mask, values, 0.0), axis=1, keepdims=True)
    return total / jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1)


def k3(log_ratio: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """x - 1 - log x of a ratio x = p / q: over draws from q its mean is KL(q || p), and it is never negative.

    Schulman, Approximating KL divergence, 2020. By expm1, since x - 1 of a ratio near 1 loses all its digits.
    """
    return jnp.expm1(log_ratio) - log_ratio
