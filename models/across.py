"""Across: how queries see the keys of other devices, where the columns of a row are split; inside a shard_map.

Causal work over a whole row is exchanged by halves: device i keeps the first half of its queries and takes the second
half of those of device n - 1 - i. The columns of the one lie as far from the start as those of the other from the end,
so every device has as many keys to see.
"""

from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jaxtyping import Array, Float, Int

from models.blockwise import (
    BLOCK,
    Keys,
    begin,
    finish,
    fold_keys,
    fold_queries,
    fold_slopes,
    gather_blocks,
    no_slopes,
    pull_blocks,
    unfold,
    unfold_keys,
)  # fmt: skip
from models.flash import Attend
from models.remat import product

Axis = str | tuple[str, ...]
"""the mesh axes that columns are split over, the first the slowest"""


@runtime_checkable
class Across(Protocol):
    """How queries get to see the keys of other devices."""

    def __call__(
        self,
        q: Float[Array, "b t h c"],
        k: Float[Array, "b t k c"],
        v: Float[Array, "b t k c"],
        rooms: Int[Array, "b t"],
        axis: Axis,
        attend: Attend,
        group: int,
    ) -> Float[Array, "b t h c"]:
        """What this slice of queries gathers from the keys of its group: of their rooms and not behind them.

        group: so many neighbours on the axis have to do with each other, and with nobody else.
        """
        ...


@dataclass(frozen=True)
class Gather:
    """All keys and values on every device, and any kernel over them: 2 s k c numbers, for the time of one layer.

    Of Scout's NoPE layers 1 GiB at 256k tokens in bfloat16, 4 GiB at 1M.

    parts: so many groups of heads, one after the other, each with its keys alone: memory by that much less.
    """

    parts: int = 1

    def __post_init__(self):
        """Refuses no parts."""
        if self.parts < 1:
            raise ValueError(f"Gather.parts is {self.parts}; it must be at least 1")

    def __call__(
        self,
        q: Float[Array, "b t h c"],
        k: Float[Array, "b t k c"],
        v: Float[Array, "b t k c"],
        rooms: Int[Array, "b t"],
        axis: Axis,
        attend: Attend,
        group: int,
    ) -> Float[Array, "b t h c"]:
        """See Across."""
        if k.shape[2] % self.parts:
            raise ValueError(
                f"Gather.parts = {self.parts} does not divide {k.shape[2]} key/value heads; take a divisor, such as 1"
            )
        collect = partial(_collect, axis=axis, group=group)
        theirs, places = collect(rooms), balanced_places(q.shape[1], axis, group)
        q, rooms = swap(q, axis, group), swap(rooms, axis, group)

        def part(each: tuple[Array, Array, Array]) -> Array:
            q, k, v = each
            return attend(q, collect(k), collect(v), rooms, theirs, places)

        split = partial(rearrange, pattern="b t (n k) c -> n b t k c", n=self.parts)
        y = part((q, k, v)) if self.parts == 1 else lax.map(jax.checkpoint(part), (split(q), split(k), split(v)))
        return swap(y if self.parts == 1 else rearrange(y, "n b t k c -> b t (n k) c"), axis, group)


@dataclass(frozen=True)
class Ring:
    """Keys and values travel from device to device, each taking what it needs: two slices in memory, never the row.

    By blocks in XLA (`models/blockwise.py`): a ring of kernels would need the gradient of their sums of exponentials.
    Keys are exchanged by halves as queries are, so that at every turn every device has equally many pairs to compute
    (zigzag): whoever waits for the slowest at each turn loses nothing. The gradient is a second ring, in which the
    slopes on keys and values travel along with them (Liu et al. 2023, arXiv:2310.01889).
    """

    block: int = BLOCK

    def __post_init__(self):
        """Refuses a block of nothing."""
        if self.block < 1:
            raise ValueError(f"Ring.block is {self.block}; it must be at least 1 column")

    def __call__(
        self,
        q: Float[Array, "b t h c"],
        k: Float[Array, "b t k c"],
        v: Float[Array, "b t k c"],
        rooms: Int[Array, "b t"],
        axis: Axis,
        attend: Attend,
        group: int,
    ) -> Float[Array, "b t h c"]:
        """See Across; attend has no say."""
        del attend
        q, k, v, rooms = (swap(x, axis, group) for x in (q, k, v, rooms))
        places = balanced_places(q.shape[1], axis, group)
        return swap(_ring(self.block, axis, group, q, k, v, rooms, places), axis, group)


