"""The vocabulary head as a matrix product, and the two products that differentiate it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def project(hidden: Float[Array, "b t d"], head: Float[Array, "d v"]) -> Float[Array, "b t v"]:
    """Logits of hidden states, in float32 whatever the inputs' precision.

    Inputs in bfloat16 stay so inside all three products (this one and the two of `pull`) and only the accumulation is
    in float32: the native instruction of TPUs, GPUs and recent CPUs. Plain autodiff would multiply the float32
    cotangent by an up-cast operand, at half the speed or less.
    """
    return jnp.einsum("btd,dv->btv", hidden, head, preferred_element_type=jnp.float32)


def pull(
    hidden: Float[Array, "b t d"], head: Float[Array, "d v"], cotangent: Float[Array, "b t v"]
) -> tuple[Float[Array, "b t d"], Float[Array, "d v"]]:
    """Pulls a cotangent of the logits back to hidden states and head, both in float32."""
    cotangent = cotangent.astype(jnp.result_type(hidden, head))
    d_hidden = jnp.einsum("btv,dv->btd", cotangent, head, preferred_element_type=jnp.float32)
    d_head = jnp.einsum("btd,btv->dv", hidden, cotangent, preferred_element_type=jnp.float32)
    return d_hidden, d_head


def _forward(hidden, head):
    return project(hidden, head), (hidden, head)


def _backward(inputs, cotangent):
    hidden, head = inputs
    d_hidden, d_head = pull(hidden, head, cotangent)
    return d_hidden.astype(hidden.dtype), d_head.astype(head.dtype)


project.defvjp(_forward, _backward)
