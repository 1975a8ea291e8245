"""Keeping a mixture's experts in use."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import einsum
from jaxtyping import Array, Float


@dataclass(frozen=True, kw_only=True)
class RouterHealth:
    """What a router is asked for beside the language loss, from sums over the tokens of a batch.

    The loss is not linear in these sums: it is that of each micro-batch, weighed by its labels.

    Attributes:
      balance: weight of the load-balancing loss of Switch Transformer (arXiv:2101.03961, eq. 4), 1 for perfect balance.
      z: weight of the router z-loss of ST-MoE (arXiv:2202.08906, eq. 5), the mean squared logsumexp of its logits.
      bias_rate: how far the selection bias moves each step, the loss-free balancing of arXiv:2408.15664.
    """

    balance: float = 0.01
    z: float = 0.0
    bias_rate: float = 0.0

    def __post_init__(self):
        for name, value in (("balance", self.balance), ("z", self.z), ("bias_rate", self.bias_rate)):
            if value < 0.0:
                raise ValueError(f"RouterHealth({name}={value}) must not be negative; 0 turns it off.")

    def loss(
        self,
        counts: Float[Array, "l e"],
        probs: Float[Array, "l e"],
        z: Float[Array, " l"],
        tokens: Float[Array, " l"],
    ) -> Float[Array, ""]:
        """The weighted losses, each a mean over MoE layers; differentiable in probs and z.

        Args:
          counts: how many tokens chose an expert (a token counts once for every expert it chose).
          probs: sum over tokens of the router's softmax.
          z: sum over tokens of logsumexp(router logits)^2.
          tokens: how many tokens there were.

        Without MoE layers (l = 0) there is nothing to ask: 0.
        """
        if counts.shape[0] == 0:
            return jnp.float32(0.0)
        tokens = jnp.maximum(tokens, 1.0)
        load = jax.lax.stop_gradient(shares(counts))
        balance = counts.shape[1] * einsum(load, probs, "l e, l e -> l") / tokens
        return self.balance * jnp.mean(balance) + self.z * jnp.mean(z / tokens)

    def next_bias(self, bias: Float[Array, "l e"], counts: Float[Array, "l e"]) -> Float[Array, "l e"]:
        """The selection bias after a step: up for an expert with less than its share, down for one with more.

        Recentred, since only differences choose. No gradient: it is state, not a parameter.
        """
        move = jnp.sign(1.0 / counts.shape[1] - shares(counts))
        bias = bias + self.bias_rate * jnp.where(jnp.sum(counts, axis=-1, keepdims=True) > 0.0, move, 0.0)
        return bias - jnp.mean(bias, axis=-1, keepdims=True)


def shares(counts: Float[Array, "l e"]) -> Float[Array, "l e"]:
    """Each expert's share of its layer's choices; zeros for a layer that saw nothing."""
    return counts / jnp.maximum(jnp.sum(counts, axis=-1, keepdims=True), 1.0)
