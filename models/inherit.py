"""A student's weights out of its teacher's: layers kept or dropped, experts merged or copied, the rest drawn."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce, repeat
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from models.config import Config
from models.heritage import heritage
from models.layers import SwiGLU
from models.llama4 import Block, Llama4
from models.moe import MoE

T = TypeVar("T", bound=nnx.Module)

NOISE = 0.01
"""of the router columns of copies, as a share of their size: enough to break ties, too little to change an answer"""


def inherit(
    teacher: Llama4, config: Config, key: PRNGKeyArray, keep: tuple[int, ...] | None = None, noise: float = NOISE
) -> Llama4:
    """A student of this configuration, made of its teacher's weights; pure, for jit with `out_shardings`.

    Layers are kept or dropped whole, as in DistilBERT (Sanh et al. 2019, arXiv:1910.01108). Fewer experts are means of
    groups of the teacher's, more are copies (sparse upcycling, Komatsuzaki et al. 2022, arXiv:2212.05055). A mixture
    becomes dense as its shared expert beside the mean of the others at a score of 1/2, which is that of a router
    without opinions; a dense layer becomes a mixture the same way backwards. What the teacher has not (a vision tower)
    is drawn; what has no weights (chunk, rotary speeds, top_k, ...) is the student's own.

    Args:
        teacher: of float weights. One of the same configuration is returned as it is, if it keeps all layers.
        config: what the student is.
        key: of what is drawn.
        keep: numbers of the teacher's layers, in order; None: evenly spread, see `heritage`.
        noise: of routers where experts are copies of one. Without it they tie, and a router that chooses one expert
            takes the first of them: the function stays what it was, and the others never learn.

    Raises:
        ValueError: they do not fit, see `heritage`.
    """
    kept = heritage(teacher.config, config, keep)
    if teacher.config == config and kept == tuple(range(config.layers)):
        return teacher
    student = Llama4(config, key)  # under jit nothing is drawn of what is replaced below
    student.embed, student.head = teacher.embed, teacher.head
    student.norm = _as(student.norm, teacher.norm)
    if teacher.vision is not None and student.vision is not None:
        student.vision = teacher.vision
    keys = jax.random.split(jax.random.fold_in(key, 1), config.layers)
    heirs = [
        _block(_layer(student, i), _layer(teacher, number), config.top_k, noise, keys[i])
        for i, number in enumerate(kept)
    ]
    size = len(config.pattern)
    stacks = [jax.tree.map(lambda *each: jnp.stack(each), *heirs[j::size]) for j in range(size)]
    student.periods.blocks = nnx.List(stacks)
    return student


def _layer(model: Llama4, number: int) -> Block:
    size = len(model.config.pattern)
    return jax.tree.map(lambda x: x[number // size], model.periods.blocks[number % size])


def _as(own: T, source: nnx.Module) -> T:
    """The weights of one in the form of the other, which may differ in what is no weight."""
    return jax.tree.unflatten(jax.tree.structure(own), jax.tree.leaves(source))


def _block(own: Block, source: Block, top_k: int, noise: float, key: PRNGKeyArray) -> Block:
    own.attention_norm, own.attention = (
        _as(own.attention_norm, source.attention_norm),
        _as(own.attention, source.attention),
    )
    own.feed_forward_norm = _as(own.feed_forward_norm, source.feed_forward_norm)
    new, old = own.feed_forward, source.feed_forward
    if isinstance(new, MoE):
        own.feed_forward = _mixture(new, old, noise, key) if isinstance(old, MoE) else _split(new, old, noise)
    else:
        own.feed_forward = _as(new, _join(new, old) if isinstance(old, MoE) else old)
    return own


def _mixture(own: MoE, source: MoE, noise: float, key: PRNGKeyArray) -> MoE:
    own.shared = _as(own.shared, source.shared)
    router, (count, given) = source.router[...], (own.router.shape[1], source.router.shape[1])
    if count < given:
        order = alike(router, count)
        own.router[...] = reduce(router[:, order], "d (e n) -> d e", "mean", e=count)
        own.experts = _as(
            own.experts, jax.tree.map(lambda x: reduce(x[order], "(e n) ... -> e ...", "mean", e=count), source.experts)
        )
        return own
    copied = np.arange(count) % given
    size = jnp.sqrt(jnp.mean(router**2, axis=0))[copied] * (np.arange(count) >= given)
    own.router[...] = router[:, copied] + noise * size * jax.random.normal(key, own.router.shape)
    own.experts = _as(own.experts, jax.tree.map(lambda x: x[copied], source.experts))
    return own


def alike(router: Float[Array, "d e"], groups: int) -> Int[Array, " e"]:
    """An order of the experts in which each e / groups neighbours are a group: those of the most similar columns.

    Group by group: the first expert that has none, and those without one whose columns have the greatest cosine with
    its own. They answer similar tokens (Li et al. 2023, arXiv:2310.01334, merge by similar routing too).
    """
    unit = router / jnp.linalg.norm(router, axis=0)
    near = jnp.einsum("de,df->ef", unit, unit)

    def gather(free: Array, _: None) -> tuple[Array, Array]:
        first = jnp.argmax(free)
        closeness = jnp.where(free, near[first], -jnp.inf).at[first].set(jnp.inf)
        members = jax.lax.top_k(closeness, near.shape[0] // groups)[1]
        return free.at[members].set(False), members

    _, found = jax.lax.scan(gather, jnp.ones(near.shape[0], bool), length=groups)
    return rearrange(found, "g n -> (g n)")


def _join(own: SwiGLU, source: MoE) -> SwiGLU:
    """Dense, of a mixture: its shared expert, and beside it the mean of the routed ones at a score of 1/2."""
    gate_up, down = (jnp.mean(x, axis=0) for x in (source.experts.gate_up[...], source.experts.down[...]))
    own.gate_up[...] = jnp.concatenate([source.shared.gate_up[...], gate_up / 2], axis=-1)
    own.down[...] = jnp.concatenate([source.shared.down[...], source.top_k * down], axis=0)
    return own


def _split(own: MoE, source: SwiGLU, noise: float) -> MoE:
    """A mixture, of a dense layer: one half shared, the other every expert; the drawn router says little."""
    count, shared = own.router.shape[1], own.shared
    common, gate_up = jnp.split(source.gate_up[...], 2, axis=-1)
    down_common, down = jnp.split(source.down[...], 2, axis=0)
    shared.gate_up[...], shared.down[...] = common, down_common
    experts = own.experts
    experts.gate_up[...] = repeat(2 * gate_up, "d z f -> e d z f", e=count)
    experts.down[...] = repeat(down / own.top_k, "f d -> e f d", e=count)
    own.router[...] = noise * own.router[...]
    return own
