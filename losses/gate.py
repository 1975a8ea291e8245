"""How far to trust the teacher, position by position."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, Shaped

from losses.signal import Belief


@runtime_checkable
class Gate(Protocol):
    """Weight of the teacher's word in [0, 1] at every position.

    Attributes:
      reach: how many positions to either side the weight depends on; 0 for a gate that looks at the position alone.
        The loss is computed by pieces of the time axis, and this says how far ahead a piece must have been read.
    """

    @property
    def reach(self) -> int:
        """Positions to either side that the weight depends on."""
        ...

    def __call__(
        self, teacher: Belief, student: Belief, mask: Bool[Array, "b t"], segments: Int[Array, "b t"]
    ) -> Float[Array, "b t"]:
        """The weight, from what both think of the labels; mask says which labels count. No gradient flows through."""
        ...


@dataclass(frozen=True)
class NoGate:
    """Trusts the teacher everywhere."""

    @property
    def reach(self) -> int:
        """Nothing beside the position itself."""
        return 0

    def __call__(
        self, teacher: Belief, student: Belief, mask: Bool[Array, "b t"], segments: Int[Array, "b t"]
    ) -> Float[Array, "b t"]:
        """One everywhere."""
        return jnp.ones_like(teacher.square)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Trusts the teacher where the labels nearby say that it is closer to the truth than the student.

    The difference of Brier scores, teacher minus student, has expectation |q - p*|^2 - |p - p*|^2 whatever the labels'
    noise: it is an unbiased measure of who is closer to the true distribution p*. One label says little, so it is
    averaged over a centred window. Looking ahead is allowed: the gate acts in training only, where labels are known.

      weight = sigmoid((mean advantage - margin) / kappa)

    Attributes:
      kappa: advantage over which the gate opens, in units of squared probability.
      margin: advantage at which it is half open; below zero, a teacher as good as the student keeps most of its weight.
        Meant for a finished teacher: of one still training, 0.06 demands that it be clearly ahead.
      window: tokens on either side that are averaged, never past the end of the document.
    """

    kappa: float = 0.03
    margin: float = -0.03
    window: int = 16

    def __post_init__(self):
        if self.kappa <= 0.0:
            raise ValueError(f"Evidence(kappa={self.kappa}) must be positive; 0.03 is the tested value.")
        if self.window < 0:
            raise ValueError(f"Evidence(window={self.window}) must be 0 or more tokens; 16 is the tested value.")

    @property
    def reach(self) -> int:
        """The window."""
        return self.window

    def __call__(
        self, teacher: Belief, student: Belief, mask: Bool[Array, "b t"], segments: Int[Array, "b t"]
    ) -> Float[Array, "b t"]:
        """The weight; about 0.73 where teacher and student are equally good."""
        advantage = jax.lax.stop_gradient(teacher.brier() - student.brier())
        same = neighbours(segments, self.window) == rearrange(segments, "b t -> b t 1")
        counted = same & neighbours(mask, self.window)
        total = jnp.sum(jnp.where(counted, neighbours(advantage, self.window), 0.0), axis=-1)
        mean = total / jnp.maximum(jnp.sum(counted, axis=-1, dtype=jnp.float32), 1.0)
        return jax.nn.sigmoid((mean - self.margin) / self.kappa)


def neighbours(values: Shaped[Array, "b t"], window: int) -> Shaped[Array, "b t w"]:
    """The values from `window` positions before to `window` after every position; zeros past the ends."""
    length = values.shape[1]
    padded = jnp.pad(values, ((0, 0), (window, window)))
    return padded[:, jnp.arange(length)[:, None] + jnp.arange(2 * window + 1)]
