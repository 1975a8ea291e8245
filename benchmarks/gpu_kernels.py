"""Kernels on one device, in bfloat16, against what FLOPs and bytes allow: attention, experts, the loss, decoding."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu_table import Contest, Refused, Row
from benchmarks.head_cases import Case
from benchmarks.one_gpu import touched
from losses import NoGate
from models.cache import Cache
from models.config import Config
from models.execution import Execution
from models.flash import Attend, Blockwise, CuDNN
from models.llama4 import Llama4
from models.moe import Blocks, Capacity, Dense, Dispatch, Ragged
from models.ready import make_ready
from models.request import Request
from models.sampler import Sampler

HALF = 2
"""bytes of a number in bfloat16"""


@dataclass(frozen=True)
class Seen:
    """Attention of `rows` rows of `columns`, causal, the columns in so many documents of one length."""

    rows: int
    columns: int
    heads: int
    kv_heads: int
    channels: int
    documents: int = 1

    @property
    def flops(self) -> float:
        """Forward and backward: two products, then four; a kernel that keeps no scores makes a seventh again."""
        pairs = self.columns * (self.columns / self.documents + 1) / 2
        return 3 * 4.0 * self.rows * self.heads * self.channels * pairs

    @property
    def bytes(self) -> float:
        """Queries and the answer once forward; backward both, and their slopes; keys and values alike."""
        own, theirs = self.heads * self.channels, self.kv_heads * self.channels
        forward, backward = 2 * own + 2 * theirs, 4 * own + 4 * theirs
        return HALF * self.rows * self.columns * float(forward + backward)


def attention(cases: dict[str, Seen], rounds: int) -> list[Row | Refused]:
    """Value and gradient of each kernel: one room a row, where cuDNN serves, and several, where Triton does."""
    found: list[Row | Refused] = []
    for name, case in cases.items():
        keys = jax.random.split(jax.random.key(0), 3)
        shapes = [(case.rows, case.columns, n, case.channels) for n in (case.heads, case.kv_heads, case.kv_heads)]
        given = [jax.random.normal(key, shape, jnp.bfloat16) for key, shape in zip(keys, shapes, strict=True)]
        rooms = jnp.arange(case.columns) * case.documents // case.columns
        rooms = None if case.documents == 1 else jnp.broadcast_to(rooms, shapes[0][:2])

        def slopes(kernel: Attend, q: jax.Array, k: jax.Array, v: jax.Array, rooms: Any) -> Any:
            total = lambda q, k, v: jnp.sum(kernel(q, k, v, rooms, rooms).astype(jnp.float32) ** 2)  # noqa: E731
            return jax.grad(total, argnums=(0, 1, 2))(q, k, v)

        def make(kernel: Attend, given: Any = tuple(given), rooms: Any = rooms) -> Callable[[], Any]:
            return functools.partial(jax.jit(functools.partial(slopes, kernel)), *given, rooms)

        about = {"flops": case.flops, "bytes": case.bytes, "tokens": float(case.rows * case.columns)}
        kernels = {"CuDNN": CuDNN(), "Blockwise": Blockwise(), "Blockwise(2048)": Blockwise(block=2048)}
        sides = [({"name": f"{way}, {name}", **about}, functools.partial(make, each)) for way, each in kernels.items()]
        found += Contest(part="attention", rounds=rounds).rows(sides)
    return found


@dataclass(frozen=True)
class Routed:
    """Tokens, width, feed-forward width and experts of a layer; top-1."""

    n: int
    d: int
    f: int
    e: int

    @property
    def flops(self) -> float:
        """Forward and backward: three products of n d f, each with two for the gradient."""
        return 3 * 3 * 2.0 * self.n * self.d * self.f

    @property
    def bytes(self) -> float:
        """Weights read forward, and backward, and their gradient written; rows in and out of all products."""
        return HALF * (3 * 3.0 * self.e * self.d * self.f + 3 * self.n * (2.0 * self.d + 3 * self.f))


DISPATCHES: dict[str, Dispatch] = {
    "Ragged": Ragged(), "Capacity 1.25": Capacity(factor=1.25), "Blocks": Blocks(), "Dense": Dense()
}  # fmt: skip


@contextlib.contextmanager
def triton() -> Iterator[None]:
    """`jax.lax.ragged_dot` by jax's own kernel in Triton, which jax keeps behind a switch."""
    jax.config.update("jax_ragged_dot_use_gpu_pallas_triton_lowering", True)
    try:
        yield
    finally:
        jax.config.update("jax_ragged_dot_use_gpu_pallas_triton_lowering", False)


