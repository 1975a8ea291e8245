"""MoE: a router, routed experts and a shared one. How tokens reach the experts is a Dispatch."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from models.blocks import Blocks
from models.capacity import Capacity
from models.config import Config
from models.dispatch import Dense, Dispatch, Each, Ragged
from models.layers import SwiGLU, draw, output_std
from models.megablox import Megablox
from models.quantized import Quantized

__all__ = [
    "Bias",
    "Blocks",
    "Capacity",
    "Dense",
    "Dispatch",
    "Each",
    "Experts",
    "Megablox",
    "MoE",
    "Ragged",
    "Routes",
    "Routing",
    "steady",
    "suited",
]


def suited(platform: str) -> Dispatch:
    """The dispatch that suits a platform ("cpu", "gpu", "tpu"): where backends differ, they differ here.

    On a TPU `Megablox`: XLA makes kernels of `Ragged` forward and for the slopes of tokens, but expands the slopes of
    weights to every expert on every token, six times the FLOPs of Scout's layer (proofs/grouped_tpu.py). On a GPU
    `Ragged`: XLA expands it as on a CPU, unless it hands it to cuDNN (from openxla/xla 42313 on, with cuDNN 9.22 or
    newer, and not the slopes of weights); jax has a kernel in Triton behind a switch. No card was at hand: what is
    best there is for `python -m benchmarks.gpu --only experts` to say.
    """
    return {"cpu": Blocks(), "tpu": Megablox()}.get(platform, Ragged())


def steady(platform: str) -> Dispatch:
    """A dispatch in which the answer to a token does not depend, in any bit, on the other tokens.

    On a CPU that is the loop alone, whose blocks are all of one shape. Elsewhere it is the backend's usual one, which
    was not examined.
    """
    return Blocks(first=0, rows=8) if platform == "cpu" else suited(platform)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Routing:
    """What a router did, as float32 sums over valid tokens: micro-batches and hosts add up with `+`.

    counts: choices that fell on each expert; they add up to tokens * top_k. No gradient.
    probs: softmax of the raw logits, summed; differentiable, for a balance loss (Fedus et al. 2021, arXiv:2101.03961).
    z: squared logsumexp of the raw logits, summed; differentiable (Zoph et al. 2022, arXiv:2202.08906).
    tokens: valid tokens.
    """

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    counts: Float[Array, "*l e"]
    probs: Float[Array, "*l e"]
    z: Float[Array, "*l"]
    tokens: Float[Array, "*l"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Routes:
    """Experts that were chosen before, to be chosen again: given in place of a bias of the routers.

    So a learner sends the tokens of a rollout where its sampler sent them, whatever has moved a near tie since (rollout
    routing replay, R3, arXiv:2510.11370). They are weighed by the router's scores of now, through which it learns.

    ids: of each token's experts, the best first; where one is negative the token goes where the router sends it now.
    """

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    ids: Int[Array, "*l b t r"]

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError: the ids are of another shape."""
        if self.ids.shape != shape:
            raise ValueError(
                f"The routes are of shape {self.ids.shape}; they must be {shape}: periods, MoE layers of each, rows, "
                "tokens, experts of a token"
            )

    def __getitem__(self, i: int) -> "Routes":
        """Those of one layer."""
        return Routes(self.ids[i])


Bias = Float[Array, "*l e"] | Routes | None
"""how experts are chosen: by logits plus this, as before, or (None) by the logits"""


class Experts(nnx.Module):
    """The routed experts of a layer: SwiGLU feed-forwards in one array each, gate before up.

    Reshaped to [e, d, 2 f], gate_up is the array of a Llama 4 checkpoint.
    """

    def __init__(self, config: Config, key: PRNGKeyArray):
        """Draws gate_up [e d 2 f] with std fan_in^-0.5, and down [e f d] as what writes into the stream."""
        e, d, f = config.experts, config.width, config.expert_width
        up_key, down_key = jax.random.split(key)
        self.gate_up = draw(up_key, (e, d, 2, f), d**-0.5, ("e", "d", "2", "f"))
        self.down = draw(down_key, (e, f, d), output_std(config, fan_in=f), ("e", "f", "d"))

    def __call__(
        self, x: Float[Array, "*n d"], ids: Int[Array, "*n r"], scores: Float[Array, "*n r"], dispatch: Dispatch
    ) -> Float[Array, "*n d"]:
        """Adds up, for each token, its experts' answers to score * token; products are in the dtype of x.

        Quantised experts are turned into floats, and if there are fewer choices than experts only those chosen: a
        token that is decoded alone reads one expert from memory, and not all.
        """
        gate_up, down = self.gate_up[...], self.down[...]
        if isinstance(gate_up, Quantized) and ids.size < gate_up.shape[0]:
            return Each()(x, ids, scores, gate_up, down)
        return dispatch(x, ids, scores, gate_up.astype(x.dtype), down.astype(x.dtype))


