"""What the benchmark of head and loss compares: every signal and divergence, as one would write it down and as we do.

The textbook forms make whole logits, softmax them and add up, by plain autodiff; they share no code with `losses`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from losses import (
    AdaptiveKL,
    AlphaBeta,
    Belief,
    Constant,
    Dense,
    Distill,
    Divergence,
    Ensemble,
    ForwardKL,
    Gate,
    JensenShannon,
    Place,
    Projected,
    ReverseKL,
    Sampled,
    Signal,
    SkewKL,
    SkewReverseKL,
    ToDi,
    TopK,
    TotalVariation,
)

Arguments = tuple[Float[Array, "b t d"], Float[Array, "d v"], Any, Int[Array, "b t"]]
LogProbs = Float[Array, "b t n"]
KNOWN = 64
"""tokens of a position that a stored signal holds"""

DIVERGENCES: dict[str, tuple[Divergence, Callable[[LogProbs, LogProbs], Float[Array, "b t"]]]] = {}
"""by name, ours and the textbook's: a function of both sides' log-probabilities, teacher first"""


def _say(ours: Divergence):
    """Puts a textbook form beside ours."""

    def enter(textbook):
        DIVERGENCES[type(ours).__name__] = ours, textbook
        return textbook

    return enter


@_say(ForwardKL())
def _forward(p, q):
    return jnp.sum(jnp.exp(p) * (p - q), axis=-1)


@_say(ReverseKL())
def _reverse(p, q):
    return jnp.sum(jnp.exp(q) * (q - p), axis=-1)


@_say(JensenShannon())
def _jensen_shannon(p, q):
    m = jnp.log(0.5 * jnp.exp(p) + 0.5 * jnp.exp(q))
    return 0.5 * _forward(p, m) + 0.5 * _forward(q, m)


@_say(SkewKL())
def _skew(p, q):
    return _forward(p, jnp.log(0.1 * jnp.exp(p) + 0.9 * jnp.exp(q)))


@_say(SkewReverseKL())
def _skew_reverse(p, q):
    return _forward(q, jnp.log(0.9 * jnp.exp(p) + 0.1 * jnp.exp(q)))


@_say(AlphaBeta())
def _alpha_beta(p, q, a=0.2, b=0.7):
    p, q = jnp.exp(p), jnp.exp(q)
    both = p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)
    return -jnp.sum(both, axis=-1) / (a * b)


@_say(TotalVariation())
def _total_variation(p, q):
    return 0.5 * jnp.sum(jnp.abs(jnp.exp(p) - jnp.exp(q)), axis=-1)


@_say(AdaptiveKL())
def _adaptive(p, q):
    order = jnp.argsort(-p, axis=-1)
    sorted_p = jnp.take_along_axis(jnp.exp(p), order, axis=-1)
    gap = jnp.abs(sorted_p - jnp.take_along_axis(jnp.exp(q), order, axis=-1))
    head = jnp.sum(jnp.where(jnp.cumsum(sorted_p, axis=-1) - sorted_p < 0.5, gap, 0.0), axis=-1)
    share = jax.lax.stop_gradient(head / jnp.sum(gap, axis=-1))
    return share * _forward(p, q) + (1.0 - share) * _reverse(p, q)


@_say(ToDi())
def _todi(p, q):
    share = jax.lax.stop_gradient(jax.nn.sigmoid(p - q))
    return jnp.sum(share * jnp.exp(p) * (p - q) + (1.0 - share) * jnp.exp(q) * (q - p), axis=-1)


def _log_probs(hidden, head):
    return jax.nn.log_softmax(jnp.einsum("btd,dv->btv", hidden, head, preferred_element_type=jnp.float32))


def _dense(signal: Dense, student):
    return jax.nn.log_softmax(signal.logits.astype(jnp.float32)), student


def _projected(signal: Projected, student):
    return _log_probs(signal.hidden, signal.head), student


def _top_k(signal: TopK, student):
    known = jnp.take_along_axis(student, signal.ids, axis=-1)
    rest = jnp.log1p(-jnp.sum(jnp.exp(known), axis=-1, keepdims=True))
    return jnp.concatenate([signal.log_probs, signal.rest[..., None]], -1), jnp.concatenate([known, rest], -1)


def _sampled(signal: Sampled, student):
    # -sum w log q + a constant; as a pair of sides for the forward KL alone, whose weights are equal here
    known = jnp.take_along_axis(student, signal.ids, axis=-1)
    return jnp.log(signal.weights), known + jnp.log(signal.weights) - signal.log_probs


def _ensemble(signal: Ensemble, student):
    both = [jnp.exp(_log_probs(each.hidden, each.head)) for each in signal.members]
    return jnp.log(sum(share * p for share, p in zip(signal.shares, both, strict=True))), student


SIGNALS = {"Dense": _dense, "Projected": _projected, "TopK": _top_k, "Sampled": _sampled, "Ensemble": _ensemble}
"""by name, both sides' log-probabilities over the outcomes that the signal knows, as a textbook has them"""


