"""Sampling: the distribution next tokens are drawn from, and a draw from it with one uniform number a row."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from models.placement import Placement

BLOCK = 128  # weights that the search for a token adds up one by one; blocks before it count as wholes


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How next tokens are drawn from logits: temperature first, then top_k, then top_p of what that left.

    temperature: divides the logits; 0 takes the likeliest token.
    top_k: only the k likeliest tokens; None is all.
    top_p: only the likeliest tokens that together have this probability, the one that reaches it included (Holtzman et
        al. 2019, arXiv:1904.09751). Of tokens as likely as the last one kept, by either rule, all are kept.

    The log-probability of a draw is under softmax(logits / temperature) over the whole vocabulary (at temperature 0
    under softmax(logits)): what a training forward can compute again. With top_k or top_p tokens are drawn from less
    than that, so that it is not the probability they were drawn with; importance weights need top_k None and top_p 1.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self):
        """Refuses what is no distribution."""
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"Sampling.temperature is {self.temperature}; it must be at least 0 (0: the likeliest)")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"Sampling.top_k is {self.top_k}; it must be at least 1 token, or None for all")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"Sampling.top_p is {self.top_p}; it must be above 0 and at most 1 (1: all tokens)")

    def __call__(
        self, logits: Float[Array, "b v"], uniform: Float[Array, " b"], never: int | None = None
    ) -> tuple[Int[Array, " b"], Float[Array, " b"]]:
        """A token of each row and its log-probability, from a number in [0, 1) for each row.

        The token `never` is not drawn, though it keeps its place in the softmax that log-probabilities are of. Uniform
        numbers in float32 are multiples of 2^-23: a token less likely than that may never be drawn.
        """
        scaled = logits / (self.temperature or 1.0)
        able = scaled if never is None else scaled.at[:, never].set(-jnp.inf)
        best = jnp.max(able, axis=-1, keepdims=True)
        weights = jnp.exp(able - best)
        total = jnp.log(jnp.sum(weights, axis=-1))
        if never is not None:
            total = jnp.logaddexp(total, (scaled - best)[:, never])
        tokens = invert(self.keep(weights), uniform) if self.temperature else jnp.argmax(able, axis=-1)
        chosen = jnp.take_along_axis(scaled - best, tokens[:, None], axis=-1)[:, 0]
        return tokens.astype(jnp.int32), chosen - total

    def draw(
        self,
        placement: Placement | None,
        logits: Float[Array, "b v"],
        uniform: Float[Array, " b"],
        never: int | None = None,
    ) -> tuple[Int[Array, " b"], Float[Array, " b"]]:
        """The same on a mesh, where each device draws for rows of its own."""
        if placement is None:
            return self(logits, uniform, never)
        own = partial(self, never=never)
        return placement.split(own, (logits, uniform), (("n", ""), ("n",)), (("n",), ("n",)))

    def keep(self, weights: Float[Array, "b v"]) -> Float[Array, "b v"]:
        """The weights of at most 1 that top_k and top_p leave, and 0 for the others."""
        if self.top_k is not None and self.top_k < weights.shape[-1]:
            wanted = jnp.full(weights.shape[:1], self.top_k)
            weights = _keep_largest(weights, lambda kept: jnp.sum(kept, axis=-1), wanted)
        if self.top_p < 1:

            def mass(kept: Array) -> Array:
                return jnp.sum(jnp.where(kept, weights, 0), axis=-1)

            weights = _keep_largest(weights, mass, self.top_p * jnp.sum(weights, axis=-1))
        return weights


def _keep_largest(
    weights: Float[Array, "b v"], measure: Callable[[Bool[Array, "b v"]], Array], wanted: Array
) -> Float[Array, "b v"]:
    """The fewest largest weights of which `measure` reaches what is wanted: all from some threshold on.

    Bisects the bits of the threshold, which order like the numbers: 31 passes, where a sort of a vocabulary takes far
    longer.
    """
    bits = lax.bitcast_convert_type(weights, jnp.int32)
    low = jnp.zeros(weights.shape[:1], jnp.int32)
    high = jnp.full_like(low, lax.bitcast_convert_type(jnp.float32(1), jnp.int32) + 1)

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = low + (high - low) // 2
        enough = measure(bits >= middle[:, None]) >= wanted
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    low, _ = lax.fori_loop(0, 31, halve, (low, high))
    return jnp.where(bits >= low[:, None], weights, 0)


def invert(weights: Float[Array, "b v"], uniform: Float[Array, " b"]) -> Int[Array, " b"]:
    """The id at which the weights up to it come to more than `uniform` of all: drawn in proportion to its weight.

    One number a row, where noise on every logit (Gumbel) takes one for each id. An id of weight 0 is never drawn.
    """
    padded = jnp.pad(weights, ((0, 0), (0, -weights.shape[1] % BLOCK)))
    blocks = rearrange(padded, "b (n s) -> b n s", s=BLOCK)
    sums = jnp.sum(blocks, axis=-1)
    block, rest = _find(sums, uniform * jnp.sum(sums, axis=-1))
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    # Weights that are not numbers leave no place, and the last block may be filled up.
    return jnp.minimum(block * BLOCK + _find(inside, rest)[0], weights.shape[1] - 1)


def _find(weights: Float[Array, "b n"], target: Float[Array, " b"]) -> tuple[Int[Array, " b"], Float[Array, " b"]]:
    """The first place, of some weight, up to which the weights exceed the target, and the target less those before."""
    ends = jnp.cumsum(weights, axis=-1)
    there = weights > 0
    beyond = there & (ends > target[:, None])
    # Where rounding lets none exceed it, the last place of some weight.
    last = weights.shape[-1] - 1 - jnp.argmax(there[:, ::-1], axis=-1)
    place = jnp.where(jnp.any(beyond, axis=-1), jnp.argmax(beyond, axis=-1), last)
    before = jnp.take_along_axis(ends - weights, place[:, None], axis=-1)[:, 0]
    return place, target - before