class MoE(nnx.Module):
    """Llama 4's feed-forward: `shared(x) + sum of the chosen experts, E(sigmoid(logit) * x)`.

    Experts are chosen on raw logits, weighed by a sigmoid and not renormalised.
    """

    def __init__(self, config: Config, key: PRNGKeyArray):
        """Draws router [d e] with std fan_in^-0.5, the routed experts and a shared one of the same width."""
        router_key, experts_key, shared_key = jax.random.split(key, 3)
        self.top_k = config.top_k
        self.router = draw(router_key, (config.width, config.experts), config.width**-0.5, ("d", "e"))
        self.experts = Experts(config, experts_key)
        down_std = output_std(config, fan_in=config.expert_width)
        self.shared = SwiGLU(config.width, config.expert_width, down_std, shared_key)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        valid: Bool[Array, "b t"],
        bias: Bias,
        dispatch: Dispatch,
    ) -> tuple[Float[Array, "b t d"], Routing]:
        """Applies the layer.

        Args:
            x: the normalised stream.
            valid: tokens, not padding. Padding gets the shared expert's answer alone, and is in no statistic.
            bias: added to the logits to choose experts, not to weigh them, and without gradient; None is no bias;
                Routes are choices that stand.
            dispatch: how tokens get to their experts.

        Returns:
            y, of the shape and dtype of x, and what the router did.
        """
        logits = self.logits(x)
        ids = select(logits, bias, self.top_k)
        chosen = ids[..., None] == jnp.arange(logits.shape[-1])
        # A sum over a mask, not a gather: its gradient is a mask again, where a gather's is a slow scatter.
        scores = jax.nn.sigmoid(jnp.sum(jnp.where(chosen, logits[..., None, :], 0), axis=-1))
        # One past the last expert is nowhere: padding, always alike, would all crowd into one expert.
        routed = self.experts(x, jnp.where(valid[..., None], ids, logits.shape[-1]), scores, dispatch)
        return self.shared(x) + routed, tally(logits, chosen, valid)

    def logits(self, x: Float[Array, "*n d"]) -> Float[Array, "*n e"]:
        """What the router says of each token of the normalised stream, float32."""
        return jnp.einsum("...d,de->...e", x.astype(jnp.float32), self.router[...].astype(jnp.float32))


def select(logits: Float[Array, "*n e"], bias: Bias, top_k: int) -> Int[Array, "*n r"]:
    """The top_k experts of each token by logit + bias, the best first; of equals the lower number. Or as before."""
    if isinstance(bias, Routes):
        before = bias.ids.astype(jnp.int32)
        return jnp.where(before < 0, select(logits, None, top_k), before)
    ranked = jax.lax.stop_gradient(logits if bias is None else logits + bias)
    if top_k == 1:
        return jnp.argmax(ranked, axis=-1, keepdims=True).astype(jnp.int32)
    return jax.lax.top_k(ranked, top_k)[1]


def tally(logits: Float[Array, "*n e"], chosen: Bool[Array, "*n r e"], valid: Bool[Array, "*n"]) -> Routing:
    """Sums up what the router did over valid tokens; padding may hold anything, even infinities."""
    real, every = valid[..., None], tuple(range(valid.ndim))
    logits = jnp.where(real, logits, 0)
    z = jax.nn.logsumexp(logits, axis=-1)
    return Routing(
        counts=jnp.sum(chosen & real[..., None], axis=(*every, valid.ndim), dtype=jnp.float32),
        probs=jnp.sum(jnp.where(real, jnp.exp(logits - z[..., None]), 0), axis=every),
        z=jnp.sum(jnp.where(valid, z**2, 0)),
        tokens=jnp.sum(valid, dtype=jnp.float32),
    )


def in_order(routings: list[Routing], experts: int) -> Routing:
    """Routing of all MoE layers [l ...], from that of each MoE layer of the period over periods [p ...]."""
    if not routings:
        return Routing(
            counts=jnp.zeros((0, experts)), probs=jnp.zeros((0, experts)), z=jnp.zeros(0), tokens=jnp.zeros(0)
        )
    return jax.tree.map(lambda *layers: rearrange(list(layers), "m p ... -> (p m) ..."), *routings)
