"""Taps: gradients of layers' matrices in the dtype that products have, though the weights are in float32.

A gradient has the dtype of what it is taken by. Products in bfloat16 give a matrix's gradient in bfloat16, and a
float32 weight has it widened before it is kept: half of the bytes say nothing. So it is taken by zeros in bfloat16
instead, which take the weight's place when it is cast.
"""

from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PyTree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tapped:
    """A weight, and zeros of its shape that get its gradient.

    It sits in a Param where an array would, and answers to what models ask of that: `param[...].astype(dtype)`.
    """

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    weight: Float[Array, "..."]
    tap: Float[Array, "..."]

    def __getitem__(self, index: EllipsisType) -> "Tapped":
        """All of it."""
        return self

    def __mul__(self, number: Float[Array, ""]) -> "Tapped":
        """A multiple; for a number other than 1 the gradient would be another's."""
        return replace(self, weight=self.weight * number)

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's."""
        return self.weight.shape

    @property
    def dtype(self) -> Any:
        """The weight's, as it is kept."""
        return self.weight.dtype

    def astype(self, dtype: Any) -> Float[Array, "..."]:
        """The weight in the tap's dtype, which is that of the products."""
        assert jnp.dtype(dtype) == self.tap.dtype, f"read as {dtype}, tapped as {self.tap.dtype}"
        return _cast(self.weight, self.tap)


@jax.custom_vjp
def _cast(weight: Array, tap: Array) -> Array:
    return weight.astype(tap.dtype)


def _forward(weight: Array, tap: Array) -> tuple[Array, None]:
    return _cast(weight, tap), None


def _backward(_: None, slope: Array) -> tuple[None, Array]:
    return None, slope


_cast.defvjp(_forward, _backward)


def taps(params: PyTree, dtype: str) -> PyTree:
    """What to take the gradient of `tapped(params, ...)` by: zeros for matrices of stacked layers, the rest itself.

    Embedding, head and routers stay as they are: their gradients add up in float32.
    """

    def one(param: nnx.Param) -> nnx.Variable:
        value = param[...]
        stacked = value.ndim > len(param.axes) > 1 and param.axes[-1] != "e"
        return param.replace(jnp.zeros(value.shape, dtype)) if stacked and value.dtype != jnp.dtype(dtype) else param

    return jax.tree.map(one, params, is_leaf=_is_param)


def tapped(params: PyTree, taps: PyTree) -> PyTree:
    """The model with its weights behind their taps."""

    def one(param: nnx.Param, tap: nnx.Param) -> nnx.Variable:
        same = tap[...].dtype == param[...].dtype
        return tap if same else param.replace(Tapped(param[...], tap[...]))

    return jax.tree.map(one, params, taps, is_leaf=_is_param)


def _is_param(leaf: Any) -> bool:
    return isinstance(leaf, nnx.Param)
