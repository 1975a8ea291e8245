"""The step written by hand in JAX: no module system, no scan, no optimizer library; what an abstraction is held to.

Everything is a function of arrays and dictionaries of arrays. With bfloat16 the matmuls read bfloat16 and write
float32, forward and backward: the only form that XLA runs natively on a CPU. Weights and optimizer stay float32.
"""

import os
from functools import partial

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.sizes import DENSE_STEP, Options, Size, Work  # noqa: E402
from benchmarks.worker import serve  # noqa: E402


def init(size: Size, seed: int) -> dict:
    """Random weights: normal with deviation 0.02, norms one."""
    keys = iter(jax.random.split(jax.random.key(seed), 2 + 7 * size.layers))

    def draw(*shape: int) -> jax.Array:
        return 0.02 * jax.random.normal(next(keys), shape)

    def layer() -> dict:
        return {
            "attention_norm": jnp.ones(size.width),
            "q": draw(size.width, size.heads * size.head_dim),
            "k": draw(size.width, size.kv_heads * size.head_dim),
            "v": draw(size.width, size.kv_heads * size.head_dim),
            "o": draw(size.heads * size.head_dim, size.width),
            "feed_norm": jnp.ones(size.width),
            "gate": draw(size.width, size.ffn),
            "up": draw(size.width, size.ffn),
            "down": draw(size.ffn, size.width),
        }

    weights = {
        "embed": draw(size.vocab, size.width),
        "layers": [layer() for _ in range(size.layers)],
        "norm": jnp.ones(size.width),
        "head": draw(size.width, size.vocab),
    }
    count = sum(x.size for x in jax.tree.leaves(weights))
    assert count == size.parameters, f"{count} parameters, {size.parameters} expected"
    return weights


@partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def contract(pattern: str, x: jax.Array, y: jax.Array, dtype: str) -> jax.Array:
    """einsum of two arrays read as `dtype`, written as float32, and so are both of its gradients."""
    return jnp.einsum(pattern, x.astype(dtype), y.astype(dtype), preferred_element_type=jnp.float32)


def _contract_forward(pattern: str, x: jax.Array, y: jax.Array, dtype: str):
    x, y = x.astype(dtype), y.astype(dtype)
    return contract(pattern, x, y, dtype), (x, y)


def _contract_backward(pattern: str, dtype: str, saved: tuple, dz: jax.Array):
    (left, right), out = pattern.split("->")[0].split(","), pattern.split("->")[1]
    x, y = saved
    dx = contract(f"{out},{right}->{left}", dz, y, dtype)
    dy = contract(f"{left},{out}->{right}", x, dz, dtype)
    return dx, dy


contract.defvjp(_contract_forward, _contract_backward)


