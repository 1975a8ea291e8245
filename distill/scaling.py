"""MaximalUpdate: the settings of an optimizer, tuned at one width and depth, at another."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from distill.letters import Axes, arrays, by_axes


@dataclass(frozen=True)
class Power:
    """A factor: how many times wider to the power `width`, times how many times deeper to the power `layers`."""

    width: float = 0.0
    layers: float = 0.0


@dataclass(frozen=True)
class Rule:
    """How what belongs to a parameter goes with the size of its model."""

    rate: Power
    """of its learning rate"""
    gradient: Power
    """of its gradient, coordinate by coordinate: what Adam's eps must keep up with"""


EMBEDDING = Rule(rate=Power(), gradient=Power(width=-1.0))
"""adds its rows to the stream, and so do vectors outside of layers and the projector of images"""
HEAD = Rule(rate=Power(width=-1.0), gradient=Power())
"""sums over a width that grows, into a number of outputs that does not"""
ROUTER = Rule(rate=Power(width=-1.0, layers=-0.5), gradient=Power(layers=-0.5))
"""a head inside a layer"""
READS = Rule(rate=Power(width=-1.0, layers=-0.5), gradient=Power(width=-1.0, layers=-0.5))
"""matrices that read the stream of a layer"""
WRITES = Rule(rate=Power(width=-1.0, layers=-1.0), gradient=Power(width=-1.0))
"""matrices that write into it: they are drawn smaller by the root of layers, and learn at a rate smaller by as much"""
SCALE = Rule(rate=Power(layers=-0.5), gradient=Power(width=-1.0, layers=-0.5))
"""vectors of a layer"""
APART = Rule(rate=Power(), gradient=Power())
"""what lies within the vision tower, which has a width and a depth of its own"""

RULES: dict[Axes, Rule] = {
    ("v", "d"): EMBEDDING, ("a", "d"): EMBEDDING, ("d", "v"): HEAD, ("d", "D"): HEAD, ("d", "e"): ROUTER,
    ("d", "h", "c"): READS, ("d", "k", "c"): READS, ("d", "2", "f"): READS, ("e", "d", "2", "f"): READS,
    ("h", "c", "d"): WRITES, ("f", "d"): WRITES, ("e", "f", "d"): WRITES,
}  # fmt: skip


def rule(axes: Axes, rank: int) -> Rule:
    """What holds for a parameter with these letters.

    Raises:
      ValueError: it is as wide as the stream, and there is no rule for it.
    """
    if axes == ("d",):
        return SCALE if rank > 1 else EMBEDDING
    if axes in RULES:
        return RULES[axes]
    if "d" in axes:
        raise ValueError(
            f"MaximalUpdate knows no rule for a parameter of the axes {axes}; it must be one of {[*RULES]}: "
            "write its rule into distill/scaling.py"
        )
    return APART


@dataclass(frozen=True, kw_only=True)
class MaximalUpdate:
    """Settings that were tuned at `width` and `layers`, for a model of any: `AdamW(scaling=MaximalUpdate(...))`.

    Rates follow the maximal update parametrization in width (Yang et al. 2022, arXiv:2203.03466) and its form for depth
    with branches that shrink by the root of their number (Yang et al. 2023, arXiv:2310.02244), so that what a step
    changes in the stream, the routers and the logits is as large at every size. Initial weights stay what they are, as
    Everett et al. 2024 (arXiv:2407.05872) found sufficient: the model, and what a checkpoint of it means, know nothing
    of this. Where the papers multiply within the forward pass, the multiplier is folded into the rate.

    Decay pulls a weight by rate * weight_decay of the tuned size at every size, and Adam's eps stands to gradients as
    it did there. At the tuned size every factor is 1 and every bit is the optimizer's own.

    Not covered: other ratios between a model's sizes, more experts, other head channels, batches or numbers of steps.
    """

    width: int
    """of the model at which the settings were tuned"""
    layers: int
    """of that model"""

    def __post_init__(self) -> None:
        if self.width < 1 or self.layers < 1:
            raise ValueError(
                f"MaximalUpdate(width={self.width}, layers={self.layers}) must be at least 1 and 1; they are the sizes "
                "of the model at which the settings were tuned"
            )

    def __call__(self, inner: optax.GradientTransformation) -> optax.GradientTransformation:
        """The optimizer as if every weight were `rate` times what it moves: so decay is not scaled with the rate."""

        def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, Any]:
            rates, gradients = self.rates(params), self.gradients(params)
            moved, state = inner.update(_over(updates, gradients), state, _over(params, rates))
            return jax.tree.map(jnp.multiply, moved, rates), state

        return optax.GradientTransformation(inner.init, update)

    def rates(self, params: PyTree) -> PyTree:
        """What each parameter's learning rate is multiplied by."""
        return self._factors(params, lambda found: found.rate)

    def gradients(self, params: PyTree) -> PyTree:
        """How many times larger each parameter's gradient is, coordinate by coordinate, than at the tuned size."""
        return self._factors(params, lambda found: found.gradient)

    def _factors(self, params: PyTree, of: Any) -> PyTree:
        width, layers = size(params)
        wider, deeper = width / self.width, layers / self.layers

        def factor(axes: Axes, rank: int) -> float:
            power = of(rule(axes, rank))
            return wider**power.width * deeper**power.layers

        return by_axes(params, factor)


def size(params: PyTree) -> tuple[int, int]:
    """Width and layers of a model, from its parameters: the embedding's, and one output of attention for every layer.

    Raises:
      ValueError: they are not those of a language model.
    """
    found = [(axes, array.shape) for axes, array in arrays(params)]
    widths = {shape[-1] for axes, shape in found if axes == ("v", "d")}
    layers = sum(shape[0] for axes, shape in found if axes == ("h", "c", "d"))
    if len(widths) != 1 or not layers:
        raise ValueError(
            f"MaximalUpdate finds embeddings of widths {sorted(widths)} and {layers} layers; it must be given the "
            "parameters of one language model, with their letters"
        )
    return widths.pop(), layers


def _over(tree: PyTree, factors: PyTree) -> PyTree:
    return jax.tree.map(jnp.divide, tree, factors)
