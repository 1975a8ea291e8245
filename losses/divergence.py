"""How far a student's distribution is from what the teacher says."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from losses.signal import Signal

FLOOR = -1e30
"""stands for the logarithm of zero"""


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

    Its gradient in the logits is temperature * (q - p). A token that the teacher excludes (-inf) contributes nothing;
    one that the student excludes and the teacher does not would be infinitely far and is -FLOOR nats away instead.
    """

    def __call__(
        self, signal: Signal, logits: Float[Array, "b t v"], temperature: Float[Array, ""]
    ) -> Float[Array, "b t"]:
        """T^2 KL(p_T || q_T) in nats."""
        teacher = signal.log_probs(temperature)
        student = jax.nn.log_softmax(logits / temperature, axis=-1)
        # 0 log 0 = 0. The infinities go before the product: a NaN hidden behind a `where` still reaches the gradient.
        gap = jnp.maximum(teacher, FLOOR) - jnp.maximum(student, FLOOR)
        # A contraction, since XLA:CPU makes a scalar loop of sum(p * gap), three times the rest of the loss together.
        # Highest precision, since a TPU would otherwise round both sides to bfloat16, more than a small KL.
        return temperature**2 * jnp.einsum("btv,btv->bt", jnp.exp(teacher), gap, precision=jax.lax.Precision.HIGHEST)
