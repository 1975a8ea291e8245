"""Llama4: the decoder of text and images. Pre-norm blocks, iRoPE attention, shared and routed experts, scanned."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from models.attention import Attention, See
from models.config import Config
from models.execution import Execution
from models.layers import RMSNorm, Rotation, SwiGLU, contract, draw, output_std
from models.layout import Layout
from models.moe import Bias, Dispatch, MoE, Routes, Routing, in_order, select
from models.trace import Trace
from models.vision import VisionEncoder, fuse


class Block(nnx.Module):
    """One layer: attention, then experts or a dense feed-forward, each normalised before and added to the stream."""

    def __init__(self, config: Config, moe: bool, key: PRNGKeyArray):
        """Draws the parameters of one layer with experts or without; rotary positions have none."""
        attention_key, forward_key = jax.random.split(key)
        self.attention_norm = RMSNorm(config.width, config.eps)
        self.attention = Attention(config, attention_key)
        self.feed_forward_norm = RMSNorm(config.width, config.eps)
        if moe:
            self.feed_forward = MoE(config, forward_key)
        else:
            down_std = output_std(config, fan_in=config.dense_width)
            self.feed_forward = SwiGLU(config.width, config.dense_width, down_std, forward_key)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        rope: bool,
        layout: Layout,
        rotation: Rotation,
        bias: Bias,
        dispatch: Dispatch,
        see: See,
    ) -> tuple[Float[Array, "b t d"], Routing | None, Float[Array, "b t d"]]:
        """The stream x with this layer added, its routing (of a dense layer None), and what its feed-forward read."""
        between = x + self.attention(self.attention_norm(x), rope, layout, rotation, see)
        return *self.feed(between, layout.valid, bias, dispatch), between

    def feed(
        self, x: Float[Array, "b t d"], valid: Bool[Array, "b t"], bias: Bias, dispatch: Dispatch
    ) -> tuple[Float[Array, "b t d"], Routing | None]:
        """Adds the feed-forward alone, after attention."""
        normed = self.feed_forward_norm(x)
        if isinstance(self.feed_forward, SwiGLU):
            return x + self.feed_forward(normed), None
        y, routing = self.feed_forward(normed, valid, bias, dispatch)
        return x + y, routing

    def choices(self, x: Float[Array, "b t d"], bias: Bias) -> Int[Array, "b t r"] | None:
        """The experts to which `feed` sends each token of the same stream; of a dense layer None."""
        if isinstance(self.feed_forward, SwiGLU):
            return None
        logits = self.feed_forward.logits(self.feed_forward_norm(x))
        return select(logits, bias, self.feed_forward.top_k)


class Period(nnx.Module):
    """One repetition of the layer pattern: what the scan goes over."""

    def __init__(self, config: Config, key: PRNGKeyArray):
        """Draws the layers of one pattern."""
        self.pattern = config.pattern
        keys = jax.random.split(key, len(config.pattern))
        self.blocks = nnx.List([Block(config, layer.moe, keys[i]) for i, layer in enumerate(config.pattern)])

    def __call__(
        self,
        x: Float[Array, "b t d"],
        layout: Layout,
        rotation: Rotation,
        bias: Bias,
        execution: Execution,
    ) -> tuple[list[Float[Array, "b t d"]], list[Routing], list[Float[Array, "b t d"]]]:
        """The stream after each of these layers, the routing of those with experts, and what each feed-forward read."""
        states, routings, betweens = [], [], []
        scanned = execution.unroll == 1
        for layer, block in zip(self.pattern, self.blocks, strict=True):
            own_bias = bias[len(routings)] if layer.moe and bias is not None else None
            run = execution.remat.wrap(partial(_layer, layer.rope, execution), scanned=scanned)
            x, routing, between = run(block, x, layout, rotation, own_bias)
            states.append(x)
            betweens.append(between)
            if routing is not None:
                routings.append(routing)
        return states, routings, betweens

    def routers(self, betweens: list[Float[Array, "b t d"]]) -> list[Float[Array, "b t e"]]:
        """What the routers of these layers say of what the feed-forwards read: logits."""
        layers = [(one.feed_forward, one.feed_forward_norm(x)) for one, x in zip(self.blocks, betweens, strict=True)]
        return [forward.logits(x) for forward, x in layers if isinstance(forward, MoE)]


def _layer(
    rope: bool,
    execution: Execution,
    block: Block,
    x: Float[Array, "b t d"],
    layout: Layout,
    rotation: Rotation,
    bias: Bias,
) -> tuple[Float[Array, "b t d"], Routing | None, Float[Array, "b t d"]]:
    """A block whose weights are made ready here, so that no gathered weights are kept for the gradient."""
    # Or the compiler casts the weights of all layers at once, before the first: half as much memory again.
    own = execution.ready(block, layout.positions)
    y, routing, between = own(execution.hold(x), rope, layout, rotation, bias, execution.sending(), execution.seeing())
    return execution.hold(y), routing, between


class Llama4(nnx.Module):
    """A Llama 4 (Meta 2025), equal to that of transformers on the same weights.

    Without vision that is `Llama4ForCausalLM`, with it `Llama4ForConditionalGeneration`: early fusion, images are read
    as if they were text. A video is its frames, as images.
    """

    def __init__(self, config: Config, key: PRNGKeyArray):
        """Draws all parameters in float32; works under jax.jit and jax.eval_shape.

        Every projection starts with std fan_in^-0.5, so that unit input gives unit output; the two that write into the
        stream are smaller by the root of 2 * layers. Embeddings start at std 1, the size of what all layers add up to.
        """
        keys = jax.random.split(key, 3)
        self.config = config
        tower_key, vision = jax.random.fold_in(key, 3), config.vision
        self.vision = None if vision is None else VisionEncoder(vision, config.width, tower_key)
        self.embed = draw(keys[0], (config.vocab, config.width), 1.0, ("v", "d"))
        self.periods = jax.vmap(lambda each: Period(config, each))(jax.random.split(keys[1], config.periods))
        self.norm = RMSNorm(config.width, config.eps)
        self.head = draw(keys[2], (config.width, config.vocab), config.width**-0.5, ("d", "v"))

    def __call__(
        self,
        tokens: Int[Array, "b t"],
        layout: Layout | None = None,
        bias: Bias = None,
        execution: Execution = Execution(),  # noqa: B008 (frozen)
        images: Float[Array, "b i c y x"] | None = None,
    ) -> tuple[Float[Array, "b t d"], Routing]:
        """Hidden states after the final norm, and what the routers did.

        Args:
            tokens: ids below vocab; what stands at padding does not matter.
            layout: where each token stands; None is one document a row.
            bias: [p m e], added to the router logits to select experts, not to weigh them; None is no bias; Routes
                [p m b t r] are choices that stand.
            execution: how to run it.
            images: normalised pixels of i tiles a row, zeros behind those of rows that have fewer. Their features take
                the place of the row's patch tokens, in order; `models.vision.check_images` says whether they fit.

        Returns:
            hidden: for `logits`, or for a loss that never builds all of them.
            routing: sums over tokens, stacked over the MoE layers in order.

        Raises:
            ValueError: the row is longer than max_positions, or layout or bias is of another shape; there are
                images but no vision tower.
        """
        hidden, routing, *_ = self._run(tokens, layout, bias, execution, images)
        return hidden, routing

    def trace(
        self,
        tokens: Int[Array, "b t"],
        layout: Layout | None = None,
        bias: Bias = None,
        execution: Execution = Execution(),  # noqa: B008 (frozen)
        images: Float[Array, "b i c y x"] | None = None,
    ) -> Trace:
        """What a call returns, from the same single pass, and what lies on the way there: every layer's states."""
        hidden, routing, (states, routers), x = self._run(tokens, layout, bias, execution, images, keep=True)
        stream = jnp.concatenate([x[None], rearrange(states, "m p b t d -> (p m) b t d")])
        shape = (0, *tokens.shape, self.config.experts)
        logits = rearrange(routers, "m p b t e -> (p m) b t e") if routers else jnp.zeros(shape)
        return Trace(hidden, routing, stream, logits)

    def logits(self, hidden: Float[Array, "b t d"]) -> Float[Array, "b t v"]:
        """Scores of the next token, float32; the product is in the dtype of hidden."""
        return contract("btd,dv->btv", hidden, self.head[...].astype(hidden.dtype))

    def read(
        self,
        tokens: Int[Array, "b t"],
        layout: Layout,
        execution: Execution,
        features: Float[Array, "b s d"] | None = None,
    ) -> Float[Array, "b t d"]:
        """What the first layer reads: embeddings of the tokens, and at patch tokens the features of the images."""
        x = execution.look_up(self.embed[...], tokens)
        if features is None or self.config.vision is None:
            return x
        return fuse(x, features, (tokens == self.config.vision.patch_token) & layout.valid)

    def look(self, images: Float[Array, "b i c y x"], execution: Execution) -> Float[Array, "b s d"]:
        """The features of a row's tiles, one tile after the other. Raises ValueError without a vision tower."""
        if self.vision is None:
            raise ValueError("This model has no vision tower; leave the images out, or set Config.vision")
        features = self.vision(rearrange(images, "b i c y x -> (b i) c y x"), execution)
        return rearrange(features, "(b i) k d -> b (i k) d", b=len(images))

    def _run(
        self,
        tokens: Int[Array, "b t"],
        layout: Layout | None,
        bias: Bias,
        execution: Execution,
        images: Float[Array, "b i c y x"] | None,
        keep: bool = False,
    ) -> tuple[Float[Array, "b t d"], Routing, tuple[list[Array], list[Array]], Float[Array, "b t d"]]:
        layout = Layout.dense(*tokens.shape) if layout is None else layout
        self._check(tokens, layout, bias)
        rotation = Rotation.at(layout.positions, self.config)

        def step(x: Array, each: tuple[Period, Bias]) -> tuple[Array, Any]:
            period, own_bias = each
            states, routings, betweens = period(x, layout, rotation, own_bias, execution)
            return states[-1], (routings, (states, period.routers(betweens)) if keep else ([], []))

        features = None if images is None else self.look(images, execution)
        x = self.read(tokens, layout, execution, features)
        last, (routings, kept) = jax.lax.scan(step, x, (self.periods, bias), unroll=execution.unroll)
        return self.norm(last), in_order(routings, self.config.experts), kept, x

    def _check(self, tokens: Int[Array, "b t"], layout: Layout, bias: Bias) -> None:
        config = self.config
        if tokens.shape[1] > config.max_positions:
            raise ValueError(
                f"A row of {tokens.shape[1]} tokens does not fit max_positions = {config.max_positions}; "
                f"cut the rows, or raise max_positions"
            )
        if layout.positions.shape != tokens.shape:
            raise ValueError(f"The layout is of shape {layout.positions.shape}, but the tokens of {tokens.shape}")
        wanted = (config.periods, config.moe_per_period, config.experts)
        if isinstance(bias, Routes):
            bias.check((*wanted[:2], *tokens.shape, config.top_k))
        elif bias is not None and bias.shape != wanted:
            raise ValueError(
                f"The router bias is of shape {bias.shape}; it must be {wanted}: periods, MoE layers of each, experts"
            )
