"""Trace: what a model did on its way to its hidden states, layer by layer and position by position."""

from dataclasses import dataclass

import jax
from jaxtyping import Array, Float

from models.moe import Routing


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trace:
    """A forward pass, kept: what is compared layer by layer, with another model or with another implementation.

    It holds layers + 1 times the memory of the hidden states.

    hidden: after the final norm, as a call returns them.
    routing: sums over tokens, as a call returns them.
    stream: the residual stream: what the first layer read, then what it was after each layer, before the final norm.
    routers: logits of the router of every MoE layer, in order, float32; padding has some too.
    """

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    hidden: Float[Array, "b t d"]
    routing: Routing
    stream: Float[Array, "l1 b t d"]
    routers: Float[Array, "l b t e"]
