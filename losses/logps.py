"""Log-probabilities of given tokens by pieces of the time axis: [b t v] never exists, in neither direction."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from losses.divergence import Divergence
from losses.head import project, pull
from losses.refusal import check_vocab
from losses.signal import Dense, Projected, contract, cut, paste, pick
from losses.split import Split


def token_logps(
    hidden: Float[Array, "b t d"],
    head: Float[Array, "d v"],
    labels: Int[Array, "b t"],
    mask: Bool[Array, "b t"],
    temperature: float = 1.0,
    chunk: int | None = 64,
    split: Split | None = None,
) -> tuple[Float[Array, "b t"], Float[Array, "b t"]]:
    """Log softmax(hidden head / temperature) at the labels, and the entropy of that distribution.

    What a policy loss asks of a learner. Its gradient depends on all tokens' values before any token's is known, so
    that the logits of a piece are made twice, once in either direction; `losses.chunk` is for losses that need them
    once.

    Args:
      hidden: final hidden states; position t predicts the token after it.
      head: the vocabulary head.
      labels: labels[:, t] is the token that FOLLOWS position t.
      mask: positions that are asked; others may hold anything, even NaN.
      temperature: that the tokens were drawn with. Another one makes it another policy's log-probability.
      chunk: positions of t whose logits exist at a time; None for all.
      split: devices that share the positions out; None where the compiler is to see to that.

    Returns:
      Log-probabilities, float32, nats, 0 where masked; differentiable in hidden and head. Entropies, likewise, without
      gradient.

    Raises:
      ValueError: temperature or chunk has no meaning.
    """
    (logps,), entropy = _asked(_Look(temperature), hidden, head, mask, _Rows(labels), chunk, split)
    return logps, entropy


def heard_logps(
    hidden: Float[Array, "b t d"],
    head: Float[Array, "d v"],
    labels: Int[Array, "b t"],
    mask: Bool[Array, "b t"],
    said: Projected,
    divergence: Divergence,
    temperature: float = 1.0,
    chunk: int | None = 64,
    split: Split | None = None,
) -> tuple[Float[Array, "b t"], Float[Array, "b t"], Float[Array, "b t"]]:
    """What `token_logps` returns, and how far the learner's whole distribution is from a teacher's, from one sweep.

    The teacher's logits of a piece are made where the learner's are, and as often.

    Args:
      said: what the teacher says at the same positions; no gradient enters it.
      divergence: of softmax(learner's logits / temperature) from softmax(teacher's / temperature). It is asked at
        temperature 1 of logits that are divided already: in nats, without a factor of temperature squared.

    Returns:
      Log-probabilities and entropies; the divergence, float32, 0 where masked, differentiable in hidden and head.

    Raises:
      ValueError: temperature or chunk has no meaning, or the teacher's vocabulary is another.
    """
    check_vocab(said, head)
    said = Projected(jnp.where(rearrange(mask, "b t -> b t 1"), said.hidden, 0), said.head)
    look = _Look(temperature, divergence)
    (logps, apart), entropy = _asked(look, hidden, head, mask, _Rows(labels, said), chunk, split)
    return logps, entropy, apart


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Rows:
    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    labels: Int[Array, "b t"]
    said: Projected | Dense | None = None

    def slice(self, start: Int[Array, ""], size: int) -> "_Rows":
        return _Rows(cut(self.labels, start, size), None if self.said is None else self.said.slice(start, size))


@dataclass(frozen=True)
class _Look:
    temperature: float
    divergence: Divergence | None = None

    def __call__(self, logits: Float[Array, "b c v"], rows: _Rows) -> tuple[Float[Array, "b c"], ...]:
        """What is differentiated in the logits."""
        drawn = pick(self.log_probs(logits), rows.labels)
        if self.divergence is None:
            return (drawn,)
        assert isinstance(rows.said, Dense)
        said = Dense(rows.said.logits / self.temperature)
        return drawn, self.divergence(said, logits / self.temperature, jnp.float32(1.0))

    def log_probs(self, logits: Float[Array, "b c v"]) -> Float[Array, "b c v"]:
        return jax.nn.log_softmax(logits / self.temperature, axis=-1)


def _asked(
    look: _Look, hidden, head, mask, rows: _Rows, chunk: int | None, split: Split | None
) -> tuple[tuple[Array, ...], Array]:
    if not 0.0 < look.temperature < math.inf:
        raise ValueError(
            f"token_logps(temperature={look.temperature}) must be above 0 and finite: that of the drawing."
        )
    if chunk is not None and chunk < 1:
        raise ValueError(f"token_logps(chunk={chunk}) must be at least 1 position; None takes all at once.")
    size = min(chunk or hidden.shape[1], hidden.shape[1])
    # What is not asked goes before any product: a NaN times a gradient of 0 is a NaN, and reaches the head.
    hidden = jnp.where(rearrange(mask, "b t -> b t 1"), hidden, 0)
    rows = _Rows(jnp.where(mask, rows.labels, 0), rows.said)
    if split is None:
        values, entropy = _by_pieces(size, look, hidden, head, rows)
    else:
        _, (values, entropy) = split(partial(_part, size, look), hidden, head, rows)
    values = tuple(jnp.where(mask, value, 0.0) for value in values)
    return values, jnp.where(mask, jax.lax.stop_gradient(entropy), 0.0)


def _part(size: int, look: _Look, hidden, head, rows: _Rows) -> tuple[Array, Any]:
    """A device's part, beside a sum that nobody asks for."""
    return jnp.float32(0.0), _by_pieces(min(size, hidden.shape[1]), look, hidden, head, rows)


