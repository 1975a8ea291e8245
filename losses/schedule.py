"""A knob that may move in time: every such field has the type Schedule."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float


@runtime_checkable
class Schedule(Protocol):
    """A number that depends on the progress of the run, the share of its optimizer steps that are done.

    So a run of another length bends it along, gradient accumulation does not advance it, a resumed run continues it.
    """

    def at(self, progress: Float[Array, ""] | float) -> Float[Array, ""]:
        """The value at a progress in [0, 1]."""
        ...

    def span(self) -> tuple[float, float]:
        """The least and the greatest value it can take, so that an impossible knob is refused before a run."""
        ...


@dataclass(frozen=True)
class Constant:
    """The same value for ever."""

    value: float = 1.0

    def at(self, progress: Float[Array, ""] | float) -> Float[Array, ""]:
        """The value."""
        return jnp.float32(self.value)

    def span(self) -> tuple[float, float]:
        """The value, twice."""
        return self.value, self.value


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A straight line from start to end over the run."""

    start: float = 1.0
    end: float = 0.0

    def at(self, progress: Float[Array, ""] | float) -> Float[Array, ""]:
        """The value at a progress in [0, 1]."""
        return self.start + (self.end - self.start) * _clip(progress)

    def span(self) -> tuple[float, float]:
        """The two ends in order."""
        return min(self.start, self.end), max(self.start, self.end)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Half a cosine from start to end over the run."""

    start: float = 1.0
    end: float = 0.0

    def at(self, progress: Float[Array, ""] | float) -> Float[Array, ""]:
        """The value at a progress in [0, 1]."""
        rest = 0.5 * (1.0 + jnp.cos(jnp.pi * _clip(progress)))
        return self.end + (self.start - self.end) * rest

    def span(self) -> tuple[float, float]:
        """The two ends in order."""
        return min(self.start, self.end), max(self.start, self.end)


@dataclass(frozen=True, kw_only=True)
class WSD:
    """Warm-up, stable, decay: peak * min(1, f / warmup, (1 - f) / decay) at progress f.

    Tied to a learning rate of the same shape it was the best weight of the soft targets in a study of distillation
    during pre-training (Peng et al. 2024, arXiv:2410.16215).

    Attributes:
      peak: the value on the plateau.
      warmup: fraction of the run that rises from 0.
      decay: fraction of the run that falls back to 0.
    """

    peak: float = 1.0
    warmup: float = 0.1
    decay: float = 0.3

    def __post_init__(self):
        if self.warmup < 0.0 or self.decay < 0.0 or self.warmup + self.decay > 1.0:
            raise ValueError(
                f"WSD(warmup={self.warmup}, decay={self.decay}) must be fractions of the run, neither negative, that "
                "add to at most 1; shorten one."
            )

    def at(self, progress: Float[Array, ""] | float) -> Float[Array, ""]:
        """The value at a progress in [0, 1]."""
        f = _clip(progress)
        rise = f / self.warmup if self.warmup > 0.0 else 1.0
        fall = (1.0 - f) / self.decay if self.decay > 0.0 else 1.0
        return self.peak * jnp.minimum(1.0, jnp.minimum(rise, fall))

    def span(self) -> tuple[float, float]:
        """Zero and the peak in order."""
        return min(0.0, self.peak), max(0.0, self.peak)


def _clip(progress: Float[Array, ""] | float) -> Float[Array, ""]:
    return jnp.clip(jnp.asarray(progress, jnp.float32), 0.0, 1.0)
