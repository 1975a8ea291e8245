"""What a teacher says at every position: one type for live logits, hidden states and whatever is stored."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from losses.head import project


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Belief:
    """A distribution in three numbers a position: enough to judge it by, small enough to keep for a whole batch.

    Attributes:
      gold: log-probability of the label, nats.
      square: sum of the squared probabilities, in (0, 1].
      top: the most probable token.
    """

    gold: Float[Array, "b t"]
    square: Float[Array, "b t"]
    top: Int[Array, "b t"]

    def brier(self) -> Float[Array, "b t"]:
        """Brier score 2 p(y) - |p|^2 in [-1, 1], higher is better; strictly proper (Brier 1950)."""
        return 2.0 * jnp.exp(self.gold) - self.square


@runtime_checkable
class Signal(Protocol):
    """A pytree that says a distribution over the vocabulary at every position [b t]."""

    def slice(self, start: Int[Array, ""], size: int) -> "Signal":
        """The positions [start, start + size) of every row."""
        ...

    def log_probs(self, temperature: Float[Array, ""]) -> Float[Array, "b t v"]:
        """Log-probabilities at a temperature, float32; -inf where the probability is 0."""
        ...

    def belief(self, labels: Int[Array, "b t"]) -> Belief:
        """What it thinks of the labels, at temperature 1."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Dense:
    """Logits over the whole vocabulary; -inf marks a token that cannot occur (padded vocabulary)."""

    logits: Float[Array, "b t v"]

    def slice(self, start: Int[Array, ""], size: int) -> "Dense":
        """The positions [start, start + size) of every row."""
        return Dense(jax.lax.dynamic_slice_in_dim(self.logits, start, size, axis=1))

    def log_probs(self, temperature: Float[Array, ""]) -> Float[Array, "b t v"]:
        """Log-probabilities at a temperature, float32; -inf where the probability is 0."""
        return jax.nn.log_softmax(self.logits.astype(jnp.float32) / temperature, axis=-1)

    def belief(self, labels: Int[Array, "b t"]) -> Belief:
        """What it thinks of the labels, at temperature 1."""
        log_probs = jax.nn.log_softmax(self.logits.astype(jnp.float32), axis=-1)
        gold = jnp.take_along_axis(log_probs, rearrange(labels, "b t -> b t 1"), axis=-1)
        return Belief(
            gold=rearrange(gold, "b t 1 -> b t"),
            square=jnp.sum(jnp.exp(2.0 * log_probs), axis=-1),
            top=jnp.argmax(self.logits, axis=-1),
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Projected:
    """Hidden states and the head that turns them into logits: d/v of the size of the logits.

    This is what a teacher hands over, to another mesh or to a loss that must not hold [b t v].
    """

    hidden: Float[Array, "b t d"]
    head: Float[Array, "d v"]

    def slice(self, start: Int[Array, ""], size: int) -> Dense:
        """The positions [start, start + size) of every row, as logits: made once and read several times."""
        return Dense(project(jax.lax.dynamic_slice_in_dim(self.hidden, start, size, axis=1), self.head))

    def log_probs(self, temperature: Float[Array, ""]) -> Float[Array, "b t v"]:
        """Log-probabilities at a temperature, float32; -inf where the probability is 0."""
        return Dense(project(self.hidden, self.head)).log_probs(temperature)

    def belief(self, labels: Int[Array, "b t"]) -> Belief:
        """What it thinks of the labels, at temperature 1."""
        return Dense(project(self.hidden, self.head)).belief(labels)
