"""Optimizers: frozen choices that build an optax transformation for a stage of a known number of steps."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree
from optax import contrib

from distill.letters import by_axes
from distill.scaling import MaximalUpdate


@dataclass(frozen=True)
class WarmupCosine:
    """A learning rate that rises linearly to `peak`, then falls along a half cosine to `floor * peak`."""

    peak: float = 3e-3
    """highest learning rate"""
    warmup: float = 0.1
    """share of the steps spent rising"""
    floor: float = 0.05
    """last learning rate, as a share of the peak"""

    def at(self, progress: Float[Array, ""] | float) -> Float[Array, ""]:
        """Learning rate after the share `progress` in [0, 1] of the stage's optimizer steps."""
        f = jnp.asarray(progress, jnp.float32)
        rise = f / max(self.warmup, 1e-9)
        fall = jnp.clip((f - self.warmup) / max(1.0 - self.warmup, 1e-9), 0.0, 1.0)
        decayed = self.floor + (1.0 - self.floor) * 0.5 * (1.0 + jnp.cos(jnp.pi * fall))
        return self.peak * jnp.minimum(jnp.minimum(rise, 1.0), decayed)


@dataclass(frozen=True)
class WarmupStableDecay:
    """A learning rate that rises to `peak`, stays, and falls linearly to `floor * peak` at the end (Hu et al. 2024)."""

    peak: float = 3e-3
    """highest learning rate"""
    warmup: float = 0.1
    """share of the steps spent rising"""
    decay: float = 0.3
    """share of the steps spent falling"""
    floor: float = 0.05
    """last learning rate, as a share of the peak"""

    def at(self, progress: Float[Array, ""] | float) -> Float[Array, ""]:
        """Learning rate after the share `progress` in [0, 1] of the stage's optimizer steps."""
        f = jnp.asarray(progress, jnp.float32)
        rise = f / max(self.warmup, 1e-9)
        fall = jnp.clip((1.0 - f) / max(self.decay, 1e-9), 0.0, 1.0)
        return self.peak * jnp.minimum(jnp.minimum(rise, 1.0), self.floor + (1.0 - self.floor) * fall)


Rate = WarmupCosine | WarmupStableDecay


@runtime_checkable
class Optimizer(Protocol):
    """Anything that builds an optax transformation for `steps` optimizer steps."""

    def build(self, steps: int) -> optax.GradientTransformation:
        """The transformation, its learning rate laid over `steps` steps."""
        ...


def decayed(params: PyTree) -> PyTree:
    """True where weight decay applies: matrices, not norm scales, however many layers are stacked in front of them."""
    return by_axes(params, lambda axes, rank: len(axes) > 1)


def _on_steps(rate: Rate, steps: int) -> Callable[..., Float[Array, ""]]:
    # optax counts from 0 before the first update; the first update should already move
    return lambda count: rate.at((jnp.asarray(count, jnp.float32) + 1.0) / steps)


@dataclass(frozen=True)
class AdamW:
    """AdamW (Loshchilov & Hutter 2019) after clipping the global gradient norm."""

    rate: Rate = field(default_factory=WarmupCosine)
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-8
    weight_decay: float = 0.01
    """decoupled decay of matrices, per unit of learning rate"""
    clip: float = 1.0
    """largest global gradient norm"""
    scaling: MaximalUpdate | None = None
    """the size at which rate, decay and eps were tuned, if they are to hold at another; None: they are as they stand"""
    moments: str = "float32"
    """dtype in which both moments are kept between steps; "bfloat16" halves their memory and rounds each to 8 bits"""

    def __post_init__(self) -> None:
        if self.moments not in ("float32", "bfloat16"):
            raise ValueError(f'AdamW(moments="{self.moments}") must be "float32" or "bfloat16"')

    def build(self, steps: int) -> optax.GradientTransformation:
        """The transformation, its learning rate laid over `steps` steps."""
        adamw = optax.adamw(
            _on_steps(self.rate, steps), self.b1, self.b2, self.eps, weight_decay=self.weight_decay, mask=decayed
        )
        adamw = adamw if self.moments == "float32" else _kept_in(adamw, self.moments)
        return optax.chain(optax.clip_by_global_norm(self.clip), self.scaling(adamw) if self.scaling else adamw)


def _kept_in(transformation: optax.GradientTransformation, dtype: str) -> optax.GradientTransformation:
    """The same, computed in float32 from a state that is kept in `dtype`."""

    def held(state: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, state)

    def update(updates: PyTree, state: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
        wide = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.dtype(dtype) else x, state)
        updates, wide = transformation.update(updates, wide, params)
        return updates, held(wide)

    return optax.GradientTransformation(lambda params: held(transformation.init(params)), update)


def muon_dimensions(params: PyTree) -> PyTree:
    """Muon's (rows, columns) per leaf by its letters, None where Adam serves: vectors, embedding, head, router.

    Looking at rank alone would give Adam to scanned layers' matrices and Muon to their stacked vectors. Experts, the
    pair of gate and up, and stacked layers are batch dimensions.
    """

    def choose(axes: tuple[str, ...], rank: int) -> contrib.MuonDimensionNumbers | None:
        first = rank - len(axes)
        weight = [first + place for place, letter in enumerate(axes) if letter not in ("e", "2")]
        if len(weight) < 2 or "v" in axes:
            return None
        read = 2 if axes[:2] == ("h", "c") else 1  # output projections read [h, c] together
        return contrib.MuonDimensionNumbers(reduction_axis=tuple(weight[:read]), output_axis=tuple(weight[read:]))

    return by_axes(params, choose)


@dataclass(frozen=True)
class Muon:
    """Muon (Jordan et al. 2024) for the layers' matrices, AdamW for the rest (optax.contrib.muon)."""

    rate: Rate = field(default_factory=lambda: WarmupCosine(peak=2e-2))
    adam_rate: Rate = field(default_factory=WarmupCosine)
    """learning rate of vectors, embedding, head and routers"""
    momentum: float = 0.95
    weight_decay: float = 0.01
    clip: float = 1.0
    """largest global gradient norm"""

    def build(self, steps: int) -> optax.GradientTransformation:
        """The transformation, its learning rates laid over `steps` steps."""
        muon = contrib.muon(
            _on_steps(self.rate, steps),
            beta=self.momentum,
            weight_decay=self.weight_decay,
            weight_decay_mask=decayed,
            adam_learning_rate=_on_steps(self.adam_rate, steps),
            muon_weight_dimension_numbers=muon_dimensions,
        )
        return optax.chain(optax.clip_by_global_norm(self.clip), muon)
