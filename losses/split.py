"""Split: a loss over the vocabulary head, each device on its own positions; the head is gathered, logits never."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as Spec
from jaxtyping import Array, Float, Int, PyTree

from losses.signal import cut


@dataclass(frozen=True)
class Split:
    """Mesh axes of rows, columns and the width of the head. An axis is left out where a size does not divide."""

    mesh: jax.sharding.Mesh
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    width: tuple[str, ...]

    def columns_of(self, length: int) -> tuple[str, ...]:
        """Axes over which rows of this length are cut."""
        return self._fit(self.columns, length)

    def __call__(
        self,
        function: Callable[..., Any],
        hidden: Float[Array, "b t d"],
        head: Float[Array, "d v"],
        pages: Any,
        at_once: bool = False,
    ) -> tuple[Float[Array, ""], PyTree]:
        """What `function(hidden, head, pages)` makes of each part: a sum, added up, and arrays [b t ...], put together.

        Args:
          function: differentiable in hidden and head.
          at_once: the gradient of the sum, and of nothing else, is asked for: it is made, and the head's is added up
            over devices, before this returns, so that none keeps a whole one until the end of the step.
          pages: a tree; arrays [b t ...] are cut, the others, such as a teacher's head, every device has whole.
        """
        b, t, d = hidden.shape
        if head.shape[1] == t:  # a page could not be told from a head
            return function(hidden, head, pages)
        rows, columns, width = self._fit(self.rows, b), self._fit(self.columns, t), self._fit(self.width, d)
        here, kept = Spec(rows, columns), Spec(width)
        paged = jax.tree.map(lambda page: here if jnp.shape(page)[:2] == (b, t) else Spec(), pages)

        def own(hidden: Array, head: Array, pages: Any) -> tuple[Array, PyTree]:
            if at_once:
                found: Any = _at_once(function, width, hidden, head, pages)
            else:
                found = function(hidden, _whole(head, width), pages)
            total, notes = found
            return jnp.full((1, 1), total), notes

        call = jax.shard_map(own, mesh=self.mesh, in_specs=(here, kept, paged), out_specs=(here, here), check_vma=False)
        totals, notes = call(hidden, head, pages)
        return jnp.sum(totals), notes

    def _fit(self, axes: tuple[str, ...], size: int) -> tuple[str, ...]:
        parts = 1
        found: tuple[str, ...] = ()
        for axis in axes:
            if size % (parts * self.mesh.shape[axis]) == 0:
                parts, found = parts * self.mesh.shape[axis], (*found, axis)
        return found


def _whole(head: Array, width: tuple[str, ...]) -> Array:
    return jax.lax.all_gather(head, width, axis=0, tiled=True) if width else head


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _at_once(
    function: Callable, width: tuple[str, ...], hidden: Array, head: Array, pages: Any
) -> tuple[Array, PyTree]:
    return function(hidden, _whole(head, width), pages)


def _forward(function: Callable, width: tuple[str, ...], hidden: Array, head: Array, pages: Any) -> tuple[Any, Any]:
    ask = lambda hidden, head: function(hidden, head, pages)  # noqa: E731
    total, pull, notes = jax.vjp(ask, hidden, _whole(head, width), has_aux=True)
    d_hidden, d_head = pull(jnp.ones_like(total))
    if width:
        d_head = jax.lax.psum_scatter(d_head, width, scatter_dimension=0, tiled=True)
    return (total, notes), jax.lax.optimization_barrier((d_hidden, d_head))


def _backward(function: Callable, width: tuple[str, ...], slopes: tuple[Array, Array], cotangents: Any) -> Any:
    scale = cotangents[0]
    return *((slope * scale).astype(slope.dtype) for slope in slopes), None


_at_once.defvjp(_forward, _backward)


def shared(
    total_loss: Callable[..., tuple[Array, PyTree]], split: Split, objective: Any, chunk: int | None, *operands: Any
) -> tuple[Float[Array, ""], PyTree]:
    """`losses.chunk.total_loss` of hidden, head and rows, each device on its part.

    Where columns are cut that a weight depends on together, or weights depend on everything, the notes of all are put
    together before anything is weighed, at the price of making the logits once more.
    """
    hidden, head, rows = operands
    if objective.reach == 0 or objective.reach is not None and not split.columns_of(hidden.shape[1]):
        return split(lambda *own: total_loss(objective, chunk, *own), hidden, head, rows, at_once=True)
    quiet = jax.lax.stop_gradient((hidden, head))
    _, (notes, _, _) = split(lambda *own: total_loss(_Looking(objective), chunk, *own), *quiet, rows)
    weights = jax.lax.stop_gradient(objective.weigh(notes, rows))
    known = _Known(rows, weights)
    settled = _Settled(objective)
    total, (_, _, remarks) = split(lambda *own: total_loss(settled, chunk, *own), hidden, head, known, at_once=True)
    return total, jax.lax.stop_gradient((notes, weights, remarks))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Known:
    """Rows, and the weights of their positions."""

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    rows: Any
    weights: PyTree

    def slice(self, start: Int[Array, ""], size: int) -> "_Known":
        return _Known(self.rows.slice(start, size), cut(self.weights, start, size))


@dataclass(frozen=True)
class _Looking:
    """What an objective notes, and no loss."""

    objective: Any
    reach: int = 0

    def look(self, logits, rows):
        return self.objective.look(logits, rows)

    def weigh(self, notes, rows):
        return None

    def judge(self, logits, rows, weights):
        return jnp.zeros(logits.shape[:2], jnp.float32), None


@dataclass(frozen=True)
class _Settled:
    """An objective whose weights are known before it looks."""

    objective: Any
    reach: int = 0

    def look(self, logits, known):
        return None

    def weigh(self, notes, known):
        return known.weights

    def judge(self, logits, known, weights):
        return self.objective.judge(logits, known.rows, weights)
