"""Dispatch: how tokens get to their experts and back. Every one gives the same sum; they differ in speed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jaxtyping import Array, Float, Int

from models.layers import contract
from models.quantized import Quantized


@runtime_checkable
class Dispatch(Protocol):
    """Sends each token to its experts and adds up what they answer; no token is dropped, but by `Capacity`.

    Tokens may lie in rows [b t]: all but `Exchange` take them as one row (`flat`).
    """

    def __call__(
        self,
        x: Float[Array, "*n d"],
        ids: Int[Array, "*n r"],
        scores: Float[Array, "*n r"],
        gate_up: Float[Array, "e d 2 f"],
        down: Float[Array, "e f d"],
    ) -> Float[Array, "*n d"]:
        """Returns y[n] = sum over r of E(scores[n, r] * x[n]), with E(x) = down(silu(gate x) * up x), E = ids[n, r].

        The score is on the expert's input, which is not the same as on its output. The id e, one past the last expert,
        is nowhere: it answers 0 and costs no product. Products add up in float32; y has the dtype of x.
        """
        ...


def flat(call: Callable[..., Array]) -> Callable[..., Array]:
    """A dispatch of tokens [n ...] as one of tokens in any shape [*n ...]."""

    @wraps(call)
    def dispatched(self: Any, x: Array, ids: Array, scores: Array, gate_up: Any, down: Any) -> Array:
        rows = (rearrange(each, "... c -> (...) c") for each in (x, ids, scores))
        return call(self, *rows, gate_up, down).reshape(x.shape)

    return dispatched


@dataclass(frozen=True)
class Dense:
    """Every expert on every token: e / r times the work, and nothing to get wrong. The others are tested against it."""

    @flat
    def __call__(
        self,
        x: Float[Array, "n d"],
        ids: Int[Array, "n r"],
        scores: Float[Array, "n r"],
        gate_up: Float[Array, "e d 2 f"],
        down: Float[Array, "e f d"],
    ) -> Float[Array, "n d"]:
        """See Dispatch."""
        here = jax.nn.one_hot(ids, gate_up.shape[0], dtype=jnp.float32)
        total = jnp.zeros(x.shape, jnp.float32)
        # One of the r choices at a time: an expert chosen twice by a token answers twice, as each score stands alone.
        for choice in range(ids.shape[1]):
            weight = jnp.einsum("n,ne->ne", scores[:, choice].astype(jnp.float32), here[:, choice])
            inputs = jnp.einsum("ne,nd->end", weight, x.astype(jnp.float32)).astype(x.dtype)
            both = contract("end,edzf->enzf", inputs, gate_up)
            inner = (jax.nn.silu(both[:, :, 0]) * both[:, :, 1]).astype(x.dtype)
            total += jnp.sum(contract("enf,efd->end", inner, down), axis=0)
        return total.astype(x.dtype)


@dataclass(frozen=True)
class Ragged:
    """Tokens sorted by expert, then `jax.lax.ragged_dot`: a grouped product where the accelerator has one.

    XLA:CPU expands it to every expert on every token; use Blocks there.
    """

    @flat
    def __call__(
        self,
        x: Float[Array, "n d"],
        ids: Int[Array, "n r"],
        scores: Float[Array, "n r"],
        gate_up: Float[Array, "e d 2 f"],
        down: Float[Array, "e f d"],
    ) -> Float[Array, "n d"]:
        """See Dispatch."""
        order, place, start = sort_by_expert(ids, gate_up.shape[0])
        sizes = start[1:] - start[:-1]
        # What ragged_dot leaves in the rows of no group is not specified: zeros go in, and zeros are made of it.
        somewhere = (jnp.arange(ids.size) < start[-1])[:, None]
        choices = jnp.where(somewhere, rearrange(scores, "n r -> (n r) 1")[order], 0)
        inputs = (choices * x[order // ids.shape[1]].astype(jnp.float32)).astype(x.dtype)
        fused = rearrange(gate_up, "e d z f -> e d (z f)")
        both = lax.ragged_dot(inputs, fused, sizes, preferred_element_type=jnp.float32)
        gate, up = rearrange(both, "m (z f) -> z m f", z=2)
        inner = (jax.nn.silu(gate) * up).astype(x.dtype)
        outputs = lax.ragged_dot(inner, down, sizes, preferred_element_type=jnp.float32)
        outputs = jnp.where(somewhere, outputs, 0)[place]
        return jnp.sum(rearrange(outputs, "(n r) d -> n r d", r=ids.shape[1]), axis=1).astype(x.dtype)


@dataclass(frozen=True)
class Each:
    """Every choice takes its own expert out of the array: for fewer choices than there are experts.

    It reads no other expert, and it takes quantised ones, of which it turns only those chosen into floats.
    """

    @flat
    def __call__(
        self,
        x: Float[Array, "n d"],
        ids: Int[Array, "n r"],
        scores: Float[Array, "n r"],
        gate_up: Float[Array, "e d 2 f"] | Quantized,
        down: Float[Array, "e f d"] | Quantized,
    ) -> Float[Array, "n d"]:
        """See Dispatch."""
        flat = rearrange(ids, "n r -> (n r)")
        there, place = (flat < gate_up.shape[0])[:, None], jnp.minimum(flat, gate_up.shape[0] - 1)
        weighed = jnp.einsum("nr,nd->nrd", scores.astype(jnp.float32), x.astype(jnp.float32))
        # Zeros go to the expert of what goes nowhere, and zeros it answers.
        inputs = jnp.where(there, rearrange(weighed, "n r d -> (n r) d"), 0).astype(x.dtype)
        both = contract("md,mdzf->mzf", inputs, gate_up[place].astype(x.dtype))
        inner = (jax.nn.silu(both[:, 0]) * both[:, 1]).astype(x.dtype)
        outputs = contract("mf,mfd->md", inner, down[place].astype(x.dtype))
        return jnp.sum(rearrange(outputs, "(n r) d -> n r d", r=ids.shape[1]), axis=1).astype(x.dtype)


def sort_by_expert(
    ids: Int[Array, "n r"], experts: int
) -> tuple[Int[Array, " m"], Int[Array, " m"], Int[Array, " groups"]]:
    """Sorts the m = n * r choices by expert, and by token within an expert.

    Returns:
        order: the choice (token * r + which of its r) at each place of the sorted row.
        place: where each choice went; the inverse of order.
        start: the place of each expert's first choice, and at [e] the place after the last expert's last; the choices
            from there on go nowhere.

    Raises:
        ValueError: so many choices and experts that one int32 cannot hold both.
    """
    size = ids.size
    if size * (experts + 1) >= 2**31:
        raise ValueError(
            f"{size} expert choices (tokens * top_k) times {experts} experts + 1 must stay below 2**31; "
            f"split the batch into micro-batches"
        )
    # Expert and choice packed into one key: XLA:CPU sorts one operand several times faster than two, and equal keys,
    # whose order would have to be settled, cannot occur.
    choice = jnp.arange(size, dtype=jnp.int32)
    keys = lax.sort(rearrange(ids, "n r -> (n r)").astype(jnp.int32) * size + choice, is_stable=False)
    order = keys % max(size, 1)
    place = jnp.zeros_like(order).at[order].set(choice, unique_indices=True)
    start = jnp.searchsorted(keys, jnp.arange(experts + 1, dtype=jnp.int32) * size)
    return order, place, start.astype(jnp.int32)
