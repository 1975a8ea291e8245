"""Likeness of the inside: a student's layers beside its teacher's, their states and what their routers say.

Letters beside the legend: s layers of the student, m of the teacher, l of the pairs that are compared; D the teacher's
width.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from losses.schedule import WSD, Constant, Cosine, Linear, Schedule
from losses.signal import FLOOR
from losses.tally import Tally

EPSILON = 1e-6
"""under the root of a mean square: a state of zeros has a gradient, and a finite one"""


@runtime_checkable
class Distance(Protocol):
    """How far a student's state, as it came out of the projection, is from its teacher's of unit mean square."""

    def __call__(self, student: Float[Array, "l b t D"], teacher: Float[Array, "l b t D"]) -> Float[Array, "l b t"]:
        """A number of no unit at every position, that does not grow with the width."""
        ...


@dataclass(frozen=True)
class Squared:
    """The mean over channels of the squared difference (FitNets, arXiv:1412.6550): 1 where the student says nothing.

    The teacher's state has unit mean square, so that this is the share of it that a linear map does not find in the
    student's. Without a projection both have unit mean square, and it is twice `Angle`.
    """

    def __call__(self, student: Float[Array, "l b t D"], teacher: Float[Array, "l b t D"]) -> Float[Array, "l b t"]:
        """1/D sum (u - v)^2."""
        return jnp.mean((student - teacher) ** 2, axis=-1)


@dataclass(frozen=True)
class Angle:
    """One minus the cosine, in [0, 2]: the direction alone, whatever the projection makes of the length."""

    def __call__(self, student: Float[Array, "l b t D"], teacher: Float[Array, "l b t D"]) -> Float[Array, "l b t"]:
        """1 - u v / (|u| |v|)."""
        return 1.0 - jnp.mean(normalised(student) * teacher, axis=-1)


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """A student's residual stream after its blocks beside its teacher's, each state divided by its root mean square.

    A learned map takes the student's width to the teacher's (FitNets). Layers are matched as far up in both (TinyBERT,
    arXiv:1909.10351). What lies within a block is not compared: experts of two mixtures have nothing in common.

    Attributes:
      weight: of the mean over pairs, beside the loss; may move.
      distance: of two states.
      pairs: (layer of the student, layer of the teacher), counted from 1: the stream after them. None: every layer l of
        the student with layer ceil(l * teacher's layers / student's layers).
      project: whether a map [d D] for each pair is learned; without, widths must agree.
    """

    weight: Constant | Linear | Cosine | WSD | Schedule = Constant(1.0)
    distance: Squared | Angle | Distance = Squared()
    pairs: tuple[tuple[int, int], ...] | None = None
    project: bool = True

    def __post_init__(self):
        _check_weight(self, self.weight)
        if self.pairs is not None and (not self.pairs or min(min(pair) for pair in self.pairs) < 1):
            raise ValueError(
                f"Hidden(pairs={self.pairs}) must name at least one pair of layers, counted from 1; None matches all."
            )

    def matched(self, student: int, teacher: int) -> tuple[tuple[int, int], ...]:
        """The pairs of a student and a teacher of so many layers.

        Raises:
          ValueError: a layer is named that is not there.
        """
        if self.pairs is None:
            return tuple((layer, -(-layer * teacher // student)) for layer in range(1, student + 1))
        if max(own for own, _ in self.pairs) > student or max(other for _, other in self.pairs) > teacher:
            raise ValueError(
                f"Hidden(pairs={self.pairs}) names layers of a student with {student} and a teacher with {teacher}; "
                "they are counted from 1, and None matches all."
            )
        return self.pairs

    def __call__(
        self,
        student: Float[Array, "s b t d"],
        teacher: Float[Array, "m b t D"],
        projection: Float[Array, "l d D"] | None,
        mask: Bool[Array, "b t"],
    ) -> Tally:
        """The distance, a mean over pairs at every position that counts; the weight is not in it.

        Args:
          student: the stream after each of its layers.
          teacher: likewise; no gradient enters it.
          projection: a map for each pair; None compares the states as they are.
          mask: positions that count; others may hold anything, even NaN.
        """
        pairs = self.matched(len(student), len(teacher))
        own = jnp.stack([student[layer - 1] for layer, _ in pairs])
        other = jax.lax.stop_gradient(jnp.stack([teacher[layer - 1] for _, layer in pairs]))
        # What does not count goes before any product: a NaN hidden behind a `where` still reaches the gradient.
        counted = rearrange(mask, "b t -> 1 b t 1")
        own, other = (normalised(jnp.where(counted, x.astype(jnp.float32), 0.0)) for x in (own, other))
        if projection is not None:
            own = jnp.einsum("lbtd,ldD->lbtD", own, projection.astype(jnp.float32))
        return Tally.of(jnp.mean(self.distance(own, other), axis=0), mask)


@dataclass(frozen=True, kw_only=True)
class RouterMatch:
    """KL(teacher's routers || student's), the softmax of their logits, a mean over MoE layers, nats a position.

    Expert 3 of the student is asked for what expert 3 of the teacher is for. That makes sense where a student started
    from its teacher, whose experts it still has; elsewhere it prescribes an assignment of tokens to experts, which a
    new student may take over. It means nothing between different numbers of experts, or of MoE layers, and is refused
    there.

    Attributes:
      weight: beside the loss; may move.
    """

    weight: Constant | Linear | Cosine | WSD | Schedule = Constant(0.1)

    def __post_init__(self):
        _check_weight(self, self.weight)

    def __call__(
        self, student: Float[Array, "l b t e"], teacher: Float[Array, "m b t n"], mask: Bool[Array, "b t"]
    ) -> Tally:
        """The divergence at every position that counts; the weight is not in it. No gradient enters the teacher.

        Raises:
          ValueError: they differ in MoE layers or experts, or have none.
        """
        self.check(student.shape[::3], teacher.shape[::3])
        counted = rearrange(mask, "b t -> 1 b t 1")
        student, teacher = (jnp.where(counted, x.astype(jnp.float32), 0.0) for x in (student, teacher))
        q, p = (jnp.maximum(jax.nn.log_softmax(x), FLOOR) for x in (student, jax.lax.stop_gradient(teacher)))
        return Tally.of(jnp.mean(jnp.sum(jnp.exp(p) * (p - q), axis=-1), axis=0), mask)

    def check(self, student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
        """Refuses routers that cannot be compared, each given by (MoE layers, experts of one).

        Raises:
          ValueError: they differ, or there are none.
        """
        if student != teacher or student[0] == 0:
            (layers, experts), (others, choices) = student, teacher
            raise ValueError(
                "RouterMatch needs the same MoE layers and experts on both sides, since it matches them by number; the "
                f"student has {layers} layers of {experts}, the teacher {others} of {choices}: leave it out, the "
                "residual stream (Hidden) can be compared"
            )


def normalised(x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """Divided by its root mean square over the last axis; widths and layers differ in scale by more than in kind."""
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + EPSILON)


def _check_weight(asker: object, weight: Schedule) -> None:
    if weight.span()[0] < 0.0:
        raise ValueError(f"{asker} must not have a negative weight; leave it out to turn it off.")
