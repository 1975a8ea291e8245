"""What a teacher says at every position: one type for live logits, hidden states and whatever is stored."""

from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from losses.head import project

T = TypeVar("T")
FLOOR = -1e30
"""stands for the logarithm of zero"""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Belief:
    """A distribution in four numbers a position: enough to judge it by, small enough to keep for a whole batch.

    Attributes:
      gold: log-probability of the label, nats.
      square: sum of the squared probabilities, in (0, 1].
      entropy: nats.
      top: the most probable token.
    """

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    gold: Float[Array, "b t"]
    square: Float[Array, "b t"]
    entropy: Float[Array, "b t"]
    top: Int[Array, "b t"]

    def brier(self) -> Float[Array, "b t"]:
        """Brier score 2 p(y) - |p|^2 in [-1, 1], higher is better; strictly proper (Brier 1950)."""
        return 2.0 * jnp.exp(self.gold) - self.square

    def slice(self, start: Int[Array, ""], size: int) -> "Belief":
        """The positions [start, start + size) of every row."""
        return cut(self, start, size)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sides:
    """Teacher and student over the same n outcomes: the vocabulary, or the ids a signal knows and one for the rest.

    Attributes:
      teacher, student: log-probabilities, nats; FLOOR where the probability is 0.
      draws: None where the outcomes hold all of the teacher's mass. Otherwise the outcomes are a sample, and these are
        the weights that make sum(draws * f) an unbiased estimate of the teacher's expectation of f.
      lumped: whether the last outcome is all tokens that the signal does not name.
    """

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    teacher: Float[Array, "b t n"]
    student: Float[Array, "b t n"]
    draws: Float[Array, "b t n"] | None = None
    lumped: bool = field(default=False, metadata={"static": True})

    def overlap(self) -> Float[Array, "b t"]:
        """Sum of p q over tokens: the chance that both draw the same. Of those that are lumped together, none is."""
        q = jnp.exp(self.student)
        return self.expect(jnp.where(jnp.arange(q.shape[-1]) == q.shape[-1] - 1, 0.0, q) if self.lumped else q)

    def expect(self, values: Float[Array, "b t n"]) -> Float[Array, "b t"]:
        """The teacher's expectation of values.

        A contraction, since XLA:CPU makes a scalar loop of sum(p * values), three times the rest of the loss together.
        Highest precision, since a TPU would otherwise round both sides to bfloat16, more than a small KL.
        """
        weights = jnp.exp(self.teacher) if self.draws is None else self.draws
        return contract(weights, values)

    def whole(self, asker: object) -> tuple[Float[Array, "b t n"], Float[Array, "b t n"]]:
        """Teacher and student, for a divergence that is not linear in the teacher.

        Raises:
          ValueError: the outcomes are a sample.
        """
        if self.draws is not None:
            raise ValueError(
                f"{asker} needs the teacher's probability of every outcome, and sampled targets are right in "
                "expectation only, for what is linear in the teacher; take ForwardKL, or top-k targets."
            )
        return self.teacher, self.student


@runtime_checkable
class Signal(Protocol):
    """A pytree that says a distribution over the vocabulary at every position [b t]."""

    @property
    def vocab(self) -> int:
        """Size of the vocabulary, padding included."""
        ...

    @property
    def tempers(self) -> bool:
        """Whether it can be had at temperatures other than 1."""
        ...

    def slice(self, start: Int[Array, ""], size: int) -> "Signal":
        """The positions [start, start + size) of every row."""
        ...

    def against(self, logits: Float[Array, "b t v"], temperature: Float[Array, ""]) -> Sides:
        """Both sides over the outcomes it knows, at a temperature; differentiable in the student's logits."""
        ...

    def belief(self, labels: Int[Array, "b t"]) -> Belief:
        """What it thinks of the labels, at temperature 1."""
        ...