def _read(size: int, look: _Look, hidden, head, rows: _Rows) -> tuple[tuple[Array, ...], Array]:
    def read(pages, start):
        logits = project(cut(hidden, start, size), head)
        log_probs = look.log_probs(logits)
        found = look(logits, rows.slice(start, size)), -contract(jnp.exp(log_probs), log_probs)
        return paste(pages, found, start), None

    blank = jnp.zeros(rows.labels.shape, jnp.float32)
    pages = (blank,) * (1 if look.divergence is None else 2), blank
    return jax.lax.scan(read, pages, _starts(size, blank.shape[1]))[0]


def _forward(size, look, hidden, head, rows):
    return _read(size, look, hidden, head, rows), (hidden, head, rows)


def _backward(size, look, inputs, cotangents):
    hidden, head, rows = inputs
    # The last piece starts early to be full, and what it repeats must not be learned twice: it is taken out of the
    # page of cotangents as soon as it was used.
    asked, _ = cotangents

    def learn(carry, start):
        asked, d_hidden, d_head = carry
        part, these = cut(hidden, start, size), rows.slice(start, size)
        _, back = jax.vjp(lambda logits: look(logits, these), project(part, head))
        wanted = cut(asked, start, size)
        d_part, d_piece = pull(part, head, back(wanted)[0])
        d_hidden = paste(d_hidden, d_part + cut(d_hidden, start, size), start)
        return (paste(asked, jax.tree.map(jnp.zeros_like, wanted), start), d_hidden, d_head + d_piece), None

    zeros = jnp.zeros(hidden.shape, jnp.float32), jnp.zeros(head.shape, jnp.float32)
    (_, d_hidden, d_head), _ = jax.lax.scan(learn, (asked, *zeros), _starts(size, hidden.shape[1]))
    return d_hidden.astype(hidden.dtype), d_head.astype(head.dtype), None


_by_pieces = jax.custom_vjp(_read, nondiff_argnums=(0, 1))
_by_pieces.defvjp(_forward, _backward)


def _starts(size: int, length: int) -> Int[Array, " n"]:
    return jnp.minimum(jnp.arange(-(-length // size)) * size, length - size)
