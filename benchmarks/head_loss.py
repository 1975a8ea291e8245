"""The distillation loss over Llama 4's vocabulary of 202,048: by pieces against the whole [b t v] at once.

Memory is the compiler's own count of temporaries, so it is exact and needs no memory; time is taken where the whole
form fits. The contestants:

  textbook  softmaxes over whole logits as one would write them down, by plain autodiff; no gate, no metrics
  whole     `losses.Distill(chunk=None)`: the same mathematics as the pieces, with gate and metrics
  pieces    `losses.Distill(chunk=...)`

Beside every time stands the ceiling: the matrix products alone (student and teacher logits, and the student's two
gradients), by pieces of 64 tokens, measured in the same rounds; `benchmarks.ceiling` says what square ones reach.

    python -m benchmarks.head_loss                      # 16 GB free; --tokens 512 needs 6 GB
    python -m benchmarks.head_loss --dtype bfloat16
"""

import argparse
import functools

import jax
import jax.numpy as jnp

from benchmarks.timing import alternate
from losses import Constant, Distill, Evidence, NoGate, Place, Projected

VOCAB, WIDTH = 202_048, 512
MEMORY_AT = (1024, 2048, 4096)
GATES = {"no gate": NoGate(), "evidence": Evidence()}


def inputs(tokens: int, dtype: str) -> tuple[jax.Array, jax.Array, Projected, jax.Array]:
    """Student hidden states and head, the teacher's, and labels, of one row."""
    keys = jax.random.split(jax.random.key(0), 5)

    def normal(key, *shape):
        return jax.random.normal(key, shape, dtype)

    teacher = Projected(normal(keys[0], 1, tokens, WIDTH), normal(keys[1], WIDTH, VOCAB) * WIDTH**-0.5)
    labels = jax.random.randint(keys[2], (1, tokens), 0, VOCAB)
    return normal(keys[3], 1, tokens, WIDTH), normal(keys[4], WIDTH, VOCAB) * WIDTH**-0.5, teacher, labels


@functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
def textbook(hidden, head, signal, labels):
    """Half divergence, half cross-entropy, over whole logits."""
    product = functools.partial(jnp.einsum, "btd,dv->btv", preferred_element_type=jnp.float32)
    student = jax.nn.log_softmax(product(hidden, head))
    teacher = jax.lax.stop_gradient(jax.nn.log_softmax(product(signal.hidden, signal.head)))
    soft = jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)
    hard = -jnp.take_along_axis(student, labels[..., None], axis=-1)[..., 0]
    return jnp.mean(0.5 * soft + 0.5 * hard), {}


def ours(gate, chunk):
    """The same with `losses.Distill`, and what it logs."""
    loss = Distill(alpha=Constant(0.5), gate=gate, chunk=chunk)

    def mean(hidden, head, signal, labels):
        ones = jnp.ones(labels.shape, jnp.int32)
        place = Place(ones > 0, ones, 0 * ones)
        tally, metrics, _ = loss(hidden, head, signal, labels, place, 0.0)
        return tally.mean(), metrics

    return jax.value_and_grad(mean, argnums=(0, 1), has_aux=True)


def products(hidden, head, signal, labels, size=64):
    """The matrix products by pieces and nothing else: what no implementation can do without."""
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def piece(d_head, start):
        part, taught = (jax.lax.dynamic_slice_in_dim(x, start, size, axis=1) for x in (hidden, signal.hidden))
        slope = (product("btd,dv->btv", part, head) + product("btd,dv->btv", taught, signal.head)).astype(hidden.dtype)
        return d_head + product("btd,btv->dv", part, slope), product("btv,dv->btd", slope, head)

    return jax.lax.scan(piece, jnp.zeros(head.shape, jnp.float32), jnp.arange(0, hidden.shape[1], size))


def flops(tokens: int) -> int:
    """Of the four products."""
    return 4 * 2 * tokens * WIDTH * VOCAB


def temporaries(call, tokens: int, dtype: str) -> float:
    """MiB that the compiler sets aside beside inputs and outputs."""
    arguments = jax.eval_shape(lambda: inputs(tokens, dtype))
    return jax.jit(call).lower(*arguments).compile().memory_analysis().temp_size_in_bytes / 2**20


def show_memory(chunks: list[int], dtype: str) -> None:
    """A table: tokens down, contestants across."""
    print(f"temporaries, MiB (x: how many times less than the textbook), vocabulary {VOCAB:,}, width {WIDTH}, {dtype}")
    for tokens in MEMORY_AT:
        base = temporaries(textbook, tokens, dtype)
        whole = temporaries(ours(NoGate(), None), tokens, dtype)
        print(f"{tokens:6d} tokens   textbook {base:7.0f}   whole {whole:7.0f}")
        for chunk in chunks:
            for name, gate in GATES.items():
                size = temporaries(ours(gate, chunk), tokens, dtype)
                print(f"{'':16s}pieces of {chunk:4d}, {name:8s} {size:7.0f}   {base / size:5.1f}x")


def show_time(tokens: int, chunks: list[int], dtype: str, rounds: int) -> None:
    """Value and gradient, in alternation, beside the matrix products alone."""
    arguments = inputs(tokens, dtype)
    calls = {"textbook": textbook, "whole, no gate": ours(NoGate(), None)}
    calls |= {f"pieces of {c}, {name}": ours(gate, c) for c in chunks for name, gate in GATES.items()}
    calls["products alone"] = products
    calls = {name: functools.partial(jax.jit(call), *arguments) for name, call in calls.items()}
    table = alternate(calls, rounds=rounds, warm=1)
    print(table.show("textbook", "products alone", flops=flops(tokens)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tokens", type=int, nargs="*", default=[512, 1024], help="sizes to time; none for memory only"
    )
    parser.add_argument("--chunk", type=int, nargs="+", default=[Distill().chunk], help="positions a piece")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    show_memory(options.chunk, options.dtype)
    for tokens in options.tokens:
        print(f"\ntime of value and gradient, {tokens} tokens, {options.dtype}")
        show_time(tokens, options.chunk, options.dtype, options.rounds)
