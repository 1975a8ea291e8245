"""Blocks: the dispatch for CPUs. One batched product for the first tokens of every expert, a loop for what is left."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from models.dispatch import flat, sort_by_expert


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Dropless and exact at any skew: a batch for the many, a loop for the rest.

    A batched product [e, first, d] takes the first tokens of every expert; then a loop takes what is left in blocks of
    `rows` tokens of one expert, as many blocks as there really are: none under an even load.

    first: rows each expert has in the batched product; 0 is the loop alone; None is what suits (see sizes).
    rows: tokens of a block; None is a quarter of `first`, but at least 16.

    The batch keeps all cores busy where a loop's bodies run one after the other on XLA:CPU, but it pays for its empty
    rows; with first at the mean load it holds hardly more rows than there are tokens, and an even router leaves little
    to the loop. Under a skew the empty rows are paid on top of the loop: with all tokens on one expert, about twice the
    work. The loop alone (first=0) spares that, and memory; `benchmarks/moe_layer.py` compares the two.
    """

    first: int | None = None
    rows: int | None = None

    def __post_init__(self):
        """Refuses blocks that hold nothing."""
        if self.first is not None and self.first < 0:
            raise ValueError(f"Blocks.first is {self.first}; it must be at least 0 rows an expert (0: the loop alone)")
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"Blocks.rows is {self.rows}; a block must hold at least 1 token")

    def sizes(self, choices: int, experts: int) -> tuple[int, int]:
        """The first and rows used for so many choices (tokens * top_k): those given, or those that suit.

        With few choices an expert it is the loop alone: it reads no expert that nobody chose, and an uneven load is
        then the rule (at 16 an expert it took 0.86 of the time of the batch; from 32 on the batch was faster).
        """
        mean = -(-choices // experts)
        suited = 0 if mean < 32 else -(-mean // 8) * 8
        first = suited if self.first is None else self.first
        return first, max(16, first // 4) if self.rows is None else self.rows

    @flat
    def __call__(
        self,
        x: Float[Array, "n d"],
        ids: Int[Array, "n r"],
        scores: Float[Array, "n r"],
        gate_up: Float[Array, "e d 2 f"],
        down: Float[Array, "e f d"],
    ) -> Float[Array, "n d"]:
        """See Dispatch. The gradient is written by hand: weights are sliced, and their gradients added to, in place."""
        sizes = self.sizes(ids.size, gate_up.shape[0])
        return _apply(sizes, x, ids, scores, rearrange(gate_up, "e d z f -> e d (z f)"), down)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Which choice (token * r + which of its r) is computed where.

    slots, filled: the choice in each row of the batched product, and whether there is one.
    slot: the row of the batched product (expert * first + rank) of each choice, or any where `early` is false.
    early: whether a choice is in the batched product; if not, and it goes somewhere, it is in the loop.
    order, start: see sort_by_expert. ends: blocks of the loop up to and including each expert.
    """

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    slots: Int[Array, "e first"]
    filled: Bool[Array, "e first"]
    slot: Int[Array, " m"]
    early: Bool[Array, " m"]
    order: Int[Array, " m"]
    start: Int[Array, " groups"]
    ends: Int[Array, " e"]


def _plan(sizes: tuple[int, int], ids: Int[Array, "n r"], experts: int) -> _Plan:
    first, rows = sizes
    order, place, start = sort_by_expert(ids, experts)
    where = start[:-1, None] + jnp.arange(first)
    flat = rearrange(ids, "n r -> (n r)")
    rank = place - jnp.take(start, flat, mode="clip")
    left = jnp.maximum(start[1:] - start[:-1] - first, 0)
    return _Plan(
        slots=jnp.take(order, where, mode="clip"),
        filled=where < start[1:, None],
        slot=flat * first + rank,
        early=(rank < first) & (flat < experts),
        order=order,
        start=start,
        ends=jnp.cumsum((left + rows - 1) // rows),
    )


def _block(
    i: Array, sizes: tuple[int, int], plan: _Plan
) -> tuple[Int[Array, ""], Int[Array, " rows"], Bool[Array, " rows"]]:
    """Expert of block i of the loop, its choices, and which of them are there."""
    first, rows = sizes
    expert = jnp.sum(plan.ends <= i)
    before = jnp.where(expert > 0, plan.ends[expert - 1], 0)
    where = plan.start[expert] + first + (i - before) * rows + jnp.arange(rows)
    return expert, jnp.take(plan.order, where, mode="clip"), where < plan.start[expert + 1]


def _load(x: Array, scores: Array, choices: Array, there: Array) -> Array:
    """Expert inputs, score * token; 0 where there is none, so that an empty row adds nothing to any gradient."""
    weight = jnp.take(rearrange(scores, "n r -> (n r)"), choices, mode="clip")[..., None]
    return jnp.where(there[..., None], weight * _tokens(x, scores, choices), 0).astype(x.dtype)


def _tokens(x: Array, scores: Array, choices: Array) -> Array:
    return jnp.take(x, choices // scores.shape[1], axis=0, mode="clip")


def _dot(spec: str, a: Array, b: Array) -> Array:
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)


def _glu(both: Array) -> Array:
    gate, up = jnp.split(both, 2, axis=-1)
    return jax.nn.silu(gate) * up


def _glu_back(both: Array, slope: Array) -> tuple[Array, Array]:
    """What _glu gave, and the gradient of its input from that of its output."""
    gate, up = jnp.split(both, 2, axis=-1)
    sigmoid = jax.nn.sigmoid(gate)
    silu = gate * sigmoid
    return silu * up, jnp.concatenate([slope * up * (sigmoid + silu * (1 - sigmoid)), slope * silu], axis=-1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _apply(sizes: tuple[int, int], x: Array, ids: Array, scores: Array, gate_up: Array, down: Array) -> Array:
    return _forward(sizes, x, ids, scores, gate_up, down)[0]


def _forward(
    sizes: tuple[int, int], x: Array, ids: Array, scores: Array, gate_up: Array, down: Array
) -> tuple[Array, tuple[Any, ...]]:
    plan = _plan(sizes, ids, gate_up.shape[0])
    both = _dot("ecd,edf->ecf", _load(x, scores, plan.slots, plan.filled), gate_up)
    answers = _dot("ecf,efd->ecd", _glu(both).astype(x.dtype), down)

    def step(i: Array, answers: Array) -> Array:
        expert, choices, there = _block(i, sizes, plan)
        inner = _glu(_dot("cd,df->cf", _load(x, scores, choices, there), gate_up[expert])).astype(x.dtype)
        return _store(answers, _dot("cf,fd->cd", inner, down[expert]), choices, there)

    answers = lax.fori_loop(0, plan.ends[-1], step, _collect(answers, plan))
    y = jnp.sum(rearrange(answers, "(n r) d -> n r d", r=ids.shape[1]), axis=1).astype(x.dtype)
    return y, (x, ids, scores, gate_up, down, plan, both)


def _collect(rows: Array, plan: _Plan) -> Array:
    """From rows of the batched product [e first d] to choices [m d], 0 where the choice was not in it."""
    flat = rearrange(rows, "e c d -> (e c) d")
    if not flat.shape[0]:
        return jnp.zeros((plan.slot.shape[0], rows.shape[-1]), rows.dtype)
    return jnp.where(plan.early[:, None], jnp.take(flat, plan.slot, axis=0, mode="clip"), 0)


def _store(total: Array, rows: Array, choices: Array, there: Array) -> Array:
    """Writes rows of a block to their choices; those that are not there go out of bounds and are dropped."""
    return total.at[jnp.where(there, choices, total.shape[0])].set(rows, mode="drop")


def _backward(sizes: tuple[int, int], saved: tuple[Any, ...], slope: Array) -> tuple[Array | None, ...]:
    x, ids, scores, gate_up, down, plan, both = saved
    inputs = _load(x, scores, plan.slots, plan.filled)
    slopes = _tokens(slope, scores, plan.slots)
    inner, to_both = _glu_back(both, _dot("ecd,efd->ecf", slopes, down))
    inner, to_both = inner.astype(x.dtype), to_both.astype(x.dtype)
    to_down = _dot("ecf,ecd->efd", inner, slopes)
    to_gate_up = _dot("ecd,ecf->edf", inputs, to_both)
    to_inputs = _collect(_dot("ecf,edf->ecd", to_both, gate_up), plan)

    def step(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        to_inputs, to_gate_up, to_down = carry
        expert, choices, there = _block(i, sizes, plan)
        inputs, slopes = _load(x, scores, choices, there), _tokens(slope, scores, choices)
        both = _dot("cd,df->cf", inputs, gate_up[expert])
        inner, to_both = _glu_back(both, _dot("cd,fd->cf", slopes, down[expert]))
        inner, to_both = inner.astype(x.dtype), to_both.astype(x.dtype)
        to_inputs = _store(to_inputs, _dot("cf,df->cd", to_both, gate_up[expert]), choices, there)
        to_gate_up = to_gate_up.at[expert].add(_dot("cd,cf->df", inputs, to_both))
        return to_inputs, to_gate_up, to_down.at[expert].add(_dot("cf,cd->fd", inner, slopes))

    carry = lax.fori_loop(0, plan.ends[-1], step, (to_inputs, to_gate_up, to_down))
    to_inputs = rearrange(carry[0], "(n r) d -> n r d", r=ids.shape[1])
    to_x = jnp.sum(to_inputs * scores[..., None], axis=1).astype(x.dtype)
    to_scores = jnp.sum(to_inputs * x[:, None], axis=-1).astype(scores.dtype)
    return to_x, None, to_scores, carry[1].astype(gate_up.dtype), carry[2].astype(down.dtype)


_apply.defvjp(_forward, _backward)
