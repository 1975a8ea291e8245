"""VisionEncoder: image tiles to the embeddings of patch tokens. Pre-norm blocks, rotary positions by column and row."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from models.execution import Execution
from models.layers import Rotation, contract, draw, frequencies
from models.pairs import attend
from models.tower import Vision

EPS = 1e-5  # of every layer norm; transformers reads none from the configuration


class LayerNorm(nnx.Module):
    """Normalisation by mean and variance with a learned scale and bias (Ba et al. 2016, arXiv:1607.06450)."""

    def __init__(self, width: int):
        """Starts as the plain normalisation."""
        self.scale = nnx.Param(jnp.ones(width, jnp.float32), axes=("w",))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32), axes=("w",))

    def __call__(self, x: Float[Array, "b n w"]) -> Float[Array, "b n w"]:
        """Normalises, scales and shifts in float32; returns the dtype of x."""
        wide = x.astype(jnp.float32)
        wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + EPS)
        return (wide * self.scale[...] + self.bias[...]).astype(x.dtype)


class VisionAttention(nnx.Module):
    """Attention of every patch over all of its tile, with biases."""

    def __init__(self, vision: Vision, key: PRNGKeyArray):
        """Draws q, k, v with std fan_in^-0.5 and o smaller by the root of 2 * layers; biases start at zero."""
        w, h, c = vision.width, vision.heads, vision.head_dim
        keys = jax.random.split(key, 4)
        self.q, self.k, self.v = (draw(each, (w, h, c), w**-0.5, ("w", "h", "c")) for each in keys[:3])
        self.q_bias, self.k_bias, self.v_bias = (zeros((h, c), ("c",)) for _ in range(3))
        self.o = draw(keys[3], (h, c, w), (2 * vision.layers * w) ** -0.5, ("h", "c", "w"))
        self.o_bias = zeros((w,), ("w",))

    def __call__(self, x: Float[Array, "b n w"], rotation: Rotation) -> Float[Array, "b n w"]:
        """What each patch gathers from the others; biases, rotations and softmax in float32."""
        q = rotation(contract("bnw,whc->bnhc", x, self.q[...]) + self.q_bias[...])
        k = rotation(contract("bnw,whc->bnhc", x, self.k[...]) + self.k_bias[...])
        v = contract("bnw,whc->bnhc", x, self.v[...]) + self.v_bias[...]
        everything = jnp.ones((1, x.shape[1], x.shape[1]), bool)
        y = attend(q.astype(x.dtype), k.astype(x.dtype), v.astype(x.dtype), everything)
        return (contract("bnhc,hcw->bnw", y, self.o[...]) + self.o_bias[...]).astype(x.dtype)


class VisionBlock(nnx.Module):
    """One layer: attention, then a feed-forward with GELU, each normalised before and added to the stream."""

    def __init__(self, vision: Vision, key: PRNGKeyArray):
        """Draws the parameters of one layer; biases start at zero."""
        w, f = vision.width, vision.hidden
        keys = jax.random.split(key, 3)
        self.attention_norm = LayerNorm(w)
        self.attention = VisionAttention(vision, keys[0])
        self.feed_forward_norm = LayerNorm(w)
        self.up, self.up_bias = draw(keys[1], (w, f), w**-0.5, ("w", "f")), zeros((f,), ("f",))
        self.down = draw(keys[2], (f, w), (2 * vision.layers * f) ** -0.5, ("f", "w"))
        self.down_bias = zeros((w,), ("w",))

    def __call__(self, x: Float[Array, "b n w"], rotation: Rotation) -> Float[Array, "b n w"]:
        """Adds this layer to the stream x."""
        x = x + self.attention(self.attention_norm(x), rotation)
        inner = gelu(contract("bnw,wf->bnf", self.feed_forward_norm(x), self.up[...]) + self.up_bias[...])
        y = contract("bnf,fw->bnw", inner.astype(x.dtype), self.down[...]) + self.down_bias[...]
        return x + y.astype(x.dtype)


class VisionEncoder(nnx.Module):
    """The vision tower of Llama 4 with its adapter and the projector into the text's width.

    Equal to `Llama4VisionModel` and `Llama4MultiModalProjector` of transformers on the same weights.
    """

    def __init__(self, vision: Vision, width: int, key: PRNGKeyArray):
        """Draws all parameters in float32; `width` is that of the text decoder.

        Every projection starts with std fan_in^-0.5, those that write into the stream smaller by the root of
        2 * layers, class token and positions at std width^-0.5.
        """
        pixels, a = vision.channels * vision.patch**2, vision.output
        w, s = vision.width, vision.width * vision.block**2
        keys = jax.random.split(key, 7)
        self.config = vision
        self.patch = draw(keys[0], (pixels, w), pixels**-0.5, ("i", "w"))
        self.class_token = draw(keys[1], (w,), w**-0.5, ("w",))
        self.position = draw(keys[2], (vision.side**2 + 1, w), w**-0.5, ("w",))
        self.norm_before, self.norm_after = LayerNorm(w), LayerNorm(w)
        self.blocks = jax.vmap(partial(VisionBlock, vision))(jax.random.split(keys[3], vision.layers))
        self.adapter_up = draw(keys[4], (s, a), s**-0.5, ("s", "a"))
        self.adapter_down = draw(keys[5], (a, a), a**-0.5, ("a", "a"))
        self.projector = draw(keys[6], (a, width), a**-0.5, ("a", "d"))

    def __call__(
        self,
        tiles: Float[Array, "b c y x"],
        execution: Execution = Execution(),  # noqa: B008 (frozen)
    ) -> Float[Array, "b k d"]:
        """Embeddings of the patch tokens of each tile, row by row.

        Args:
            tiles: normalised pixels, as `models.images` gives them.
            execution: how to run it; norms, softmaxes and activations are in float32.

        Raises:
            ValueError: the tiles are of another size than the configuration says.
        """
        hidden, _ = self.encode(tiles, execution)
        adapted, projector = self.adapt(hidden, execution), execution.weight(self.projector)
        return contract("bka,ad->bkd", adapted, projector).astype(execution.dtype)

    def encode(
        self,
        tiles: Float[Array, "b c y x"],
        execution: Execution = Execution(),  # noqa: B008 (frozen)
    ) -> tuple[Float[Array, "b n w"], Float[Array, "l b n w"]]:
        """Patches of each tile row by row, the class token last: after the last norm, and as the layers read them."""
        vision = self.config
        if tiles.shape[1:] != (vision.channels, vision.image, vision.image):
            raise ValueError(
                f"The tiles are of shape {tiles.shape[1:]}; this model reads "
                f"{(vision.channels, vision.image, vision.image)}: channels, rows, columns"
            )
        p, dtype = vision.patch, execution.dtype
        squares = rearrange(tiles.astype(dtype), "b c (m p) (n q) -> b (m n) (c p q)", p=p, q=p)
        patches = contract("bni,iw->bnw", squares, execution.weight(self.patch)).astype(dtype)
        last = repeat(self.class_token[...].astype(dtype), "w -> b 1 w", b=len(tiles))
        x = self.norm_before(jnp.concatenate([patches, last], axis=1) + self.position[...]).astype(dtype)
        rotation = turn(vision)

        run = execution.remat.wrap(lambda block, x: execution.ready(block)(x, rotation), scanned=True)
        x, inputs = jax.lax.scan(lambda x, block: (run(block, x), x), x, self.blocks)
        return self.norm_after(x), inputs

    def adapt(self, hidden: Float[Array, "b n w"], execution: Execution) -> Float[Array, "b k a"]:
        """Merges squares of patches into one by pixel shuffle, then two layers with GELU; the class token goes."""
        m = self.config.block
        shuffled = rearrange(
            hidden[:, :-1], "b (y p x q) w -> b (y x) (p q w)", p=m, q=m, x=self.config.side // m
        )  # fmt: skip
        inner = gelu(contract("bks,sa->bka", shuffled, execution.weight(self.adapter_up)))
        outer = contract("bka,ac->bkc", inner.astype(hidden.dtype), execution.weight(self.adapter_down))
        return gelu(outer).astype(hidden.dtype)


def zeros(shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param:
    """A new bias. `axes` names its last dimension alone: to optimizers a bias is a vector, whatever its shape."""
    return nnx.Param(jnp.zeros(shape, jnp.float32), axes=axes)


def gelu(x: Float[Array, "b n f"]) -> Float[Array, "b n f"]:
    """The exact GELU, by the error function (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
    # jax.nn.gelu goes by erfc, which takes XLA:CPU more than twice as long.
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


def turn(vision: Vision) -> Rotation:
    """The turns of a tile's patches: half of the pairs by (column + 1), half by (row + 1); the class token stays."""
    speeds = frequencies(vision.head_dim // 2, vision.rope_theta, None)
    along = np.outer(np.arange(1, vision.side + 1), speeds)
    columns = repeat(along, "x c -> (y x) c", y=vision.side)
    rows = repeat(along, "y c -> (y x) c", x=vision.side)
    angles = np.pad(np.concatenate([columns, rows], axis=1), ((0, 1), (0, 0)))[None]
    return Rotation(jnp.asarray(np.cos(angles), jnp.float32), jnp.asarray(np.sin(angles), jnp.float32))


def fuse(x: Float[Array, "b t d"], features: Float[Array, "b s d"], spots: Bool[Array, "b t"]) -> Float[Array, "b t d"]:
    """Puts a row's features, in order, where its spots are; inside jit too many spots read the last feature again."""
    order = jnp.clip(jnp.cumsum(spots, axis=1) - 1, 0, features.shape[1] - 1)
    return jnp.where(spots[..., None], jnp.take_along_axis(features, order[..., None], axis=1), x)


def check_images(vision: Vision, tokens: Int[np.ndarray, "b t"], images: Float[np.ndarray, "b i c y x"] | None) -> None:
    """Refuses rows whose patch tokens are not those of their tiles; on the host, as nothing can raise inside jit.

    Tiles of zeros at the end of a row are padding: pixels are whole numbers out of 255, and none becomes zero.

    Raises:
        ValueError: a row has more or fewer patch tokens than its tiles have features.
    """
    counts = np.sum(np.asarray(tokens) == vision.patch_token, axis=1)
    filled = np.zeros((len(counts), 0), bool) if images is None else np.any(images, axis=(2, 3, 4))
    tiles = np.max(filled * np.arange(1, filled.shape[1] + 1), axis=1, initial=0)
    wrong = np.flatnonzero(counts != tiles * vision.tokens)
    if wrong.size:
        row = wrong[0]
        raise ValueError(
            f"Row {row} has {counts[row]} patch tokens for {tiles[row]} image tiles; each tile takes {vision.tokens} "
            f"patch tokens (id {vision.patch_token}), so there must be {tiles[row] * vision.tokens}"
        )
