"""The scope of the default gate: a window that listens to everyone else as far as windows do not differ."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from losses.gate import Place
from losses.scope import Scope, Window, neighbours
from losses.tally import Tally

FEW = 4
"""labels that each half of a window must have for it to tell how windows differ"""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Spread:
    """What windows were like over the recent quarter of the run: their mean, its square, and the product of halves."""

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    steps: Float[Array, ""]
    mean: Float[Array, ""]
    square: Float[Array, ""]
    halves: Float[Array, ""]


@dataclass(frozen=True, kw_only=True)
class Shrunk(Scope):
    """A window's mean, drawn towards that of all windows as far as their differences are chance.

    Thirty labels say little: their mean is mostly noise where the teacher is equally good everywhere, and all there is
    to go by where it knows one thing and not another. How much is noise can be measured: every other label of a window
    makes one half, the rest the other, and what both halves have in common is no chance.

      pooled = mean + share * (window - mean),  share = Cov(half, other half) / Var(window)

    That is empirical Bayes shrinkage (Efron and Morris 1973, doi:10.2307/2284155); to gate with it is this project's
    idea. Both moments are known from the steps before this one; before the first, the window stands alone.

    Attributes:
      size: tokens on either side.
    """

    size: int = 16

    def __post_init__(self):
        if self.size < 2 * FEW:
            raise ValueError(f"Shrunk(size={self.size}) must be at least {2 * FEW} tokens, to be cut in half.")

    @property
    def reach(self) -> int:
        """The window's."""
        return self.size

    def pool(
        self, values: Float[Array, "b t"], place: Place, memory: Spread
    ) -> tuple[Float[Array, "b t"], Float[Array, "b t"]]:
        """The window's mean as it is believed; no longer 0 in a window without a label."""
        window, own = Window(size=self.size).pool(values, place, ())
        share = self.share(memory)
        return memory.mean + share * (window - memory.mean), share * own

    def share(self, memory: Spread) -> Float[Array, ""]:
        """How much of the differences between windows is no chance, in [0, 1]."""
        common = memory.halves - memory.mean**2
        share = jnp.clip(common / jnp.maximum(memory.square - memory.mean**2, 1e-12), 0.0, 1.0)
        return jnp.where(memory.steps > 0.0, share, 1.0)

    def init(self) -> Spread:
        """Nothing seen."""
        zero = jnp.zeros(())
        return Spread(zero, zero, zero, zero)

    def observe(self, values: Float[Array, "b t"], place: Place) -> tuple[Tally, Tally, Tally]:
        """Sums over the windows of labels that count."""
        one, few = self._half(values, place, 0)
        other, less = self._half(values, place, 1)
        whole, _ = Window(size=self.size).pool(values, place, ())
        mask = place.mask & few & less
        return Tally.of(whole, mask), Tally.of(whole**2, mask), Tally.of(one * other, mask)

    def update(self, memory: Spread, seen: tuple[Tally, Tally, Tally]) -> Spread:
        """The recent quarter of the run so far; a batch of windows too short to be halved says nothing."""
        fast = jnp.where(seen[0].count > 0.0, 4.0 / (memory.steps + 4.0), 0.0)
        old = memory.mean, memory.square, memory.halves
        mean, square, halves = (then + fast * (now.mean() - then) for then, now in zip(old, seen, strict=True))
        return Spread(memory.steps + (fast > 0.0), mean, square, halves)

    def _half(
        self, values: Float[Array, "b t"], place: Place, first: int
    ) -> tuple[Float[Array, "b t"], Bool[Array, "b t"]]:
        """The mean over every other label of the window, and whether they are enough."""
        same = neighbours(place.segments, self.size) == rearrange(place.segments, "b t -> b t 1")
        counted = (same & neighbours(place.mask, self.size))[..., first::2]
        total = jnp.sum(jnp.where(counted, neighbours(values, self.size)[..., first::2], 0.0), axis=-1)
        count = jnp.sum(counted, axis=-1, dtype=jnp.float32)
        return total / jnp.maximum(count, 1.0), count >= FEW
