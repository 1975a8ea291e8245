"""A loss over the vocabulary head by pieces of the time axis: [b t v] never exists, and nothing is computed twice.

But for an objective that must have seen all before it weighs anything: that makes every logit once more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from losses.head import project, pull
from losses.signal import cut, paste
from losses.split import Split, shared


@runtime_checkable
class Objective(Protocol):
    """A loss that can be taken by pieces. It looks at the logits, weighs what it saw nearby, then judges the logits.

    `rows` is whatever it needs beside the logits; `rows.slice(start, size)` is a piece of it. All it returns is [b t].
    """

    @property
    def reach(self) -> int | None:
        """Within how many positions, on either side, lies what the weights of a position depend on; None for all."""
        ...

    def look(self, logits: Float[Array, "b t v"], rows: Any) -> PyTree:
        """Small notes about every position, from its logits alone."""
        ...

    def weigh(self, notes: PyTree, rows: Any) -> PyTree:
        """What the notes of a position's neighbours make of it."""
        ...

    def judge(self, logits: Float[Array, "b t v"], rows: Any, weights: PyTree) -> tuple[Float[Array, "b t"], PyTree]:
        """The loss at every position (0 where masked), and notes about it. Differentiated in the logits alone."""
        ...


def total_loss(
    objective: Objective,
    chunk: int | None,
    hidden: Float[Array, "b t d"],
    head: Float[Array, "d v"],
    rows: Any,
    split: Split | None = None,
) -> tuple[Float[Array, ""], PyTree]:
    """Sum of an objective's losses over all positions, and its notes [b t]: (look's, weigh's, judge's).

    Differentiable in hidden and head; rows and notes carry no gradient.

    Args:
      objective: the loss.
      chunk: positions of t a piece; b * chunk rows of logits exist at a time. None takes t whole, by plain autodiff.
      hidden: the student's hidden states.
      head: the student's vocabulary head.
      rows: the targets, with a `slice(start, size)`.
      split: devices that share the positions out; None where the compiler is to see to that.
    """
    if split is not None:
        return shared(total_loss, split, objective, chunk, hidden, head, rows)
    size = hidden.shape[1] if chunk is None else max(chunk, objective.reach or 0)
    if size < hidden.shape[1]:
        return _by_pieces(objective, size, hidden, head, rows)
    logits = project(hidden, head)
    notes = jax.lax.stop_gradient(objective.look(logits, rows))
    weights = objective.weigh(notes, rows)
    values, remarks = objective.judge(logits, rows, weights)
    return jnp.sum(values), jax.lax.stop_gradient((notes, weights, remarks))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Piece:
    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    start: Int[Array, ""]
    fresh: Bool[Array, "1 c"]  # the last piece starts early to be full; what it repeats must not be learned twice
    hidden: Float[Array, "b c d"]
    logits: Float[Array, "b c v"]
    rows: Any


