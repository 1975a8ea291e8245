"""The parts every layer is made of: the one matrix product, RMSNorm, rotary positions, SwiGLU, initialisation."""

from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from models.config import Config, RopeScaling
from models.remat import product

T = TypeVar("T", bound=nnx.Module)


def contract(spec: str, a: Array, b: Array) -> Array:
    """Multiplies two tensors as `jnp.einsum(spec, a, b)` would, adding up in float32: every matrix product goes here.

    Args:
        spec: an einsum of exactly two operands without ellipsis, each letter of an operand in the other or in the
            result, so that each gradient is again one such product.
        a, b: both float32 (then this is exactly einsum) or both bfloat16.

    Returns:
        float32, the accumulator itself; the caller casts when it stores.

    On XLA:CPU a bfloat16 dot is only fast when its output is float32, and einsum's own gradient rule would multiply a
    float32 cotangent by a bfloat16 operand, that is, in float32. So the gradient is written by hand.
    """
    if a.dtype == jnp.float32 and b.dtype == jnp.float32:
        return jnp.einsum(spec, a, b)
    return _contract_mixed(spec, a, b)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _contract_mixed(spec: str, a: Array, b: Array) -> Array:
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)


def _contract_forward(spec: str, a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return _contract_mixed(spec, a, b), (a, b)


def _contract_backward(spec: str, saved: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    a, b = saved
    operands, result = spec.replace(" ", "").split("->")
    left, right = operands.split(",")
    slope = slope.astype(a.dtype)
    to_a = jnp.einsum(f"{result},{right}->{left}", slope, b, preferred_element_type=jnp.float32)
    to_b = jnp.einsum(f"{left},{result}->{right}", a, slope, preferred_element_type=jnp.float32)
    return to_a.astype(a.dtype), to_b.astype(b.dtype)


_contract_mixed.defvjp(_contract_forward, _contract_backward)


def draw(key: PRNGKeyArray, shape: tuple[int, ...], std: float, axes: tuple[str, ...]) -> nnx.Param:
    """A new float32 parameter drawn from a normal distribution; `axes` names its trailing dimensions, a letter each."""
    return nnx.Param(std * jax.random.normal(key, shape, jnp.float32), axes=axes)


def normalize(x: Float[Array, "*n d"], eps: float) -> Float[Array, "*n d"]:
    """Divides by the root mean square over the last axis, in float32; returns the dtype of x."""
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + eps)).astype(x.dtype)


def cast(module: T, dtype: str) -> T:
    """A module with its parameters in the dtype of the products; vectors, routers and experts keep theirs.

    What norms and routers do is in float32; experts are cast where it is known which of them are asked.
    """

    def to(param: nnx.Param) -> nnx.Variable:
        kept = len(param.axes) == 1 or "e" in param.axes
        return param if kept else param.replace(param[...].astype(dtype))

    return jax.tree.map(to, module, is_leaf=lambda leaf: isinstance(leaf, nnx.Param))


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation with a learned scale (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, width: int, eps: float):
        """Starts as the plain normalisation: all scales are one."""
        self.scale = nnx.Param(jnp.ones(width, jnp.float32), axes=("d",))
        self.eps = eps

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Normalises in float32, casts to the dtype of x, then scales: the order Llama uses."""
        return (normalize(x, self.eps) * self.scale[...]).astype(x.dtype)


class SwiGLU(nnx.Module):
    """The gated feed-forward `down(silu(gate x) * up x)` (Shazeer 2020, arXiv:2002.05202).

    Gate and up lie in one array, so that they are one product.
    """

    def __init__(self, width: int, hidden: int, down_std: float, key: PRNGKeyArray):
        """Draws gate_up [d 2 f] with std fan_in^-0.5, and down [f d] with down_std."""
        up_key, down_key = jax.random.split(key)
        self.gate_up = draw(up_key, (width, 2, hidden), width**-0.5, ("d", "2", "f"))
        self.down = draw(down_key, (hidden, width), down_std, ("f", "d"))

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Applies the feed-forward at every position; the gate is in float32."""
        both = product(contract("btd,dzf->btzf", x, self.gate_up[...]).astype(x.dtype)).astype(jnp.float32)
        gate, up = jnp.unstack(both, axis=-2)  # whose gradient is one concatenation, where indexing pads and adds
        inner = jax.nn.silu(gate) * up
        return contract("btf,fd->btd", inner.astype(x.dtype), self.down[...]).astype(x.dtype)


def output_std(config: Config, fan_in: int) -> float:
    """Standard deviation of a projection that writes into the residual stream.

    The stream adds up 2 * layers of them, so each starts smaller by its root (GPT-2).
    """
    return (fan_in * 2 * config.layers) ** -0.5


def frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> Float[np.ndarray, " half"]:
    """Angle per position of each rotary pair, in radians: theta^(-2i / head_dim), head_dim / 2 of them.

    With `scaling` (Llama 3.1), wavelengths beyond original / low are stretched by factor, those below original / high
    stay, and the ones between are blended.
    """
    plain = theta ** -(np.arange(0, head_dim, 2) / head_dim)
    if scaling is None:
        return plain.astype(np.float32)
    turns = scaling.original * plain / (2 * np.pi)
    # Scout has low = high: no band to blend, and no width to divide by.
    band = scaling.high - scaling.low
    kept = np.clip((turns - scaling.low) / band, 0, 1) if band > 0 else turns >= scaling.low
    return (kept * plain + (1 - kept) * plain / scaling.factor).astype(np.float32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rotation:
    """The turn of each rotary pair at each token (Su et al. 2021, arXiv:2104.09864), computed once for all layers."""

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    cos: Float[Array, "b t half"]
    sin: Float[Array, "b t half"]

    @staticmethod
    def at(positions: Int[Array, "b t"], config: Config) -> "Rotation":
        """The turns at these positions."""
        speeds = jnp.asarray(frequencies(config.head_dim, config.rope_theta, config.rope_scaling))
        angles = jnp.einsum("bt,c->btc", positions.astype(jnp.float32), speeds)
        return Rotation(jnp.cos(angles), jnp.sin(angles))

    def __call__(self, x: Float[Array, "b t h c"]) -> Float[Array, "b t h c"]:
        """Turns channels (0, 1), (2, 3), ... of every head: Llama 4 pairs neighbours, not halves."""
        cos, sin = self.cos[:, :, None], self.sin[:, :, None]
        even, odd = rearrange(x, "b t h (half two) -> two b t h half", two=2)
        return rearrange([even * cos - odd * sin, even * sin + odd * cos], "two b t h half -> b t h (half two)")
