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

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    gold: Float[Array, "b t"]
    square: Float[Array, "b t"]
    top: Int[Array, "b t"]

    def brier(self) -> Float[Array, "b t"]:
        """Brier score 2 p(y) - |p|^2 in [-1, 1], higher is better; strictly proper (Brier 1950)."""
        return 2.0 * jnp.exp(self.gold) - self.square


@runtime_checkable
class Signal(Protocol):
    """A pytree that says a distribution over the vocabulary at every position [b t]."""

    @property
    def vocab(self) -> int:
        """Size of the vocabulary, padding included."""
        ...

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

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    logits: Float[Array, "b t v"]

    @property
    def vocab(self) -> int:
        """Size of the vocabulary, padding included."""
        return self.logits.shape[-1]

    def slice(self, start: Int[Array, ""], size: int) -> "Dense":
        """The positions [start, start + size) of every row."""
        return Dense(jax.lax.dynamic_slice_in_dim(self.logits, start, size, axis=1))

    def log_probs(self, temperature: Float[Array, ""]) -> Float[Array, "b t v"]:
        """Log-probabilities at a temperature, float32; -inf where the probability is 0."""
        return jax.nn.log_softmax(self.logits.astype(jnp.float32) / temperature, axis=-1)

    def belief(self, labels: Int[Array, "b t"]) -> Belief:
        """What it thinks of the labels, at temperature 1."""
        logits = self.logits.astype(jnp.float32)
        log_norm = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        gold = jnp.take_along_axis(logits, rearrange(labels, "b t -> b t 1"), axis=-1) - log_norm
        return Belief(
            gold=rearrange(gold, "b t 1 -> b t"),
            square=jnp.sum(jnp.exp(2.0 * (logits - log_norm)), axis=-1),
            top=_argmax(logits),
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Projected:
    """Hidden states and the head that turns them into logits: d/v of the size of the logits.

    This is what a teacher hands over, to another mesh or to a loss that must not hold [b t v].
    """

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    hidden: Float[Array, "b t d"]
    head: Float[Array, "d v"]

    @property
    def vocab(self) -> int:
        """Size of the vocabulary, padding included."""
        return self.head.shape[-1]

    def slice(self, start: Int[Array, ""], size: int) -> Dense:
        """The positions [start, start + size) of every row, as logits: made once and read several times."""
        return Dense(project(jax.lax.dynamic_slice_in_dim(self.hidden, start, size, axis=1), self.head))

    def log_probs(self, temperature: Float[Array, ""]) -> Float[Array, "b t v"]:
        """Log-probabilities at a temperature, float32; -inf where the probability is 0."""
        return Dense(project(self.hidden, self.head)).log_probs(temperature)

    def belief(self, labels: Int[Array, "b t"]) -> Belief:
        """What it thinks of the labels, at temperature 1."""
        return Dense(project(self.hidden, self.head)).belief(labels)


def _argmax(logits: Float[Array, "b t v"], block: int = 64) -> Int[Array, "b t"]:
    """Argmax in two steps, the best block and the best in it: XLA:CPU's is a scalar loop, 18 times a plain maximum."""
    padded = jnp.pad(logits, ((0, 0), (0, 0), (0, -logits.shape[2] % block)), constant_values=-jnp.inf)
    blocks = rearrange(padded, "b t (n k) -> b t n k", k=block)
    best = jnp.argmax(jnp.max(blocks, axis=-1), axis=-1)
    winner = jnp.take_along_axis(blocks, rearrange(best, "b t -> b t 1 1"), axis=2)
    return block * best + jnp.argmax(rearrange(winner, "b t 1 k -> b t k"), axis=-1)