@dataclass(frozen=True)
class Case:
    """A question: this loss on this signal, at this size."""

    signal: str
    divergence: str
    width: int
    tokens: int
    dtype: str
    vocab: int

    def possible(self) -> bool:
        """A sample of the teacher's words is right for the forward KL alone."""
        return self.signal != "Sampled" or self.divergence == "ForwardKL"

    def inputs(self) -> Arguments:
        """Student hidden states and head, the signal, and labels, of one row."""
        keys = iter(jax.random.split(jax.random.key(0), 9))

        def normal(*shape):
            return jax.random.normal(next(keys), shape, self.dtype)

        def projected():
            hidden = normal(1, self.tokens, self.width)
            return Projected(hidden, normal(self.width, self.vocab) * jnp.asarray(self.width**-0.5, self.dtype))

        student = projected()
        labels = jax.random.randint(next(keys), (1, self.tokens), 0, self.vocab)
        makers: dict[str, Callable[[], Signal]] = {
            "Dense": lambda: Dense(normal(1, self.tokens, self.vocab)),
            "Projected": projected,
            "TopK": lambda: self._known(False),
            "Sampled": lambda: self._known(True),
            "Ensemble": lambda: Ensemble((projected(), projected()), jnp.array([0.4, 0.6])),
        }
        return student.hidden, student.head, makers[self.signal](), labels

    def _known(self, drawn: bool) -> TopK | Sampled:
        """A teacher that gives its best tokens equal shares of nine tenths."""
        count = min(KNOWN, self.vocab // 2)
        first = jax.random.randint(jax.random.key(1), (1, self.tokens, 1), 0, self.vocab)
        ids = (first + jnp.arange(count) * (self.vocab // count)) % self.vocab
        log_probs = jnp.full(ids.shape, jnp.log(0.9 / count))
        here = jnp.zeros((1, self.tokens))
        judged = Belief(here - 3.0, here + 0.1, here + 4.0, ids[..., 0])
        if drawn:
            return Sampled(ids, jnp.full(ids.shape, 1.0 / count), log_probs, judged, self.vocab)
        return TopK(ids, log_probs, here + jnp.log(0.1), judged, self.vocab)

    def textbook(self) -> Callable:
        """Half divergence, half cross-entropy, over whole logits."""
        sides, divergence = SIGNALS[self.signal], DIVERGENCES[self.divergence][1]

        def mean(hidden, head, signal, labels):
            student = _log_probs(hidden, head)
            hard = -jnp.take_along_axis(student, labels[..., None], axis=-1)[..., 0]
            teacher, student = sides(signal, student)
            return jnp.mean(0.5 * divergence(jax.lax.stop_gradient(teacher), student) + 0.5 * hard), {}

        return mean

    def ours(self, gate: Gate, chunk: int | None) -> Callable:
        """The same with `losses.Distill`, and what it logs."""
        loss = Distill(alpha=Constant(0.5), soft=DIVERGENCES[self.divergence][0], gate=gate, chunk=chunk)

        def mean(hidden, head, signal, labels):
            ones = jnp.ones(labels.shape, jnp.int32)
            place = Place(ones > 0, ones, 0 * ones)
            tally, metrics, _ = loss(hidden, head, signal, labels, place, 0.0)
            return tally.mean(), metrics

        return mean

    def products(self, size: int = 512) -> Callable:
        """The four matrix products of student and one teacher by pieces: what nothing that is right can do without."""

        size = min(size, self.tokens)

        def product(letters, *two):
            return jnp.einsum(letters, *two, preferred_element_type=jnp.float32)

        def call(hidden, head, signal, labels):
            def piece(d_head, start):
                part, taught = (jax.lax.dynamic_slice_in_dim(x, start, size, 1) for x in (hidden, signal.hidden))
                slope = product("btd,dv->btv", part, head) + product("btd,dv->btv", taught, signal.head)
                slope = slope.astype(hidden.dtype)
                return d_head + product("btd,btv->dv", part, slope), product("btv,dv->btd", slope, head)

            return jax.lax.scan(piece, jnp.zeros(head.shape, jnp.float32), jnp.arange(0, hidden.shape[1], size))

        return call

    @property
    def flops(self) -> int:
        """Of the products: student forward and twice backward, and one for every head that the teacher brings."""
        heads = {"Projected": 1, "Ensemble": 2}
        return (3 + heads.get(self.signal, 0)) * 2 * self.tokens * self.width * self.vocab
