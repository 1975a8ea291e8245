"""What parameters are, by the letters they carry: the legend of `models`, read off a tree of them."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, PyTree

Axes = tuple[str, ...]
"""letters of a parameter's last dimensions, one each; what stands before them are stacked layers"""


def by_axes(params: PyTree, choose: Callable[[Axes, int], Any]) -> PyTree:
    """A tree like `params` with `choose(letters, rank)` at every leaf; letters tell a stacked vector from a matrix."""

    def one(leaf: Any) -> Any:
        return jax.tree.map(lambda array: choose(_axes(leaf), jnp.ndim(array)), leaf)

    return jax.tree.map(one, params, is_leaf=_lettered)


def arrays(params: PyTree) -> Iterator[tuple[Axes, Array]]:
    """Every array with its letters."""
    for leaf in jax.tree.leaves(params, is_leaf=_lettered):
        yield from ((_axes(leaf), array) for array in jax.tree.leaves(leaf))


def _lettered(leaf: Any) -> bool:
    return isinstance(leaf, nnx.Variable)


def _axes(leaf: Any) -> Axes:
    return tuple(leaf.get_metadata().get("axes", ())) if isinstance(leaf, nnx.Variable) else ()
