"""Rounds: a dispatch for decoding many rows. A few places for every expert, filled again until nobody is left."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jaxtyping import Array, Float, Int

from models.capacity import Slots, answer, fill
from models.dispatch import flat, sort_by_expert


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Batched products over a fixed number of places an expert, again and again until all tokens have had theirs.

    Dropless, and of a static shape: a round reads the weights of every expert once, which is what decoding waits for,
    and under a load that is not too uneven there is one round. Forward alone: its loop has no gradient.

    rows: places of an expert in a round.
    """

    rows: int = 16

    def __post_init__(self):
        """Refuses places for nobody."""
        if self.rows < 1:
            raise ValueError(f"Rounds.rows is {self.rows}; an expert needs at least 1 place a round")

    @staticmethod
    def suited(choices: int, experts: int) -> "Rounds":
        """Places for the even share of so many choices (tokens * top_k) and four deviations more, by eights."""
        mean = choices / max(experts, 1)
        return Rounds(rows=8 * math.ceil((mean + 4 * math.sqrt(mean)) / 8))

    @flat
    def __call__(
        self,
        x: Float[Array, "n d"],
        ids: Int[Array, "n r"],
        scores: Float[Array, "n r"],
        gate_up: Float[Array, "e d 2 f"],
        down: Float[Array, "e f d"],
    ) -> Float[Array, "n d"]:
        """See Dispatch. No token's arithmetic depends on which round it is in, or on who is in it too."""
        ask = lambda inputs, slots: answer(inputs, gate_up, down)  # noqa: E731
        return take_turns(x, ids, scores, gate_up.shape[0], self.rows, ask)


def take_turns(
    x: Float[Array, "n d"],
    ids: Int[Array, "n r"],
    scores: Float[Array, "n r"],
    groups: int,
    rows: int,
    ask: Callable[[Float[Array, "g c d"], Slots], Float[Array, "g c d"]],
    agree: Callable[[Int[Array, ""]], Int[Array, ""]] = lambda longest: longest,
) -> Float[Array, "n d"]:
    """Adds up for each token what its groups answer to score * token, where so many choices of each are asked at once.

    Args:
        x, ids, scores: as for a Dispatch, of groups in place of experts.
        groups, rows: how many there are, and choices of each that are asked at once.
        ask: answers, from what is asked and from who has which place.
        agree: on the choices of the longest group, where others are to take as many turns.
    """
    choice = rearrange(ids, "n r -> (n r)")
    order, place, start = sort_by_expert(ids, groups)
    rank = place - jnp.take(start, choice, mode="clip")
    longest = agree(jnp.max(start[1:] - start[:-1]))

    def turn(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        first, found = carry
        where = start[:-1, None] + first + jnp.arange(rows)
        slots = Slots(
            choice=jnp.take(order, where, mode="clip"),
            filled=where < start[1:, None],
            place=choice * rows + rank - first,
            kept=(rank >= first) & (rank < first + rows) & (choice < groups),
        )
        answers = rearrange(ask(fill(x, scores, slots), slots), "g c d -> (g c) d")
        own = jnp.take(answers, slots.place, axis=0, mode="clip")
        return first + rows, jnp.where(slots.kept[:, None], own, found)

    begun = jnp.int32(0), jnp.zeros((ids.size, x.shape[1]), x.dtype)
    _, found = lax.while_loop(lambda carry: carry[0] < longest, turn, begun)
    if ids.shape[1] == 1:
        return found
    each = rearrange(found.astype(jnp.float32), "(n r) d -> n r d", r=ids.shape[1])
    return jnp.sum(each, axis=1).astype(x.dtype)
