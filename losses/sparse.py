"""Teacher targets that name few tokens of the vocabulary: the top k and the mass of the rest, or a sample.

Keeping the top k alone and renormalising is biased however much data there is: its optimum is over-confident by the
mass that was cut. Both forms here have the full distribution as their optimum (`experiments/top_k_bias.py`).
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from losses.refusal import as_whole
from losses.signal import FLOOR, Belief, Dense, Sides, Signal, Whole, cut


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TopK:
    """The k most probable tokens and, as one more outcome, everything else: never negative, and exact at k = v.

    A divergence is that of the coarsened distributions, at most the full one. Which of the rest a student prefers is
    left to it; that it leaks mass into the rest is not.

    Attributes:
      ids: distinct token ids, the most probable first.
      log_probs: their log-probabilities at temperature 1.
      rest: log of the mass of all other tokens; FLOOR where there is none.
      judged: what the whole distribution thinks of the labels that the positions are trained on.
      vocab: size of the vocabulary, padding included.
    """

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    ids: Int[Array, "b t k"]
    log_probs: Float[Array, "b t k"]
    rest: Float[Array, "b t"]
    judged: Belief
    vocab: int = field(metadata={"static": True})

    @property
    def tempers(self) -> bool:
        """The rest at another temperature depends on its shape, which is gone."""
        return False

    def slice(self, start: Int[Array, ""], size: int) -> "TopK":
        """The positions [start, start + size) of every row."""
        return cut(self, start, size)

    def against(self, logits: Float[Array, "b t v"], temperature: Float[Array, ""]) -> Sides:
        """Both sides over k + 1 outcomes. ValueError, or NaN where it is traced: the temperature is not 1."""
        log_probs = jnp.maximum(Dense(logits).log_probs(at_one(self, temperature)), FLOOR)
        known = jnp.take_along_axis(log_probs, self.ids, axis=-1)
        # The rest is added up, not subtracted from 1: a small leak keeps its digits, and its gradient.
        rest = jax.nn.logsumexp(_without(log_probs, self.ids), axis=-1)
        return Sides(
            teacher=_joined(self.log_probs.astype(jnp.float32), self.rest.astype(jnp.float32)),
            student=_joined(known, jnp.maximum(rest, FLOOR)),
            lumped=True,
        )

    def belief(self, labels: Int[Array, "b t"]) -> Belief:
        """What was noted of the labels when the targets were made."""
        return self.judged


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sampled:
    """Tokens drawn from the teacher: random-sampling distillation (Anshumann et al. 2025, arXiv:2503.16870).

    The forward KL against them is unbiased, in value and gradient. Every other divergence refuses them.

    Attributes:
      ids: token ids; several may be equal.
      weights: probability that each stands for, 1 in all; 0 pads.
      log_probs: the teacher's log-probabilities of the ids, at temperature 1.
      judged: what the whole distribution thinks of the labels that the positions are trained on.
      vocab: size of the vocabulary, padding included.
    """

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    ids: Int[Array, "b t n"]
    weights: Float[Array, "b t n"]
    log_probs: Float[Array, "b t n"]
    judged: Belief
    vocab: int = field(metadata={"static": True})

    @property
    def tempers(self) -> bool:
        """They were drawn at temperature 1."""
        return False

    def slice(self, start: Int[Array, ""], size: int) -> "Sampled":
        """The positions [start, start + size) of every row."""
        return cut(self, start, size)

    def against(self, logits: Float[Array, "b t v"], temperature: Float[Array, ""]) -> Sides:
        """Both sides over the draws. ValueError, or NaN where it is traced: the temperature is not 1."""
        log_probs = jnp.maximum(Dense(logits).log_probs(at_one(self, temperature)), FLOOR)
        return Sides(
            teacher=self.log_probs.astype(jnp.float32),
            student=jnp.take_along_axis(log_probs, self.ids, axis=-1),
            draws=self.weights.astype(jnp.float32),
        )

    def belief(self, labels: Int[Array, "b t"]) -> Belief:
        """What was noted of the labels when the targets were made."""
        return self.judged


def at_one(signal: Signal, temperature: Float[Array, ""]) -> Float[Array, ""]:
    """The temperature, which must be 1: a number that is traced becomes NaN otherwise, so that it cannot go unseen.

    Raises:
      ValueError: it is known, and another.
    """
    if isinstance(temperature, Tracer):
        return jnp.where(temperature == 1.0, 1.0, jnp.nan)
    if float(temperature) != 1.0:
        raise ValueError(
            f"{type(signal).__name__} is known at temperature 1 only, and was asked at {float(temperature)}; take "
            "1, or a teacher that is there."
        )
    return temperature


def top_k(signal: Whole, labels: Int[Array, "b t"], k: int) -> TopK:
    """The k most probable tokens of a full signal, and the rest.

    Raises:
      ValueError: k is not within 1 and the size of the vocabulary, or the signal does not know all of that.
    """
    signal = as_whole(signal, "top_k()")
    if not 1 <= k <= signal.vocab:
        raise ValueError(f"top_k(k={k}) must be from 1 to the {signal.vocab} tokens of the vocabulary.")
    log_probs = jnp.maximum(signal.log_probs(jnp.float32(1.0)), FLOOR)
    best, ids = jax.lax.top_k(log_probs, k)
    rest = jnp.maximum(jax.nn.logsumexp(_without(log_probs, ids), axis=-1), FLOOR)
    return TopK(ids, best, rest, signal.belief(labels), signal.vocab)


def draw(signal: Whole, labels: Int[Array, "b t"], draws: int, key: PRNGKeyArray, known: int = 0) -> Sampled:
    """Independent draws from a full signal, as many a position, after its `known` most probable tokens as they are.

    Those known are drawn no more, and the draws stand for the rest: unbiased still, and noise in the rest alone
    (stratified sampling). By the inverse of the cumulated distribution: a uniform number a draw, where Gumbel noise
    would be one a token.

    Raises:
      ValueError: draws is not positive, known not from 0 to below the size of the vocabulary, or the signal does not
        know all of that.
    """
    signal = as_whole(signal, "draw()")
    if draws < 1:
        raise ValueError(f"draw(draws={draws}) must be at least 1 token a position.")
    if not 0 <= known < signal.vocab:
        raise ValueError(f"draw(known={known}) must be from 0 to below the {signal.vocab} tokens of the vocabulary.")
    log_probs = jnp.maximum(signal.log_probs(jnp.float32(1.0)), FLOOR)
    best, first = jax.lax.top_k(log_probs, known)
    edges = jnp.cumsum(jnp.exp(_without(log_probs, first)), axis=-1)
    b, t, v = log_probs.shape
    rest = edges[..., -1:]
    marks = jax.random.uniform(key, (b, t, draws)) * rest
    search = jax.vmap(lambda edges, marks: jnp.searchsorted(edges, marks, side="right"))
    flat = search(rearrange(edges, "b t v -> (b t) v"), rearrange(marks, "b t n -> (b t) n"))
    drawn = jnp.minimum(rearrange(flat, "(b t) n -> b t n", b=b), v - 1)
    ids = jnp.concatenate([first, drawn], axis=-1)
    share = jnp.broadcast_to(rest / draws if known else jnp.float32(1.0 / draws), drawn.shape)
    weights = jnp.concatenate([jnp.exp(best), share], axis=-1)
    log_probs = jnp.concatenate([best, jnp.take_along_axis(log_probs, drawn, axis=-1)], axis=-1)
    return Sampled(ids, weights, log_probs, signal.belief(labels), signal.vocab)


def _without(log_probs: Float[Array, "b t v"], ids: Int[Array, "b t k"]) -> Float[Array, "b t v"]:
    b, t, k = ids.shape
    row, column = repeat(jnp.arange(b), "b -> b t k", t=t, k=k), repeat(jnp.arange(t), "t -> b t k", b=b, k=k)
    return log_probs.at[row, column, ids].set(FLOOR)


def _joined(known: Float[Array, "b t k"], rest: Float[Array, "b t"]) -> Float[Array, "b t k1"]:
    return jnp.concatenate([known, rearrange(rest, "b t -> b t 1")], axis=-1)
