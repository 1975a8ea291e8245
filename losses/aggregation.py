"""From losses of tokens to a loss: what each completion weighs, and what the sum is divided by.

Each gives a sum and what to divide it by, once, over the batch of all micro-batches and hosts. What to divide by is
counted before anything is dropped from the sum: a batch of which much is dropped moves the learner less.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from losses.ratio import row_mean
from losses.tally import Tally


@runtime_checkable
class Aggregation(Protocol):
    """How the losses of tokens become one. A row is a completion; one without trainable tokens is padding."""

    def __call__(self, values: Float[Array, "b t"], mask: Bool[Array, "b t"]) -> Tally:
        """The sum, and what to divide it by; a masked value may be anything."""
        ...


@dataclass(frozen=True)
class TokenMean:
    """Sum over tokens / number of tokens (DAPO, arXiv:2503.14476): a long completion weighs more, by its length."""

    def __call__(self, values: Float[Array, "b t"], mask: Bool[Array, "b t"]) -> Tally:
        """Counts tokens."""
        return Tally.of(values, mask)


@dataclass(frozen=True)
class SequenceMean:
    """Mean over completions of the mean over their tokens (GRPO, arXiv:2402.03300).

    A token of a long completion weighs less, so that a long wrong answer is discouraged less than a short one, and
    wrong answers grow (sail-sg/understand-r1-zero#10).
    """

    def __call__(self, values: Float[Array, "b t"], mask: Bool[Array, "b t"]) -> Tally:
        """Counts completions."""
        return Tally(jnp.sum(row_mean(values, mask)), _rows(mask))


@dataclass(frozen=True, kw_only=True)
class ConstantMean:
    """Sum over tokens / (number of completions * length) (Dr. GRPO, arXiv:2503.20783): all tokens weigh the same, in
    every batch.

    Attributes:
      length: tokens that a completion may have, at most; a constant of the run.
    """

    length: int

    def __post_init__(self):
        if self.length < 1:
            raise ValueError(f"{self} must be at least 1: the tokens that a completion may have, at most.")

    def __call__(self, values: Float[Array, "b t"], mask: Bool[Array, "b t"]) -> Tally:
        """Counts the tokens that there might have been."""
        return Tally(Tally.of(values, mask).total, _rows(mask) * self.length)


def _rows(mask: Bool[Array, "b t"]) -> Float[Array, ""]:
    return jnp.sum(jnp.any(mask, axis=1), dtype=jnp.float32)
