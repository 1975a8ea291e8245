"""How far a student's distribution is from what the teacher says.

Letters of the formulas: p the teacher, q the student, both at the temperature, sums over the outcomes that a signal
knows (the vocabulary, or its top-k and the rest). All is in nats, times temperature squared, but for AlphaBeta,
which has no unit, and TotalVariation, which is a probability and is not multiplied.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from losses.signal import Signal, contract


@runtime_checkable
class Divergence(Protocol):
    """A divergence of a student from a teacher at every position, already times temperature squared if it falls so.

    One that holds a part of itself fixed, so that its gradient is not its slope, has a class attribute `detached`. The
    factor keeps the gradient's size about constant in the temperature, so that changing it does not change the
    balance of soft and hard targets (Hinton, Vinyals, Dean 2015, arXiv:1503.02531).
    """

    def __call__(
        self, signal: Signal, logits: Float[Array, "b t v"], temperature: Float[Array, ""]
    ) -> Float[Array, "b t"]:
        """The divergence of softmax(logits / temperature) from the signal at the same temperature."""
        ...


@dataclass(frozen=True)
class ForwardKL:
    """KL(p || q), the classic: zero only when they agree, and it covers all of the teacher's modes.

    Its gradient in the logits is temperature * (q - p). A token that the teacher excludes (-inf) contributes nothing;
    one that the student excludes and the teacher does not would be infinitely far and is -FLOOR nats away instead. It
    is linear in p but for a constant, so that sampled targets make it unbiased, value and gradient.
    """

    def __call__(
        self, signal: Signal, logits: Float[Array, "b t v"], temperature: Float[Array, ""]
    ) -> Float[Array, "b t"]:
        """T^2 sum p (log p - log q)."""
        sides = signal.against(logits, temperature)
        return temperature**2 * sides.expect(sides.teacher - sides.student)


@dataclass(frozen=True)
class ReverseKL:
    """KL(q || p): seeks the teacher's modes, and says nothing about tokens that the student never considers.

    So it starts badly from random weights and suits fine-tuning and a student's own samples (MiniLLM,
    arXiv:2306.08543). A token that the teacher excludes and the student does not is -FLOOR nats away.
    """

    def __call__(
        self, signal: Signal, logits: Float[Array, "b t v"], temperature: Float[Array, ""]
    ) -> Float[Array, "b t"]:
        """T^2 sum q (log q - log p)."""
        p, q = signal.against(logits, temperature).whole(self)
        return temperature**2 * contract(jnp.exp(q), q - p)


@dataclass(frozen=True, kw_only=True)
class JensenShannon:
    """beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q (GKD, arXiv:2306.13649).

    beta = 1/2 is the symmetric one; at most ln 2. It vanishes at both ends, so that a sweep of beta is a sweep of the
    learning rate too: divided by beta it tends to KL(p || q) as beta goes to 0, divided by 1 - beta to KL(q || p) as
    beta goes to 1. Some libraries jump to the forward KL at beta = 0 and to the reverse at 1, some count beta the other
    way round.

    Attributes:
      beta: weight of the teacher in the mixture, inside (0, 1); with `normalise` in [0, 1].
      normalise: divide by beta (1 - beta), which tends to the forward KL at 0 and to the reverse KL at 1, continuously;
        at 1/2 it is 4 times the plain form, of the same second order as both ends.
    """

    beta: float = 0.5
    normalise: bool = False

    def __post_init__(self):
        if not 0.0 <= self.beta <= 1.0:
            raise ValueError(f"JensenShannon(beta={self.beta}) must lie within 0 and 1; it is the teacher's share.")
        if not self.normalise and self.beta in (0.0, 1.0):
            raise ValueError(
                f"JensenShannon(beta={self.beta}) is 0 for every student; take ForwardKL() or ReverseKL(), or "
                "normalise=True, which tends to the forward KL at 0 and to the reverse KL at 1."
            )

    def __call__(
        self, signal: Signal, logits: Float[Array, "b t v"], temperature: Float[Array, ""]
    ) -> Float[Array, "b t"]:
        """T^2 times the divergence."""
        if self.beta in (0.0, 1.0):
            end = ForwardKL() if self.beta == 0.0 else ReverseKL()
            return end(signal, logits, temperature)
        p, q = signal.against(logits, temperature).whole(self)
        m = mixed(p, q, self.beta)
        value = self.beta * contract(jnp.exp(p), p - m) + (1.0 - self.beta) * contract(jnp.exp(q), q - m)
        return temperature**2 * value / (self.beta * (1.0 - self.beta) if self.normalise else 1.0)


@dataclass(frozen=True, kw_only=True)
class SkewKL:
    """KL(p || share p + (1 - share) q) (DistiLLM, arXiv:2402.03898): the forward KL with a bounded gradient.

    share = 0 is the forward KL, share = 1 is 0 for every student.
    """

    share: float = 0.1

    def __post_init__(self):
        _check_share(self, self.share)

    def __call__(
        self, signal: Signal, logits: Float[Array, "b t v"], temperature: Float[Array, ""]
    ) -> Float[Array, "b t"]:
        """T^2 sum p (log p - log m)."""
        p, q = signal.against(logits, temperature).whole(self)
        return temperature**2 * contract(jnp.exp(p), p - mixed(p, q, self.share))


@dataclass(frozen=True, kw_only=True)
class SkewReverseKL:
    """KL(q || (1 - share) p + share q) (DistiLLM, arXiv:2402.03898): finite where the teacher excludes a token.

    share = 0 is the reverse KL, share = 1 is 0 for every student.
    """

    share: float = 0.1

    def __post_init__(self):
        _check_share(self, self.share)

    def __call__(
        self, signal: Signal, logits: Float[Array, "b t v"], temperature: Float[Array, ""]
    ) -> Float[Array, "b t"]:
        """T^2 sum q (log q - log m)."""
        p, q = signal.against(logits, temperature).whole(self)
        return temperature**2 * contract(jnp.exp(q), q - mixed(p, q, 1.0 - self.share))


@dataclass(frozen=True, kw_only=True)
class AlphaBeta:
    """The alpha-beta divergence (Cichocki et al. 2011; for distillation ABKD, arXiv:2505.04560).

      -1/(a b) sum [p^a q^b - a/(a+b) p^(a+b) - b/(a+b) q^(a+b)]

    (1, 0) is the forward KL, (0, 1) the reverse KL, (1/2, 1/2) is 2 sum (sqrt p - sqrt q)^2.

    Attributes:
      a, b: exponents, not negative and not both 0; ABKD's choice for language models.
    """

    a: float = 0.2
    b: float = 0.7

    def __post_init__(self):
        if self.a < 0.0 or self.b < 0.0 or self.a + self.b == 0.0:
            raise ValueError(
                f"AlphaBeta(a={self.a}, b={self.b}) must have exponents of 0 or more, not both 0: a negative power of "
                "a probability near 0 has no bound."
            )

    def __call__(
        self, signal: Signal, logits: Float[Array, "b t v"], temperature: Float[Array, ""]
    ) -> Float[Array, "b t"]:
        """T^2 times the divergence, by its limits where an exponent is 0."""
        p, q = signal.against(logits, temperature).whole(self)
        a, b = self.a, self.b
        if b == 0.0:
            value = _limit(p, q, a)
        elif a == 0.0:
            value = _limit(q, p, b)
        else:
            # Around the larger of the two, so that what nearly agrees is not lost between powers near 1.
            whole, less = a + b, jnp.where(p < q, a, b)  # less: the exponent of the smaller
            gap = -jnp.abs(p - q)
            bend = less / whole * jnp.expm1(whole * gap) - jnp.expm1(less * gap)
            value = contract(jnp.exp(whole * jnp.maximum(p, q)), bend) / (a * b)
        return temperature**2 * value


@dataclass(frozen=True)
class TotalVariation:
    """Half of sum |p - q|, in [0, 1]: 1 minus the rate at which the teacher accepts the student's drafts.

    Bounded and robust, but its gradient is small where q is, and jumps where both agree (f-distill, arXiv:2307.15190).
    Times temperature, not its square: it is of first order where both nearly agree, the others of second.
    """

    def __call__(
        self, signal: Signal, logits: Float[Array, "b t v"], temperature: Float[Array, ""]
    ) -> Float[Array, "b t"]:
        """T / 2 sum |p - q|."""
        p, q = signal.against(logits, temperature).whole(self)
        return temperature * 0.5 * jnp.sum(jnp.abs(jnp.exp(p) - jnp.exp(q)), axis=-1)


def mixed(p: Float[Array, "b t n"], q: Float[Array, "b t n"], share: float) -> Float[Array, "b t n"]:
    """Log of share p + (1 - share) q, from logarithms that are finite."""
    if share in (0.0, 1.0):
        return p if share == 1.0 else q
    return jnp.logaddexp(jnp.log(share) + p, jnp.log1p(-share) + q)


def _limit(p: Float[Array, "b t n"], q: Float[Array, "b t n"], a: float) -> Float[Array, "b t"]:
    """The alpha-beta divergence as b goes to 0."""
    power = jnp.exp(a * p)
    return (a * contract(power, p - q) + jnp.sum(jnp.exp(a * q) - power, axis=-1)) / a**2


def _check_share(asker: object, share: float) -> None:
    if not 0.0 <= share < 1.0:
        raise ValueError(f"{asker} must have a share from 0 to below 1: at 1 it is 0 for every student.")
