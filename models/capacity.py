"""Capacity: a dispatch with a fixed number of places for each expert. What does not fit is dropped, and declared so."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from models.dispatch import flat, sort_by_expert
from models.layers import contract
from models.remat import product


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Batched products over a fixed number of places an expert: a static shape, which every backend is good at.

    The only dispatch that is not dropless: an expert takes the first `room` tokens that come to it, and the routed part
    of the others is 0 (the shared expert answers all). On a mesh each device counts its own tokens.

    factor: places of an expert, as a multiple of its share under an even load (GShard, arXiv:2006.16668).
    """

    factor: float = 1.25

    def __post_init__(self):
        """Refuses less than nothing."""
        if not 0 < self.factor < math.inf:
            raise ValueError(f"Capacity.factor is {self.factor}; it must be above 0; 1.25 is a quarter to spare")

    def room(self, choices: int, experts: int) -> int:
        """Places of an expert among so many choices (tokens * top_k); a multiple of 8, but never more than choices."""
        return min(choices, -(-math.ceil(self.factor * choices / experts) // 8) * 8)

    @flat
    def __call__(
        self,
        x: Float[Array, "n d"],
        ids: Int[Array, "n r"],
        scores: Float[Array, "n r"],
        gate_up: Float[Array, "e d 2 f"],
        down: Float[Array, "e f d"],
    ) -> Float[Array, "n d"]:
        """See Dispatch, but for what is dropped."""
        slots = place_in_slots(ids, gate_up.shape[0], self.room(ids.size, gate_up.shape[0]))
        return take_back(answer(fill(x, scores, slots), gate_up, down), slots, scores.shape)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Slots:
    """Which choice (token * r + which of its r) has which place.

    choice, filled: the choice at each place of every expert, and whether there is one.
    place, kept: the place (expert * c + rank) of each choice, and whether it has one.
    """

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    choice: Int[Array, "e c"]
    filled: Bool[Array, "e c"]
    place: Int[Array, " m"]
    kept: Bool[Array, " m"]


def place_in_slots(ids: Int[Array, "n r"], experts: int, room: int) -> Slots:
    """The first `room` choices of every expert, in the order of tokens; the id `experts` is nowhere."""
    order, place, start = sort_by_expert(ids, experts)
    where = start[:-1, None] + jnp.arange(room)
    flat = rearrange(ids, "n r -> (n r)")
    rank = place - jnp.take(start, flat, mode="clip")
    return Slots(
        choice=jnp.take(order, where, mode="clip"),
        filled=where < start[1:, None],
        place=flat * room + rank,
        kept=(rank < room) & (flat < experts),
    )


def fill(x: Float[Array, "n d"], scores: Float[Array, "n r"], slots: Slots) -> Float[Array, "e c d"]:
    """Expert inputs, score * token, at their places; 0 where there is none."""
    r = scores.shape[1]
    weighed = jnp.einsum("nr,nd->nrd", scores.astype(jnp.float32), x.astype(jnp.float32)).astype(x.dtype)
    flat = rearrange(weighed, "n r d -> (n r) d") if r > 1 else weighed[:, 0]
    where, there = rearrange(slots.choice, "e c -> (e c)"), rearrange(slots.filled, "e c -> (e c)")
    return rearrange(_move(flat, where, there, slots.place, slots.kept), "(e c) d -> e c d", e=slots.choice.shape[0])


def take_back(answers: Float[Array, "e c d"], slots: Slots, shape: tuple[int, ...]) -> Float[Array, "n d"]:
    """Adds up the answers of each token's choices, of which there are `shape` [n r]."""
    flat = rearrange(answers, "e c d -> (e c) d")
    where, there = rearrange(slots.choice, "e c -> (e c)"), rearrange(slots.filled, "e c -> (e c)")
    found = _move(flat, slots.place, slots.kept, where, there)
    if shape[1] == 1:
        return found
    return jnp.sum(rearrange(found.astype(jnp.float32), "(n r) d -> n r d", r=shape[1]), axis=1).astype(answers.dtype)


def answer(
    inputs: Float[Array, "e c d"], gate_up: Float[Array, "e d 2 f"], down: Float[Array, "e f d"]
) -> Float[Array, "e c d"]:
    """Every expert on the rows at its places."""
    both = product(contract("ecd,edzf->eczf", product(inputs), gate_up).astype(inputs.dtype))
    gate, up = jnp.unstack(both.astype(jnp.float32), axis=-2)
    inner = (jax.nn.silu(gate) * up).astype(inputs.dtype)
    return contract("ecf,efd->ecd", inner, down).astype(inputs.dtype)


@jax.custom_vjp
def _move(rows: Array, where: Array, there: Array, back: Array, kept: Array) -> Array:
    """Row where[i] at i, or 0; `back` and `kept` undo it, so that the gradient is a gather too and not a scatter."""
    return jnp.where(there[:, None], jnp.take(rows, where, axis=0, mode="clip"), 0)


def _move_forward(rows: Array, where: Array, there: Array, back: Array, kept: Array) -> tuple[Array, tuple[Array, ...]]:
    return _move(rows, where, there, back, kept), (where, there, back, kept)


def _move_backward(saved: tuple[Array, ...], slope: Array) -> tuple[Array | None, ...]:
    where, there, back, kept = saved
    return _move(slope, back, kept, where, there), None, None, None, None


_move.defvjp(_move_forward, _move_backward)
