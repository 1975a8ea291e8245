"""Attention over rows whose columns are split between devices: what runs inside a shard_map, on each slice.

Device i of n holds columns i t to (i + 1) t of q, k, v and of the layout. Axis names come as arguments. The shard_map
must not check how values vary over the mesh (`check_vma=False`): kernels do not say it of their results.
"""

from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jaxtyping import Array, Float

from models.across import Across, Axis, Gather
from models.attention import attend_chunk, attend_document, number_rooms
from models.flash import Attend, Blockwise
from models.layout import Layout
from models.placement import Placement, along


@dataclass(frozen=True)
class Sight:
    """How tokens see each other: a kernel and, on a mesh, where rows, columns and heads lie.

    across: how queries see the keys of other devices, where columns are split.
    """

    attend: Attend = Blockwise()
    placement: Placement | None = None
    across: Across = Gather()

    def __call__(
        self,
        q: Float[Array, "b t h c"],
        k: Float[Array, "b t k c"],
        v: Float[Array, "b t k c"],
        layout: Layout,
        chunk: int | None,
    ) -> Float[Array, "b t h c"]:
        """`attend_chunk`, or without a chunk `attend_document`."""
        place = self.placement
        if place is None:
            return self._whole(q, k, v, layout, chunk)
        axis = along(place.spec(("b", "t"), q.shape[:2])[1])
        own = partial(self._split, chunk=chunk, axis=axis) if axis else partial(self._whole, chunk=chunk)
        # Heads are cut as those of the keys are, and go with them.
        heads = ("b", "t", "k", "c")
        return place.split(own, (q, k, v, layout), (heads, heads, heads, ("b", "t")), heads)

    def _whole(self, q: Array, k: Array, v: Array, layout: Layout, chunk: int | None) -> Array:
        if chunk is None:
            return attend_document(q, k, v, layout, self.attend)
        return attend_chunk(q, k, v, layout, chunk, self.attend)

    def _split(self, q: Array, k: Array, v: Array, layout: Layout, chunk: int | None, axis: Axis) -> Array:
        if chunk is None:
            return attend_document_split(q, k, v, layout, axis, self.attend, self.across)
        return attend_chunk_split(q, k, v, layout, chunk, axis, self.attend, self.across)


def attend_document_split(
    q: Float[Array, "b t h c"],
    k: Float[Array, "b t k c"],
    v: Float[Array, "b t k c"],
    layout: Layout,
    axis: Axis,
    attend: Attend,
    across: Across = Gather(),  # noqa: B008 (frozen)
) -> Float[Array, "b t h c"]:
    """`attend_document` of rows that are split: every token over itself and all earlier ones of its document."""
    return across(q, k, v, layout.segments, axis, attend, lax.axis_size(axis))


def attend_chunk_split(
    q: Float[Array, "b t h c"],
    k: Float[Array, "b t k c"],
    v: Float[Array, "b t k c"],
    layout: Layout,
    chunk: int,
    axis: Axis,
    attend: Attend,
    across: Across = Gather(),  # noqa: B008 (frozen)
) -> Float[Array, "b t h c"]:
    """`attend_chunk` of rows that are split: nothing is sent where no chunk crosses a border.

    Where a chunk is a whole number of slices, each is a case of whole documents for the devices that hold it. Elsewhere
    the columns that a chunk may reach back come from the devices before.
    """
    t, n = q.shape[1], lax.axis_size(axis)
    if layout.aligned and t % chunk == 0:
        return attend_chunk(q, k, v, layout, chunk, attend)
    rooms = number_rooms(layout, chunk, n * t)
    if chunk >= (n - 1) * t:
        return across(q, k, v, rooms, axis, attend, n)
    if layout.aligned and chunk % t == 0 and n % (chunk // t) == 0:
        return across(q, k, v, rooms, axis, attend, chunk // t)
    fetch = partial(_with_previous, columns=chunk, axis=axis)
    # The zeros before the first device's columns are padding to the rooms too: of segment 0.
    k, v, theirs = fetch(k), fetch(v), fetch(rooms)
    if t <= chunk:
        return attend(q, k, v, rooms, theirs)
    # Blocks of chunk queries, each with chunk columns of keys before it.
    b, extra = q.shape[0], -t % chunk
    q, k, v, rooms, theirs = (_widen(x, extra) for x in (q, k, v, rooms, theirs))
    fold = partial(rearrange, pattern="b (n t) ... -> (b n) t ...", t=chunk)
    pair = lambda x: jnp.concatenate([fold(x[:, :-chunk]), fold(x[:, chunk:])], axis=1)  # noqa: E731
    y = attend(fold(q), pair(k), pair(v), fold(rooms), pair(theirs))
    return rearrange(y, "(b n) t h c -> b (n t) h c", b=b)[:, :t]


def _with_previous(x: Array, columns: int, axis: Axis) -> Array:
    """This slice after so many columns before it, from as many devices as hold them; zeros where the row begins."""
    n, t = lax.axis_size(axis), x.shape[1]
    pieces = [x]
    for step in range(1, -(-columns // t) + 1):
        sent = x[:, -(columns - (step - 1) * t) :] if step * t > columns else x
        pieces.insert(0, lax.ppermute(sent, axis, [(i, i + step) for i in range(n - step)]))
    return jnp.concatenate(pieces, axis=1)


def _widen(x: Array, extra: int) -> Array:
    """More columns, the last one repeated: so every query still sees something."""
    return jnp.pad(x, [(0, 0), (0, extra)] + [(0, 0)] * (x.ndim - 2), mode="edge") if extra else x
