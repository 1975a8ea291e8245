"""A knob that may move in time: every such field has the type Schedule."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@runtime_checkable
class Schedule(Protocol):
    """A number for every optimizer step: gradient accumulation does not advance it, a resumed run continues it."""

    def at(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        """The value at an optimizer step, counted from 0."""
        ...

    def span(self) -> tuple[float, float]:
        """The least and the greatest value it can take, so that an impossible knob is refused before a run."""
        ...


@dataclass(frozen=True)
class Constant:
    """The same value for ever."""

    value: float

    def at(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        """The value."""
        return jnp.float32(self.value)

    def span(self) -> tuple[float, float]:
        """The value, twice."""
        return self.value, self.value


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A straight line from start to end over `steps` optimizer steps, then flat."""

    start: float
    end: float
    steps: int

    def __post_init__(self):
        _check_steps(self, self.steps)

    def at(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        """The value at an optimizer step."""
        return self.start + (self.end - self.start) * _fraction(step, self.steps)

    def span(self) -> tuple[float, float]:
        """The two ends in order."""
        return min(self.start, self.end), max(self.start, self.end)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Half a cosine from start to end over `steps` optimizer steps, then flat."""

    start: float
    end: float
    steps: int

    def __post_init__(self):
        _check_steps(self, self.steps)

    def at(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        """The value at an optimizer step."""
        rest = 0.5 * (1.0 + jnp.cos(jnp.pi * _fraction(step, self.steps)))
        return self.end + (self.start - self.end) * rest

    def span(self) -> tuple[float, float]:
        """The two ends in order."""
        return min(self.start, self.end), max(self.start, self.end)


@dataclass(frozen=True, kw_only=True)
class WSD:
    """Warm-up, stable, decay: peak * min(1, f / warmup, (1 - f) / decay) at the fraction f of the run.

    Tied to a learning rate of the same shape it was the best weight of the soft targets in a study of distillation
    during pre-training (Peng et al. 2024, arXiv:2410.16215).

    Attributes:
      peak: the value on the plateau.
      steps: optimizer steps of the whole run.
      warmup: fraction of the run that rises from 0.
      decay: fraction of the run that falls back to 0.
    """

    peak: float
    steps: int
    warmup: float = 0.1
    decay: float = 0.3

    def __post_init__(self):
        _check_steps(self, self.steps)
        if self.warmup < 0.0 or self.decay < 0.0 or self.warmup + self.decay > 1.0:
            raise ValueError(
                f"WSD(warmup={self.warmup}, decay={self.decay}) must be fractions of the run, neither negative, that "
                "add to at most 1; shorten one."
            )

    def at(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        """The value at an optimizer step."""
        f = _fraction(step, self.steps)
        rise = f / self.warmup if self.warmup > 0.0 else 1.0
        fall = (1.0 - f) / self.decay if self.decay > 0.0 else 1.0
        return self.peak * jnp.minimum(1.0, jnp.minimum(rise, fall))

    def span(self) -> tuple[float, float]:
        """Zero and the peak in order."""
        return min(0.0, self.peak), max(0.0, self.peak)


def _fraction(step: Int[Array, ""] | int, steps: int) -> Float[Array, ""]:
    return jnp.clip(jnp.asarray(step, jnp.float32) / steps, 0.0, 1.0)


def _check_steps(schedule: Schedule, steps: int) -> None:
    if steps < 1:
        raise ValueError(f"{schedule} must last at least 1 optimizer step; set steps to the length of the run.")
