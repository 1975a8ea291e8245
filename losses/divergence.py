"""How far a student's distribution is from what the teacher says."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from losses.signal import Signal


@runtime_checkable
class Divergence(Protocol):
    """A divergence of a student from a teacher at every position, in nats, already times temperature squared.

    The factor keeps the gradient's size about constant in the temperature, so that changing it does not change the
    balance of soft and hard targets (Hinton, Vinyals, Dean 2015, arXiv:1503.02531).
    """

    def __call__(
        self, signal: Signal, logits: Float[Array, "b t v"], temperature: Float[Array, ""]
    ) -> Float[Array, "b t"]:
        """The divergence of softmax(logits / temperature) from the signal at the same temperature."""
        ...


@dataclass(frozen=True)
class ForwardKL:
    """KL(teacher || student), the classic: zero only when they agree, and it covers all of the teacher's modes.

    Its gradient in the logits is temperature * (q - p). A token the student excludes (-inf) and the teacher does not
    is infinitely far, as it should be; one that both exclude, or only the teacher, contributes what the limit says.
    """

    def __call__(
        self, signal: Signal, logits: Float[Array, "b t v"], temperature: Float[Array, ""]
    ) -> Float[Array, "b t"]:
        """T^2 KL(p_T || q_T) in nats."""
        teacher = signal.log_probs(temperature)
        student = jax.nn.log_softmax(logits / temperature, axis=-1)
        probs = jnp.exp(teacher)
        # 0 log 0 = 0. The infinities go before the product, not after: a NaN behind a `where` still reaches the gradient.
        said = probs > 0.0
        gap = jnp.where(said, teacher, 0.0) - jnp.where(said, student, 0.0)
        return temperature**2 * jnp.sum(probs * gap, axis=-1)
