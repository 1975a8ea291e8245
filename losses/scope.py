"""Whose labels are asked when a position's teacher is judged: each scope pools a value over neighbours of its kind."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jaxtyping import Array, Float, PyTree, Shaped

from losses.gate import Place
from losses.tally import Tally


@runtime_checkable
class Scope(Protocol):
    """Pools [b t] values; one with a memory pools what it has seen and defines the last three as well."""

    @property
    def reach(self) -> int | None:
        """Positions to either side that a pool reaches; None for all of the batch."""
        return 0

    def pool(self, values: Float[Array, "b t"], place: Place, memory: Any) -> tuple[Float[Array, "b t"], PyTree]:
        """At every position the mean over its pool, and how much its own value weighs in it."""
        ...

    def init(self) -> PyTree:
        """The memory before the first step."""
        return ()

    def observe(self, values: Float[Array, "b t"], place: Place) -> PyTree:
        """Sums that the memory needs of a micro-batch."""
        return ()

    def update(self, memory: Any, seen: Any) -> PyTree:
        """The memory after a step."""
        return memory


@dataclass(frozen=True)
class Token(Scope):
    """The position alone."""

    def pool(self, values: Float[Array, "b t"], place: Place, memory: Any) -> tuple[Float[Array, "b t"], PyTree]:
        """The values."""
        return values, jnp.ones_like(values)


@dataclass(frozen=True, kw_only=True)
class Window(Scope):
    """A centred window inside the document. Looking ahead is allowed: a gate acts in training, where labels are known.

    Attributes:
      size: tokens on either side.
    """

    size: int = 16

    def __post_init__(self):
        if self.size < 0:
            raise ValueError(f"Window(size={self.size}) must be 0 or more tokens; 16 is the tested value.")

    @property
    def reach(self) -> int:
        """The size."""
        return self.size

    def pool(self, values: Float[Array, "b t"], place: Place, memory: Any) -> tuple[Float[Array, "b t"], PyTree]:
        """Mean over the window's labels that count."""
        same = neighbours(place.segments, self.size) == rearrange(place.segments, "b t -> b t 1")
        counted = same & neighbours(place.mask, self.size)
        total = jnp.sum(jnp.where(counted, neighbours(values, self.size), 0.0), axis=-1)
        return _mean(total, jnp.sum(counted, axis=-1, dtype=jnp.float32))


@dataclass(frozen=True, kw_only=True)
class Segment(Scope):
    """The document.

    Attributes:
      shrink: labels of value 0 that are added to it, so that a few labels do not decide.
    """

    shrink: float = 16.0

    def __post_init__(self):
        if self.shrink < 0.0:
            raise ValueError(f"Segment(shrink={self.shrink}) must be 0 or more labels; 16 is the tested value.")

    @property
    def reach(self) -> None:
        """A document may be as long as the row."""
        return None

    def pool(self, values: Float[Array, "b t"], place: Place, memory: Any) -> tuple[Float[Array, "b t"], PyTree]:
        """Mean over the document's labels that count."""
        rows = repeat(jnp.arange(values.shape[0]), "b -> b t", t=values.shape[1])
        # Documents are numbered from 1 in every row, 0 is padding; no row has more of them than positions.
        return _pooled(
            values, place, rows * (values.shape[1] + 1) + place.segments, values.size + values.shape[0], self.shrink
        )


@dataclass(frozen=True)
class Sequence(Scope):
    """The row, whatever documents are in it."""

    @property
    def reach(self) -> None:
        """The row."""
        return None

    def pool(self, values: Float[Array, "b t"], place: Place, memory: Any) -> tuple[Float[Array, "b t"], PyTree]:
        """Mean over the row's labels that count."""
        rows = repeat(jnp.arange(values.shape[0]), "b -> b t", t=values.shape[1])
        return _pooled(values, place, rows, values.shape[0])


@dataclass(frozen=True)
class Batch(Scope):
    """All of the micro-batch; depends on how a batch is cut."""

    @property
    def reach(self) -> None:
        """The batch."""
        return None

    def pool(self, values: Float[Array, "b t"], place: Place, memory: Any) -> tuple[Float[Array, "b t"], PyTree]:
        """Mean over the batch's labels that count."""
        return _pooled(values, place, jnp.zeros(values.shape, jnp.int32), 1)


@dataclass(frozen=True, kw_only=True)
class Domain(Scope):
    """The document's domain, over the steps before this one: a moving average kept in the checkpoint.

    Attributes:
      count: how many domains there are at most.
      decay: of the average, a step.
    """

    count: int = 8
    decay: float = 0.95

    def __post_init__(self):
        if self.count < 1 or not 0.0 <= self.decay < 1.0:
            raise ValueError(f"{self} needs at least one domain, and a decay from 0 to below 1.")

    def pool(self, values: Float[Array, "b t"], place: Place, memory: Any) -> tuple[Float[Array, "b t"], PyTree]:
        """The average of the position's domain; 0 before any of it was seen. ValueError: there are more than count."""
        if len(place.names) > self.count:
            raise ValueError(
                f"{self} remembers {self.count} domains, and there are {len(place.names)}: {', '.join(place.names)}; "
                f"set count to {len(place.names)} or more."
            )
        mean = memory.total / jnp.maximum(memory.count, 1e-6)
        return mean[place.domains], jnp.zeros_like(values)

    def init(self) -> Tally:
        """Nothing seen."""
        return Tally(jnp.zeros(self.count), jnp.zeros(self.count))

    def observe(self, values: Float[Array, "b t"], place: Place) -> Tally:
        """Sum and number of the values of each domain."""
        return Tally(*_sums(values, place, place.domains, self.count))

    def update(self, memory: Tally, seen: Tally) -> Tally:
        """Step by step older sums fade; a domain that a batch lacks keeps its own."""
        size = jnp.maximum(seen.count, 1.0)
        here = seen.count > 0.0

        def blend(old: Array, new: Array) -> Array:
            return jnp.where(here, self.decay * old + (1.0 - self.decay) * new / size, old)

        return Tally(blend(memory.total, seen.total), blend(memory.count, seen.count))


def neighbours(values: Shaped[Array, "b t"], window: int) -> Shaped[Array, "b t w"]:
    """The values from `window` positions before to `window` after every position; zeros past the ends."""
    length = values.shape[1]
    padded = jnp.pad(values, ((0, 0), (window, window)))
    return padded[:, jnp.arange(length)[:, None] + jnp.arange(2 * window + 1)]


def _sums(values, place, pools, count):
    pools = rearrange(pools, "b t -> (b t)")

    def add(x):
        return jax.ops.segment_sum(rearrange(x, "b t -> (b t)"), pools, count)

    return add(jnp.where(place.mask, values, 0.0)), add(place.mask.astype(jnp.float32))


def _pooled(values, place, pools, count, shrink=0.0):
    total, size = _sums(values, place, pools, count)
    return _mean(total[pools], size[pools] + shrink)


def _mean(total: Float[Array, "b t"], count: Float[Array, "b t"]) -> tuple[Float[Array, "b t"], Float[Array, "b t"]]:
    count = jnp.maximum(count, 1.0)
    return total / count, 1.0 / count