def experts(cases: dict[str, Routed], rounds: int, dense_below: int = 2**34) -> list[Row | Refused]:
    """Value and gradient of each dispatch under an even load with noise; Dense where its e-fold rows are few enough."""
    found: list[Row | Refused] = []
    for name, case in cases.items():
        keys = jax.random.split(jax.random.key(0), 5)
        x = jax.random.normal(keys[0], (case.n, case.d), jnp.bfloat16)
        gate_up = (jax.random.normal(keys[1], (case.e, case.d, 2, case.f)) * case.d**-0.5).astype(jnp.bfloat16)
        down = (jax.random.normal(keys[2], (case.e, case.f, case.d)) * case.f**-0.5).astype(jnp.bfloat16)
        ids = jax.random.randint(keys[3], (case.n, 1), 0, case.e)
        scores = jax.random.uniform(keys[4], (case.n, 1))

        def slopes(dispatch: Dispatch, x: Any, ids: Any, scores: Any, gate_up: Any, down: Any) -> Any:
            total = lambda x, *rest: jnp.sum(dispatch(x, ids, *rest).astype(jnp.float32) ** 2)  # noqa: E731
            return jax.grad(total, argnums=(0, 1, 2, 3))(x, scores, gate_up, down)

        given = x, ids, scores, gate_up, down
        call = lambda dispatch, given=given: functools.partial(  # noqa: E731
            jax.jit(functools.partial(slopes, dispatch)).lower(*given).compile(), *given
        )

        def by_triton(call: Any = call) -> Callable[[], Any]:
            with triton():
                return call(Ragged())

        about = {"flops": case.flops, "bytes": case.bytes, "tokens": float(case.n)}
        own = {
            way: each for way, each in DISPATCHES.items() if way != "Dense" or case.e * case.n * case.f < dense_below
        }
        sides = [({"name": f"{way}, {name}", **about}, functools.partial(call, each)) for way, each in own.items()]
        if jax.default_backend() == "gpu":
            sides.append(({"name": f"Ragged by Triton, {name}", **about}, by_triton))
        found += Contest(part="experts", rounds=rounds).rows(sides)
    return found


def loss(widths: tuple[int, ...], tokens: int, vocab: int, chunks: tuple[int, ...], rounds: int) -> list[Row | Refused]:
    """Value and gradient of the loss by pieces; `products`: its four matrix products by pieces, without a softmax."""
    found: list[Row | Refused] = []
    for width in widths:
        case = Case("Projected", "ForwardKL", width, tokens, "bfloat16", vocab)
        given = jax.jit(case.inputs)()
        # Hidden states and heads of both sides once, and the student's once more; its gradients.
        least = HALF * (3.0 * tokens * width + 3.0 * width * vocab) + 4.0 * width * vocab
        about = {"flops": float(case.flops), "bytes": least, "tokens": float(tokens)}

        def make(chunk: int, case: Case = case, given: Any = given) -> Callable[[], Any]:
            slopes = jax.value_and_grad(case.ours(NoGate(), chunk), argnums=(0, 1), has_aux=True)
            return functools.partial(jax.jit(slopes), *given)

        sides = [
            ({"name": f"width {width}, pieces of {chunk}", **about}, functools.partial(make, chunk)) for chunk in chunks
        ]
        products = lambda case=case, given=given: functools.partial(jax.jit(case.products(chunks[0])), *given)  # noqa: E731
        sides.append(({"name": f"width {width}, products of {chunks[0]}", **about}, products))
        found += Contest(part="loss", rounds=rounds).rows(sides)
    return found


def decoding(config: Config, slots: tuple[int, ...], prompt: int, new: int, rounds: int) -> list[Row | Refused]:
    """The sampler with all slots busy, reading of prompts included.

    Bytes are those of the tokens drawn: weights (of experts those chosen, all different), and caches half way.
    """
    execution = Execution(dtype="bfloat16")
    model = make_ready(jax.jit(lambda: Llama4(config, jax.random.key(0)))(), None, execution)[0]
    found: list[Row | Refused] = []
    for rows in slots:
        sampler = Sampler(slots=rows, capacity=prompt + new, piece=prompt, stride=new, execution=execution)
        tokens = np.random.default_rng(0).integers(0, config.vocab, (rows, prompt))
        wanted = [Request(prompt=n, sample=0, tokens=each, limit=new) for n, each in enumerate(tokens)]

        def call(sampler: Sampler = sampler, wanted: list[Request] = wanted) -> None:
            drawn = sum(len(each.tokens) for each in sampler(model, wanted))
            assert drawn == len(wanted) * new, f"{drawn} tokens drawn"

        read = touched(model, Cache.create(config, rows, prompt + new // 2, "bfloat16"), rows)
        about = {
            "name": f"{rows} slots, {prompt} + {new} tokens",
            "tokens": float(rows * new),
            "bytes": float(new) * read,
        }
        found += Contest(part="decode", rounds=rounds).rows([(about, lambda call=call: call)])
    return found


def narrow_products(side: int, rounds: int) -> list[Row | Refused]:
    """A square product in 8 bits against one in bfloat16: the most that a teacher in 8 bits could gain."""
    kinds = {"bfloat16": jnp.bfloat16, "float8_e4m3fn": jnp.float8_e4m3fn, "int8": jnp.int8}

    def make(dtype: Any) -> Callable[[], Any]:
        x = (8 * jax.random.normal(jax.random.key(0), (side, side))).astype(dtype)
        out = jnp.int32 if dtype == jnp.int8 else jnp.bfloat16
        call = jax.jit(lambda x, w: jnp.einsum("ij,kj->ik", x, w, preferred_element_type=out))
        return functools.partial(call, x, x)

    sides = [
        ({"name": f"{name} product of {side}", "flops": 2.0 * side**3}, functools.partial(make, dtype))
        for name, dtype in kinds.items()
    ]
    return Contest(part="narrow", rounds=rounds).rows(sides)
