"""Scan: a loop over layers whose gradient reads the weights where they lie, and keeps no second copy of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import jax
from jaxtyping import PyTree

X = TypeVar("X")


def scan_layers(
    body: Callable[[PyTree, X, PyTree, PyTree], tuple[X, PyTree]],
    shared: PyTree,
    x: X,
    layers: PyTree,
    beside: PyTree,
    unroll: int = 1,
) -> tuple[X, PyTree]:
    """`jax.lax.scan` of `body(shared, x, layer, own)` over layers and what each has beside its weights.

    What they share gets no gradient, nor does what is beside them.

    What a step was given is not kept for the gradient but read again where it lies, by construction. jax's own scan
    does as much where it sees what a step hands on (on a CPU, jax 0.10.2: no difference); it stacked the weights up, as
    much memory again, where a barrier made them look new.
    """
    return _scan(body, unroll, shared, x, layers, beside)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(
    body: Callable, unroll: int, shared: PyTree, x: PyTree, layers: PyTree, beside: PyTree
) -> tuple[PyTree, PyTree]:
    return jax.lax.scan(lambda x, each: body(shared, x, *each), x, (layers, beside), unroll=unroll)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Kept:
    """What the gradient needs of every step, beside what each was given."""

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    own: list[jax.Array]
    shared: PyTree
    each: tuple[PyTree, PyTree]
    pull: Any = field(metadata={"static": True})
    places: tuple[int | None, ...] = field(metadata={"static": True})
    """of each leaf of `pull`: its place among what a step is given, or None where it is kept"""


def _forward(
    body: Callable, unroll: int, shared: PyTree, x: PyTree, layers: PyTree, beside: PyTree
) -> tuple[Any, _Kept]:
    notes: dict[str, Any] = {}

    def step(x: PyTree, each: tuple[PyTree, PyTree]) -> tuple[PyTree, Any]:
        (x, y), pull = jax.vjp(lambda x, layer: body(shared, x, layer, each[1]), x, each[0])
        leaves, notes["pull"] = jax.tree.flatten(pull)
        given = {id(leaf): place for place, leaf in enumerate(jax.tree.leaves((shared, each)))}
        notes["places"] = tuple(given.get(id(leaf)) for leaf in leaves)
        return x, (y, [leaf for leaf in leaves if id(leaf) not in given])

    x, (ys, own) = jax.lax.scan(step, x, (layers, beside), unroll=unroll)
    return (x, ys), _Kept(own, shared, (layers, beside), notes["pull"], notes["places"])


def _backward(
    body: Callable, unroll: int, kept: _Kept, slopes: tuple[PyTree, PyTree]
) -> tuple[None, PyTree, PyTree, None]:
    def step(slope: PyTree, each: tuple[list[jax.Array], PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        own, given = iter(each[0]), jax.tree.leaves((kept.shared, each[1]))
        leaves = [next(own) if place is None else given[place] for place in kept.places]
        return jax.tree.unflatten(kept.pull, leaves)((slope, each[2]))

    slope, to_layers = jax.lax.scan(step, slopes[0], (kept.own, kept.each, slopes[1]), reverse=True, unroll=unroll)
    return None, slope, to_layers, None


_scan.defvjp(_forward, _backward)
