"""Quantisation: weights of a trained model in 8 or 4 bits, and what a quantised model weighs, by formula.

    python -m models.quantize      # GiB of Scout and Maverick in bfloat16, int8 and int4

Only weights are rounded, and only those of the text layers: they are nearly all of the model, and products sum over
many of their errors. Norms and routers are tiny, and a router that errs sends a token elsewhere. The embedding table
costs memory but is not read, except for one row a token; the vision tower is read once an image. The head is read whole
for every token, so it may be quantised too.

qwix (0.1.8) was tried and does not serve here: it runs the model, catches its products and quantises the operands that
it knows as parameters. In a model that scans stacked layers, products see slices, and every weight stays a float.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PyTree

from models import config as configs
from models.config import Config
from models.cost import Parameters
from models.llama4 import Llama4
from models.quantized import INTEGERS, Quantized, round_to
from models.tower import VISION


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to quantise: symmetric, with a bfloat16 scale for each group of weights that a product adds up.

    bits: of a weight, 8 or 4.
    group: weights that share a scale, at most: the largest number up to this that divides the axis.
    head: bits of the head; None leaves it as it is.
    """

    bits: int = 4
    group: int = 128
    head: int | None = None

    def __post_init__(self):
        """Refuses what no integer holds."""
        for name, bits in (("bits", self.bits), ("head", self.head)):
            if bits not in INTEGERS and (name, bits) != ("head", None):
                raise ValueError(f"Recipe.{name} is {bits}; a weight is quantised to 8 or 4 bits")
        if self.group < 1:
            raise ValueError(f"Recipe.group is {self.group}; a scale is shared by at least 1 weight")

    def fit(self, size: int) -> int:
        """The group along an axis of this size."""
        return max(group for group in range(1, min(self.group, size) + 1) if size % group == 0)


def quantize(model: Llama4, recipe: Recipe) -> Llama4:
    """The same model with the weights of its layers (and of its head) quantised; everything else as it was.

    It is again a pytree that goes through jit, scan, decoding and a mesh, and that a teacher can be; it is not to be
    trained. Works under jax.jit, which needs room for one weight in float32 besides, and under jax.eval_shape.

    Raises:
        ValueError: the model is quantised already.
    """
    bits = {"periods": recipe.bits, "head": recipe.head}

    def shrink(path: Any, param: nnx.Param) -> nnx.Variable:
        weight, wanted = param[...], bits.get(path[0].name)
        if isinstance(weight, Quantized):
            raise ValueError("The model is quantised already; quantise its float weights, lest they be rounded twice")
        axis = None if wanted is None else contracted(param.axes)
        if wanted is None or axis is None:
            return param
        return param.replace(round_to(weight, axis, wanted, recipe.fit(weight.shape[axis])))

    return jax.tree_util.tree_map_with_path(shrink, model, is_leaf=is_param)


def dequantize(model: Llama4, dtype: str = "float32") -> Llama4:
    """The float model that a quantised one stands for: to look at, or to compute with in another way."""

    def widen(param: nnx.Param) -> nnx.Variable:
        weight = param[...]
        return param.replace(weight.astype(dtype)) if isinstance(weight, Quantized) else param

    return jax.tree.map(widen, model, is_leaf=is_param)


def contracted(axes: tuple[str, ...]) -> int | None:
    """The axis, counted from the end, that groups lie along: one that products with this parameter sum over.

    None for what is not quantised: norms, routers. The output projection sums over heads and channels; its groups lie
    within a head.
    """
    if len(axes) == 1 or axes[-1] == "e":
        return None
    return -2 if axes[-1] == "d" else axes.index("d") - len(axes)


def is_param(leaf: object) -> bool:
    """Whether a node of a model is a parameter, whatever it holds."""
    return isinstance(leaf, nnx.Param)


def weigh_tree(tree: PyTree) -> int:
    """Bytes of all arrays in a tree, abstract or not; a value of 4 bits is half a byte, as XLA keeps it."""
    return sum(math.ceil(leaf.size * bits_of(leaf.dtype) / 8) for leaf in jax.tree.leaves(tree))


def bits_of(dtype: jnp.dtype) -> int:
    """Bits of a number."""
    return jnp.iinfo(dtype).bits if jnp.issubdtype(dtype, jnp.integer) else jnp.finfo(dtype).bits


def size(config: Config, recipe: Recipe | None, rest: int = 2) -> int:
    """Bytes of a model by formula.

    Args:
        config: which model.
        recipe: how it is quantised; None: all of it is in floats.
        rest: bytes of a number that is not quantised: 2 in bfloat16.
    """
    total = Parameters.of(config).total * rest
    if recipe is None:
        return total
    for count, along, bits in _rounded(config, recipe):
        total += count * bits // 8 + 2 * count // recipe.fit(along) - count * rest
    return total


def _rounded(config: Config, recipe: Recipe) -> list[tuple[int, int, int]]:
    """What a recipe quantises: weights, size of the axis that their groups lie along, and bits."""
    parts, d = Parameters.of(config), config.width
    o = config.layers * config.heads * config.head_dim * d
    up, down = 2 * (parts.experts + parts.shared) // 3, (parts.experts + parts.shared) // 3
    layers = [
        (parts.attention - o + up + 2 * parts.dense // 3, d),
        (o, config.head_dim),
        (down, config.expert_width),
        (parts.dense // 3, config.dense_width),
    ]
    heads = [] if recipe.head is None else [(parts.head, d, recipe.head)]
    return [(count, along, recipe.bits) for count, along in layers] + heads


def main() -> None:
    """Prints the table."""
    recipes = {
        "bfloat16": None,
        "int8": Recipe(bits=8),
        "int8, head too": Recipe(bits=8, head=8),
        "int4": Recipe(bits=4),
        "int4, head int8": Recipe(bits=4, head=8),
    }
    print(f"{'GiB':28}" + "".join(f"{name:>16}" for name in recipes))
    for name in ("SCOUT", "MAVERICK"):
        config = vars(configs)[name]
        for what, each in ((name, config), (f"{name} with vision tower", replace(config, vision=VISION))):
            gib = [size(each, recipe) / 2**30 for recipe in recipes.values()]
            print(f"{what:28}" + "".join(f"{one:16.1f}" for one in gib))


if __name__ == "__main__":
    main()
