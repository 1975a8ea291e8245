"""Rounds: a dispatch for decoding many rows. A few places for every expert, filled again until nobody is left."""

import math
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
        experts, choice = gate_up.shape[0], rearrange(ids, "n r -> (n r)")
        order, place, start = sort_by_expert(ids, experts)
        rank = place - jnp.take(start, choice, mode="clip")

        def go_on(carry: tuple[Array, Array]) -> Array:
            return carry[0] < jnp.max(start[1:] - start[:-1])

        def turn(carry: tuple[Array, Array]) -> tuple[Array, Array]:
            first, found = carry
            where = start[:-1, None] + first + jnp.arange(self.rows)
            mine = (rank >= first) & (rank < first + self.rows) & (choice < experts)
            slots = Slots(
                choice=jnp.take(order, where, mode="clip"),
                filled=where < start[1:, None],
                place=choice * self.rows + rank - first,
                kept=mine,
            )
            answers = rearrange(answer(fill(x, scores, slots), gate_up, down), "e c d -> (e c) d")
            return first + self.rows, jnp.where(
                mine[:, None], jnp.take(answers, slots.place, axis=0, mode="clip"), found
            )

        _, found = lax.while_loop(go_on, turn, (jnp.int32(0), jnp.zeros((ids.size, x.shape[1]), x.dtype)))
        if ids.shape[1] == 1:
            return found
        each = rearrange(found.astype(jnp.float32), "(n r) d -> n r d", r=ids.shape[1])
        return jnp.sum(each, axis=1).astype(x.dtype)
