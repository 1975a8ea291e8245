"""Slots: the completions that are under way, a row each, as one pytree that stays on the device."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from models.cache import Cache
from models.config import Config


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Slots:
    """For each completion its cache, its chance, the logits of its next token, and how far it has come.

    keys: of its random numbers; the n-th token's comes of key and n. drawn: tokens so far. limits: tokens at most.
    alive: it goes on. What a slot that is not alive holds does not matter.
    """

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    cache: Cache
    keys: PRNGKeyArray
    logits: Float[Array, "b v"]
    drawn: Int[Array, " b"]
    limits: Int[Array, " b"]
    alive: Bool[Array, " b"]

    @staticmethod
    def create(config: Config, rows: int, capacity: int, dtype: str) -> "Slots":
        """So many slots, all free. Raises ValueError if the model does not take rows as long as the capacity."""
        none = jnp.zeros(rows, jnp.int32)
        return Slots(
            cache=Cache.create(config, rows, capacity, dtype),
            keys=jax.random.split(jax.random.key(0), rows),
            logits=jnp.zeros((rows, config.vocab)),
            drawn=none,
            limits=none,
            alive=none > 0,
        )

    def put(self, new: "Slots", where: Int[Array, " b"]) -> "Slots":
        """These slots with the rows of `new` in place of those at `where`; a row sent out of bounds goes nowhere."""

        def plain(old: Array, rows: Array) -> Array:
            return old.at[where].set(rows, mode="drop")

        def stacked(old: Array, rows: Array) -> Array:
            return old.at[:, where].set(rows, mode="drop")

        cache = Cache(
            keys=jax.tree.map(stacked, self.cache.keys, new.cache.keys),
            values=jax.tree.map(stacked, self.cache.values, new.cache.values),
            lengths=plain(self.cache.lengths, new.cache.lengths),
        )
        return replace(jax.tree.map(plain, replace(self, cache=None), replace(new, cache=None)), cache=cache)
