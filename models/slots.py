"""Slots: the completions that are under way, a row each, as one pytree that stays on the device."""

from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as Spec
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from models.cache import Cache
from models.cache_split import CACHE
from models.config import Config
from models.placement import Placement, along


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
    def create(config: Config, rows: int, capacity: int, dtype: str, placement: Placement | None = None) -> "Slots":
        """So many slots, all free. Raises ValueError if the model does not take rows as long as the capacity."""
        none = jnp.zeros(rows, jnp.int32)
        return Slots(
            cache=Cache.create(config, rows, capacity, dtype),
            keys=jax.random.split(jax.random.key(0), rows),
            logits=jnp.zeros((rows, config.vocab)),
            drawn=none,
            limits=none,
            alive=none > 0,
        ).hold(placement)

    def put(self, new: "Slots", where: Int[Array, " b"], placement: Placement | None = None) -> "Slots":
        """These slots with the rows of `new` in place of those at `where`; a row sent out of bounds goes nowhere.

        On a mesh each device takes out of all new rows those of its own.
        """
        own = self.specs(placement)
        call = partial(_put, own)
        if placement is None:
            return call(self, new, where)
        every = _map(lambda spec, old: Spec(*_without(spec, _row(old))), own, self)
        return jax.shard_map(
            call, mesh=placement.mesh, in_specs=(own, every, Spec()), out_specs=own, check_vma=False
        )(self, new, where)  # fmt: skip

    def specs(self, placement: Placement | None) -> Any:
        """How they lie on a mesh: rows and heads cut; columns where rows do not divide; logits by rows alone."""

        def lay(letters: tuple[str, ...], leaf: Any) -> Spec:
            return Spec(*[None] * len(letters)) if placement is None else placement.spec(letters, leaf.shape)

        of_cache, of_row = partial(lay, CACHE), partial(lay, ("b",))
        slots, cache = (cast(Any, each) for each in (Slots, Cache))  # of specs, where arrays are expected
        return slots(
            cache=cache(
                keys=tuple(map(of_cache, self.cache.keys)),
                values=tuple(map(of_cache, self.cache.values)),
                lengths=of_row(self.cache.lengths),
            ),
            keys=of_row(self.keys),
            logits=lay(("n", ""), self.logits),
            drawn=of_row(self.drawn),
            limits=of_row(self.limits),
            alive=of_row(self.alive),
        )

    def places(self, placement: Placement) -> Any:
        """The same as shardings."""
        return _map(lambda spec: NamedSharding(placement.mesh, spec), self.specs(placement))

    def hold(self, placement: Placement | None) -> "Slots":
        """Keeps them as they lie."""
        return self if placement is None else lax.with_sharding_constraint(self, self.places(placement))


def _put(specs: Any, old: Slots, new: Slots, where: Int[Array, " b"]) -> Slots:
    def one(spec: Spec, old: Array, rows: Array) -> Array:
        at, axes = _row(old), along(spec[_row(old)])
        own = where
        if axes:
            own = where - lax.axis_index(axes) * old.shape[at]
            own = jnp.where((own >= 0) & (own < old.shape[at]), own, old.shape[at])
        return old.at[:, own].set(rows, mode="drop") if at else old.at[own].set(rows, mode="drop")

    return _map(one, specs, old, new)


def _row(leaf: Any) -> int:
    """The dimension of rows: those of a cache are stacked."""
    return CACHE.index("b") if leaf.ndim == len(CACHE) else 0


def _without(spec: Spec, place: int) -> list[Any]:
    return [None if at == place else cut for at, cut in enumerate(spec)]


def _map(function: Any, *trees: Any) -> Any:
    return jax.tree.map(function, *trees, is_leaf=lambda leaf: isinstance(leaf, Spec))
