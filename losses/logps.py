"""Log-probabilities of given tokens by pieces of the time axis: [b t v] never exists, in neither direction."""

import math

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from losses.head import project, pull
from losses.signal import contract, cut, paste, pick


def token_logps(
    hidden: Float[Array, "b t d"],
    head: Float[Array, "d v"],
    labels: Int[Array, "b t"],
    mask: Bool[Array, "b t"],
    temperature: float = 1.0,
    chunk: int | None = 64,
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

    Returns:
      Log-probabilities, float32, nats, 0 where masked; differentiable in hidden and head. Entropies, likewise, without
      gradient.

    Raises:
      ValueError: temperature or chunk has no meaning.
    """
    if not 0.0 < temperature < math.inf:
        raise ValueError(f"token_logps(temperature={temperature}) must be above 0 and finite: that of the drawing.")
    if chunk is not None and chunk < 1:
        raise ValueError(f"token_logps(chunk={chunk}) must be at least 1 position; None takes all at once.")
    size = min(chunk or hidden.shape[1], hidden.shape[1])
    # What is not asked goes before any product: a NaN times a gradient of 0 is a NaN, and reaches the head.
    hidden = jnp.where(rearrange(mask, "b t -> b t 1"), hidden, 0)
    logps, entropy = _by_pieces(size, temperature, hidden, head, jnp.where(mask, labels, 0))
    return jnp.where(mask, logps, 0.0), jnp.where(mask, jax.lax.stop_gradient(entropy), 0.0)


def _read(size, temperature, hidden, head, labels) -> tuple[Array, Array]:
    def look(pages, start):
        log_probs = _log_probs(project(cut(hidden, start, size), head), temperature)
        found = pick(log_probs, cut(labels, start, size)), -contract(jnp.exp(log_probs), log_probs)
        return paste(pages, found, start), None

    blank = jnp.zeros(labels.shape, jnp.float32)
    return jax.lax.scan(look, (blank, blank), _starts(size, labels.shape[1]))[0]


def _forward(size, temperature, hidden, head, labels):
    return _read(size, temperature, hidden, head, labels), (hidden, head, labels)


def _backward(size, temperature, inputs, cotangents):
    hidden, head, labels = inputs
    # The last piece starts early to be full, and what it repeats must not be learned twice: it is taken out of the
    # page of cotangents as soon as it was used.
    asked, _ = cotangents

    def learn(carry, start):
        asked, d_hidden, d_head = carry
        part, tokens = cut((hidden, labels), start, size)
        _, back = jax.vjp(lambda logits: pick(_log_probs(logits, temperature), tokens), project(part, head))
        d_part, d_piece = pull(part, head, back(cut(asked, start, size))[0])
        d_hidden = paste(d_hidden, d_part + cut(d_hidden, start, size), start)
        return (paste(asked, jnp.zeros_like(tokens, jnp.float32), start), d_hidden, d_head + d_piece), None

    zeros = jnp.zeros(hidden.shape, jnp.float32), jnp.zeros(head.shape, jnp.float32)
    (_, d_hidden, d_head), _ = jax.lax.scan(learn, (asked, *zeros), _starts(size, hidden.shape[1]))
    return d_hidden.astype(hidden.dtype), d_head.astype(head.dtype), None


_by_pieces = jax.custom_vjp(_read, nondiff_argnums=(0, 1))
_by_pieces.defvjp(_forward, _backward)


def _log_probs(logits: Float[Array, "b c v"], temperature: float) -> Float[Array, "b c v"]:
    return jax.nn.log_softmax(logits / temperature, axis=-1)


def _starts(size: int, length: int) -> Int[Array, " n"]:
    return jnp.minimum(jnp.arange(-(-length // size)) * size, length - size)
