"""The scope of the default gate: windows in windows, each listening to the wider as far as it differs by chance."""

from dataclasses import dataclass
from itertools import pairwise

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
    """What a level was like over the recent quarter of the run: its mean, its square, and the product of its halves."""

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    steps: Float[Array, ""]
    mean: Float[Array, ""]
    square: Float[Array, ""]
    halves: Float[Array, ""]


@dataclass(frozen=True, kw_only=True)
class Shrunk(Scope):
    """A window's mean, drawn towards a wider one's, and that towards the mean of all, as far as they differ by chance.

    Thirty labels say little: their mean is mostly noise where the teacher is equally good everywhere, and all there is
    to go by where it knows one thing and not another. How much is noise can be measured: every other label of a window
    makes one half, the rest the other, and what both halves have in common is no chance. So with how a window differs
    from the wider one around it: much where domains are mixed within a document, not at all where they are not.

      pooled = sum over levels of mean + share * (difference - mean),  share = Cov(half, other half) / Var(difference)

    where a level is a window less the next wider, and the widest alone. Each is empirical Bayes shrinkage (Efron and
    Morris 1973, doi:10.2307/2284155); to gate with it is this project's idea. All moments are known from the steps
    before this one; before the first, the narrowest window stands alone.

    Attributes:
      sizes: tokens on either side, from narrow to wide.
    """

    sizes: tuple[int, ...] = (16, 64)

    def __post_init__(self):
        if not self.sizes or min(self.sizes) < 2 * FEW or list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(
                f"Shrunk(sizes={self.sizes}) must be sizes from narrow to wide, one at least, each {2 * FEW} "
                "tokens or more, to be cut in half."
            )

    @property
    def reach(self) -> int:
        """The widest window's."""
        return self.sizes[-1]

    def pool(
        self, values: Float[Array, "b t"], place: Place, memory: tuple[Spread, ...]
    ) -> tuple[Float[Array, "b t"], Float[Array, "b t"]]:
        """The window's mean as it is believed; no longer 0 in a window without a label."""
        windows = [Window(size=size).pool(values, place, ()) for size in self.sizes]
        means, owns = (_levels(list(each)) for each in zip(*windows, strict=True))
        shares = [self.share(level) for level in memory]
        pooled, weight = jnp.zeros_like(values), jnp.zeros_like(values)
        for level, share, mean, own in zip(memory, shares, means, owns, strict=True):
            pooled, weight = pooled + level.mean + share * (mean - level.mean), weight + share * own
        return pooled, weight

    def share(self, level: Spread) -> Float[Array, ""]:
        """How much of a level's differences is no chance, in [0, 1]."""
        common = level.halves - level.mean**2
        share = jnp.clip(common / jnp.maximum(level.square - level.mean**2, 1e-12), 0.0, 1.0)
        return jnp.where(level.steps > 0.0, share, 1.0)

    def init(self) -> tuple[Spread, ...]:
        """Nothing seen."""
        zero = jnp.zeros(())
        return tuple(Spread(zero, zero, zero, zero) for _ in self.sizes)

    def observe(self, values: Float[Array, "b t"], place: Place) -> tuple[tuple[Tally, Tally, Tally], ...]:
        """Sums for each level over the windows of labels that count."""
        wholes = _levels([Window(size=size).pool(values, place, ())[0] for size in self.sizes])
        even, odd = ([_half(values, place, size, first) for size in self.sizes] for first in (0, 1))
        ones, others = (_levels([mean for mean, _ in half]) for half in (even, odd))
        enough = [place.mask & few & less for (_, few), (_, less) in zip(even, odd, strict=True)]
        return tuple(
            (Tally.of(whole, mask), Tally.of(whole**2, mask), Tally.of(one * other, mask))
            for whole, one, other, mask in zip(wholes, ones, others, enough, strict=True)
        )

    def update(self, memory: tuple[Spread, ...], seen: tuple[tuple[Tally, Tally, Tally], ...]) -> tuple[Spread, ...]:
        """The recent quarter of the run so far; a batch of windows too short to be halved says nothing."""
        return tuple(_updated(level, new) for level, new in zip(memory, seen, strict=True))


def _levels(windows: list[Float[Array, "b t"]]) -> list[Float[Array, "b t"]]:
    """Each window less the next wider, and the widest."""
    return [narrow - wide for narrow, wide in pairwise(windows)] + windows[-1:]


def _updated(level: Spread, seen: tuple[Tally, Tally, Tally]) -> Spread:
    fast = jnp.where(seen[0].count > 0.0, 4.0 / (level.steps + 4.0), 0.0)
    old = level.mean, level.square, level.halves
    mean, square, halves = (then + fast * (now.mean() - then) for then, now in zip(old, seen, strict=True))
    return Spread(level.steps + (fast > 0.0), mean, square, halves)


def _half(
    values: Float[Array, "b t"], place: Place, size: int, first: int
) -> tuple[Float[Array, "b t"], Bool[Array, "b t"]]:
    """The mean over the window's labels at an even distance, or at an odd one, and whether they are enough."""
    half = slice((size + first) % 2, None, 2)
    same = neighbours(place.segments, size) == rearrange(place.segments, "b t -> b t 1")
    counted = (same & neighbours(place.mask, size))[..., half]
    total = jnp.sum(jnp.where(counted, neighbours(values, size)[..., half], 0.0), axis=-1)
    count = jnp.sum(counted, axis=-1, dtype=jnp.float32)
    return total / jnp.maximum(count, 1.0), count >= FEW