def swap(x: Array, axis: Axis, group: int) -> Array:
    """Gives the second half of the columns of device n - 1 - i of a group of n to device i; twice is nothing."""
    half = x.shape[1] // 2
    mirror = [(i, i - i % group + group - 1 - i % group) for i in range(lax.axis_size(axis))]
    return jnp.concatenate([x[:, :half], lax.ppermute(x[:, half:], axis, mirror)], axis=1)


def balanced_places(t: int, axis: Axis, group: int) -> Int[Array, " t"]:
    """The columns that this device has after `swap`, counted from the first of its group."""
    i, own = lax.axis_index(axis) % group, jnp.arange(t)
    return jnp.where(own < t // 2, i * t, (group - 1 - i) * t) + own


def _collect(x: Array, axis: Axis, group: int) -> Array:
    n = lax.axis_size(axis)
    groups = None if group == n else [list(range(i, i + group)) for i in range(0, n, group)]
    return lax.all_gather(x, axis, axis=1, tiled=True, axis_index_groups=groups)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _ring(block: int, axis: Axis, group: int, q: Array, k: Array, v: Array, rooms: Array, places: Array) -> Array:
    return _forward(block, axis, group, q, k, v, rooms, places)[0]


def _forward(
    block: int, axis: Axis, group: int, q: Array, k: Array, v: Array, rooms: Array, places: Array
) -> tuple[Array, tuple[Array, ...]]:
    queries, keys = fold_queries(q, k.shape[2], rooms, places, block), fold_keys(k, v, rooms, places, block)

    def turn(state: tuple, _: None) -> tuple[tuple, None]:
        running, keys = state
        # Sent before the work on them, which needs not wait for what arrives.
        return (gather_blocks(running, queries, keys), _pass_on(keys, axis, group)), None

    # The last keys are sent to nobody.
    (running, keys), _ = lax.scan(turn, (begin(queries.heads), keys), length=group - 1)
    heads, norms = finish(gather_blocks(running, queries, keys))
    y, norms = product(unfold(heads, q)), product(norms)
    return y, (q, k, v, rooms, places, y, norms)


def _backward(block: int, axis: Axis, group: int, saved: tuple[Array, ...], slope: Array) -> tuple[Array | None, ...]:
    q, k, v, rooms, places, y, norms = saved
    queries, keys = fold_queries(q, k.shape[2], rooms, places, block), fold_keys(k, v, rooms, places, block)
    back = fold_slopes(slope, y, k.shape[2], block)

    def turn(state: tuple, _: None) -> tuple[tuple, None]:
        to_q, keys, to_k, to_v = state
        to_q, to_k, to_v = pull_blocks((to_q, to_k, to_v), queries, keys, norms, back)
        # After as many turns as there are devices the slopes on the keys are where the keys began.
        return (to_q, *_pass_on((keys, to_k, to_v), axis, group)), None

    to_q, *others = no_slopes(queries, keys)
    (to_q, _, to_k, to_v), _ = lax.scan(turn, (to_q, keys, *others), length=group)
    return unfold(to_q, q), unfold_keys(to_k, k), unfold_keys(to_v, v), None, None


_ring.defvjp(_forward, _backward)


def _pass_on(state: Keys | tuple, axis: Axis, group: int) -> Keys | tuple:
    following = [(i, i - i % group + (i + 1) % group) for i in range(lax.axis_size(axis))]
    return jax.tree.map(lambda x: lax.ppermute(x, axis, following), state)