def _sweep(objective: Objective, size: int, hidden, head, rows, learn: Callable, carry):
    """Folds `learn` over the pieces, each seen when all that its weights depend on has been looked at.

    A gate that reaches over its neighbours needs the piece after, so learning runs one piece behind looking and the
    logits of one piece are carried. One that reaches over everything needs a first pass for the notes alone.
    """
    length = hidden.shape[1]
    count = -(-length // size)

    def read(index):
        start = jnp.minimum(index * size, length - size)
        part = jax.lax.dynamic_slice_in_dim(hidden, start, size, axis=1)
        fresh = (start + jnp.arange(size) >= index * size)[None]
        piece = _Piece(start, fresh, part, project(part, head), rows.slice(start, size))
        return piece, objective.look(piece.logits, piece.rows)

    if objective.reach == 0:

        def at_once(carry, index):
            piece, notes = read(index)
            weights = objective.weigh(notes, piece.rows)
            return learn(carry, piece, notes, weights), None

        return jax.lax.scan(at_once, carry, jnp.arange(count))[0]

    if objective.reach is None:
        return _after_all(objective, size, rows, read, count, length, learn, carry)

    near = min(length, size + 2 * objective.reach)

    def weigh(book, piece):
        # what lies within reach of the piece, on either side: the work is linear in the length of a row
        start = jnp.clip(piece.start - objective.reach, 0, length - near)
        return cut(objective.weigh(cut(book, start, near), rows.slice(start, near)), piece.start - start, size)

    def one_behind(state, index):
        carry, book, last = state
        piece, notes = read(index)
        book = paste(book, notes, piece.start)
        carry = learn(carry, last, cut(book, last.start, size), weigh(book, last))
        return (carry, book, piece), None

    first, notes = read(jnp.int32(0))
    book = paste(_blank(notes, length), notes, first.start)
    (carry, book, last), _ = jax.lax.scan(one_behind, (carry, book, first), jnp.arange(1, count))
    return learn(carry, last, cut(book, last.start, size), weigh(book, last))


def _after_all(objective, size, rows, read, count, length, learn, carry):
    def look(book, index):
        piece, notes = read(index)
        return paste(book, notes, piece.start), None

    blank = _blank(jax.eval_shape(lambda: read(jnp.int32(0))[1]), length)
    book = jax.lax.scan(look, blank, jnp.arange(count))[0]
    weights = objective.weigh(book, rows)

    def at_last(carry, index):
        piece, _ = read(index)
        return learn(carry, piece, cut(book, piece.start, size), cut(weights, piece.start, size)), None

    return jax.lax.scan(at_last, carry, jnp.arange(count))[0]


def _notes(objective, size, hidden, head, rows):
    """Empty pages [b t] for everything that an objective returns."""

    def piece(hidden, head, rows):
        rows = rows.slice(jnp.int32(0), size)
        logits = project(hidden[:, :size], head)
        notes = objective.look(logits, rows)
        weights = objective.weigh(notes, rows)
        return notes, weights, objective.judge(logits, rows, weights)[1]

    return _blank(jax.eval_shape(piece, hidden, head, rows), hidden.shape[1])


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _by_pieces(objective, size, hidden, head, rows):
    def learn(carry, piece, notes, weights):
        total, pages = carry
        values, remarks = objective.judge(piece.logits, piece.rows, weights)
        total = total + jnp.sum(jnp.where(piece.fresh, values, 0.0))
        return total, paste(pages, (notes, weights, remarks), piece.start)

    blank = jnp.float32(0.0), _notes(objective, size, hidden, head, rows)
    return _sweep(objective, size, hidden, head, rows, learn, blank)


def _forward(objective, size, hidden, head, rows):
    """The gradient is made here, while the logits are at hand: the backward pass has only to scale it."""

    def learn(carry, piece, notes, weights):
        total, pages, d_hidden, d_head = carry

        def loss(logits):
            values, remarks = objective.judge(logits, piece.rows, weights)
            return jnp.sum(jnp.where(piece.fresh, values, 0.0)), remarks

        (value, remarks), d_logits = jax.value_and_grad(loss, has_aux=True)(piece.logits)
        d_part, d_piece = pull(piece.hidden, head, d_logits)
        d_part = d_part + jax.lax.dynamic_slice_in_dim(d_hidden, piece.start, size, axis=1)
        d_hidden = jax.lax.dynamic_update_slice_in_dim(d_hidden, d_part, piece.start, axis=1)
        return total + value, paste(pages, (notes, weights, remarks), piece.start), d_hidden, d_head + d_piece

    blank = jnp.float32(0.0), _notes(objective, size, hidden, head, rows)
    zeros = jnp.zeros(hidden.shape, jnp.float32), jnp.zeros(head.shape, jnp.float32)
    total, pages, d_hidden, d_head = _sweep(objective, size, hidden, head, rows, learn, (*blank, *zeros))
    return (total, pages), (d_hidden.astype(hidden.dtype), d_head.astype(head.dtype))


def _backward(objective, size, gradients, cotangents):
    d_hidden, d_head = gradients
    scale = cotangents[0]
    return (d_hidden * scale).astype(d_hidden.dtype), (d_head * scale).astype(d_head.dtype), None


_by_pieces.defvjp(_forward, _backward)


def _blank(tree, length):
    return jax.tree.map(lambda x: jnp.zeros((x.shape[0], length), x.dtype), tree)
