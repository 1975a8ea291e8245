"""Quantized: a weight in whole numbers of 8 or 4 bits with a scale for every group, in place of an array of floats."""

from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jaxtyping import Array, Float, Int

INTEGERS = {8: jnp.int8, 4: jnp.int4}
"""Bits of a value, and the dtype that holds it. XLA packs two int4 into a byte of memory, whatever `nbytes` says."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Quantized:
    """A weight as `values * scales`, each scale repeated over its group of neighbours along one axis.

    It sits in a Param where a float array would, and answers to what models ask of that: `param[...].astype(dtype)`
    is the array. Both arrays have the weight's axes, so stacking, scanning and sharding treat them like the weight.

    axis: the axis that products sum over, counted from the end.
    """

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    values: Int[Array, "..."]
    scales: Float[Array, "..."]
    axis: int = field(metadata={"static": True})

    def __getitem__(self, index: EllipsisType | Int[Array, "..."]) -> "Quantized":
        """All of it, or what stands at these places of the first axis: experts, before they are turned into floats."""
        return self if index is ... else Quantized(self.values[index], self.scales[index], self.axis)

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's."""
        return self.values.shape

    @property
    def group(self) -> int:
        """Values that share a scale."""
        return self.values.shape[self.axis] // self.scales.shape[self.axis]

    def astype(self, dtype: Any) -> Float[Array, "..."]:
        """The weight in floats; a value times its scale in float32, rounded once."""
        others = _letters(-self.axis - 1)
        scales = repeat(self.scales.astype(jnp.float32), f"... n {others} -> ... (n s) {others}", s=self.group)
        return (self.values.astype(jnp.float32) * scales).astype(dtype)


def round_to(weight: Float[Array, "..."], axis: int, bits: int, group: int) -> Quantized:
    """The nearest multiples of a scale, which is the group's largest magnitude over 7 or 127: symmetric, zero stays.

    The scale is rounded to bfloat16 first, so that the values are right for the scale that is stored.

    Args:
        weight: floats.
        axis: the axis that products sum over, counted from the end; its size must be a multiple of `group`.
        bits: 8 or 4.
        group: neighbours along the axis that share a scale.
    """
    others, top = _letters(-axis - 1), 2 ** (bits - 1) - 1
    groups = rearrange(weight.astype(jnp.float32), f"... (n s) {others} -> ... n s {others}", s=group)
    largest = jnp.max(jnp.abs(groups), axis=axis, keepdims=True)
    # Only zeros get the scale 1: what is no number stays none, and is seen.
    scales = (jnp.where(largest == 0, 1, largest) / top).astype(jnp.bfloat16)
    values = jnp.clip(jnp.round(groups / scales.astype(jnp.float32)), -top, top).astype(INTEGERS[bits])
    return Quantized(rearrange(values, f"... n s {others} -> ... (n s) {others}"), jnp.squeeze(scales, axis), axis=axis)


def _letters(count: int) -> str:
    """So many axes of an einops pattern."""
    return " ".join(f"x{i}" for i in range(count))