@runtime_checkable
class Whole(Signal, Protocol):
    """A signal that knows the probability of every token, and so do its parts."""

    def slice(self, start: Int[Array, ""], size: int) -> "Whole":
        """The positions [start, start + size) of every row."""
        ...

    def log_probs(self, temperature: Float[Array, ""]) -> Float[Array, "b t v"]:
        """Log-probabilities at a temperature, float32; -inf where the probability is 0."""
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

    @property
    def tempers(self) -> bool:
        """Any temperature."""
        return True

    def slice(self, start: Int[Array, ""], size: int) -> "Dense":
        """The positions [start, start + size) of every row."""
        return cut(self, start, size)

    def log_probs(self, temperature: Float[Array, ""]) -> Float[Array, "b t v"]:
        """Log-probabilities at a temperature, float32; -inf where the probability is 0."""
        return jax.nn.log_softmax(self.logits.astype(jnp.float32) / temperature, axis=-1)

    def against(self, logits: Float[Array, "b t v"], temperature: Float[Array, ""]) -> Sides:
        """Both sides over the vocabulary."""
        # 0 log 0 = 0. The infinities go before any product: a NaN hidden behind a `where` still reaches the gradient.
        return Sides(
            teacher=jnp.maximum(self.log_probs(temperature), FLOOR),
            student=jnp.maximum(Dense(logits).log_probs(temperature), FLOOR),
        )

    def belief(self, labels: Int[Array, "b t"]) -> Belief:
        """What it thinks of the labels, at temperature 1."""
        log_probs = self.log_probs(jnp.float32(1.0))
        probs = jnp.exp(log_probs)
        return Belief(
            gold=pick(log_probs, labels),
            square=jnp.sum(probs**2, axis=-1),
            entropy=-contract(probs, jnp.maximum(log_probs, FLOOR)),
            top=_argmax(self.logits.astype(jnp.float32)),
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

    @property
    def tempers(self) -> bool:
        """Any temperature."""
        return True

    def slice(self, start: Int[Array, ""], size: int) -> Dense:
        """The positions [start, start + size) of every row, as logits: made once and read several times."""
        return Dense(project(cut(self.hidden, start, size), self.head))

    def log_probs(self, temperature: Float[Array, ""]) -> Float[Array, "b t v"]:
        """Log-probabilities at a temperature, float32; -inf where the probability is 0."""
        return self._dense().log_probs(temperature)

    def against(self, logits: Float[Array, "b t v"], temperature: Float[Array, ""]) -> Sides:
        """Both sides over the vocabulary."""
        return self._dense().against(logits, temperature)

    def belief(self, labels: Int[Array, "b t"]) -> Belief:
        """What it thinks of the labels, at temperature 1."""
        return self._dense().belief(labels)

    def _dense(self) -> Dense:
        return Dense(project(self.hidden, self.head))


def cut(tree: T, start: Int[Array, ""], size: int) -> T:
    """The positions [start, start + size) of every row of every array [b t ...]."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, axis=1), tree)


def paste(pages: T, tree: T, start: Int[Array, ""]) -> T:
    """The pages [b t ...] with a piece of each in its place, from `start` on."""
    return jax.tree.map(lambda page, x: jax.lax.dynamic_update_slice_in_dim(page, x, start, axis=1), pages, tree)


def pick(values: Float[Array, "b t v"], ids: Int[Array, "b t"]) -> Float[Array, "b t"]:
    """The value of one id at every position."""
    return rearrange(jnp.take_along_axis(values, rearrange(ids, "b t -> b t 1"), axis=-1), "b t 1 -> b t")


def contract(weights: Float[Array, "b t n"], values: Float[Array, "b t n"]) -> Float[Array, "b t"]:
    """Sum over outcomes of weights * values."""
    return jnp.einsum("btn,btn->bt", weights, values, precision=jax.lax.Precision.HIGHEST)


def _argmax(logits: Float[Array, "b t v"], block: int = 64) -> Int[Array, "b t"]:
    """Argmax in two steps, the best block and the best in it: XLA:CPU's is a scalar loop, 18 times a plain maximum."""
    padded = jnp.pad(logits, ((0, 0), (0, 0), (0, -logits.shape[2] % block)), constant_values=-jnp.inf)
    blocks = rearrange(padded, "b t (n k) -> b t n k", k=block)
    best = jnp.argmax(jnp.max(blocks, axis=-1), axis=-1)
    winner = jnp.take_along_axis(blocks, rearrange(best, "b t -> b t 1 1"), axis=2)
    return block * best + jnp.argmax(rearrange(winner, "b t 1 k -> b t k"), axis=-1)