def normalize(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """RMSNorm over the last axis."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps) * scale


def rotate(x: jax.Array, theta: float) -> jax.Array:
    """RoPE on [b t h c], halves as in Llama's transformers layout."""
    t, c = x.shape[1], x.shape[3]
    angle = jnp.arange(t)[:, None] * theta ** (-jnp.arange(0, c, 2) / c)
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def attend(x: jax.Array, w: dict, size: Size, dtype: str) -> jax.Array:
    """Causal grouped-query attention on normalized [b t d]."""
    b, t, _ = x.shape
    groups = size.heads // size.kv_heads
    q = contract("btd,dm->btm", x, w["q"], dtype).reshape(b, t, size.heads, size.head_dim)
    k = contract("btd,dm->btm", x, w["k"], dtype).reshape(b, t, size.kv_heads, size.head_dim)
    v = contract("btd,dm->btm", x, w["v"], dtype).reshape(b, t, size.kv_heads, size.head_dim)
    q = rotate(q, size.rope_theta).reshape(b, t, size.kv_heads, groups, size.head_dim) * size.head_dim**-0.5
    k = rotate(k, size.rope_theta)
    scores = contract("btkgc,bskc->bkgts", q, k, dtype)
    scores = jnp.where(jnp.tril(jnp.ones((t, t), bool)), scores, -1e30)
    mixed = contract("bkgts,bskc->btkgc", jax.nn.softmax(scores, axis=-1), v, dtype)
    return contract("btm,md->btd", mixed.reshape(b, t, -1), w["o"], dtype)


def forward(weights: dict, tokens: jax.Array, size: Size, dtype: str) -> jax.Array:
    """Hidden states [b t d] after the last norm."""
    x = weights["embed"][tokens].astype(jnp.float32)
    for w in weights["layers"]:
        x = x + attend(normalize(x, w["attention_norm"], size.eps), w, size, dtype)
        y = normalize(x, w["feed_norm"], size.eps)
        y = jax.nn.silu(contract("btd,df->btf", y, w["gate"], dtype)) * contract("btd,df->btf", y, w["up"], dtype)
        x = x + contract("btf,fd->btd", y, w["down"], dtype)
    return normalize(x, weights["norm"], size.eps)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def kl(hidden, head, teacher_hidden, teacher_head, rows: int, dtype: str) -> jax.Array:
    """Mean KL(teacher, student) over the tokens; logits exist for `rows` tokens at a time."""
    return _kl_forward(hidden, head, teacher_hidden, teacher_head, rows, dtype)[0]


def _kl_forward(hidden, head, teacher_hidden, teacher_head, rows: int, dtype: str):
    # The gradient is linear in the loss's own, which is a number: so it is computed here, while the logits are at hand.
    n, total, dhead, dhidden = hidden.shape[0], 0.0, 0.0, []
    for start in range(0, n, rows):
        piece = hidden[start : start + rows]
        got = jax.nn.log_softmax(contract("nd,dv->nv", piece, head, dtype))
        wanted = jax.nn.log_softmax(contract("nd,dv->nv", teacher_hidden[start : start + rows], teacher_head, dtype))
        share = jnp.exp(wanted)
        total += jnp.sum(share * (wanted - got))
        dlogits = (jnp.exp(got) - share) / n
        dhead += contract("nd,nv->dv", piece, dlogits, dtype)
        dhidden.append(contract("nv,dv->nd", dlogits, head, dtype))
    return total / n, (jnp.concatenate(dhidden), dhead, teacher_hidden, teacher_head)


def _kl_backward(rows: int, dtype: str, saved: tuple, d: jax.Array):
    dhidden, dhead, teacher_hidden, teacher_head = saved
    return d * dhidden, d * dhead, jnp.zeros_like(teacher_hidden), jnp.zeros_like(teacher_head)


kl.defvjp(_kl_forward, _kl_backward)


def adamw(weights: dict, first: dict, second: dict, count: jax.Array, gradient: dict, work: Work) -> tuple:
    """One update of AdamW: weights, first and second moments."""
    beta1, beta2 = work.beta1, work.beta2
    first = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, first, gradient)
    second = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, second, gradient)
    a, b = 1 / (1 - beta1**count), 1 / (1 - beta2**count)
    weights = jax.tree.map(
        lambda w, m, v: w - work.rate * (a * m / (jnp.sqrt(b * v) + work.eps) + work.decay * w),
        weights,
        first,
        second,
    )
    return weights, first, second


def build(options: Options, rows: int = 512):
    """A step of forward KL and AdamW: a function that returns the loss once the new weights are there."""
    work, dtype = options.work, options.dtype
    rng = np.random.default_rng(work.seed)
    tokens = jnp.asarray(rng.integers(0, work.teacher.vocab, (work.batch, work.length)), jnp.int32)
    teacher = jax.tree.map(lambda x: x.astype(dtype) if x.ndim > 1 else x, init(work.teacher, 0))
    student = init(work.student, 1)
    state = (student, jax.tree.map(jnp.zeros_like, student), jax.tree.map(jnp.zeros_like, student), jnp.zeros(()))

    @partial(jax.jit, donate_argnums=0)
    def update(state: tuple, teacher: dict, tokens: jax.Array) -> tuple:
        weights, first, second, count = state
        wanted = forward(teacher, tokens, work.teacher, dtype).reshape(work.tokens, -1)

        def loss(weights: dict) -> jax.Array:
            hidden = forward(weights, tokens, work.student, dtype).reshape(work.tokens, -1)
            return kl(hidden, weights["head"], wanted, teacher["head"], rows, dtype)

        value, gradient = jax.value_and_grad(loss)(weights)
        return (*adamw(weights, first, second, count + 1, gradient, work), count + 1), value

    def step() -> float:
        nonlocal state
        state, value = update(state, teacher, tokens)
        jax.block_until_ready(state)
        return float(value)

    return step


if __name__ == "__main__":
    options = Options.of(DENSE_STEP)
    serve(build(options), {"jax": jax.__version__, "flops": options.work.flops}, options.steps)
