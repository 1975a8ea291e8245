"""How fast does full-size Scout decode on one device, with its weights in 4 bits, against what its memory allows?

    python -m benchmarks.one_gpu                                    # SCOUT in int4, on one GPU of 80 GB
    python -m benchmarks.one_gpu --bits 8                           # int8, 139 GiB
    python -m benchmarks.one_gpu --config SCOUT_PICO --tokens 32    # anywhere

Weights are random, drawn in 4 bits where they will stay, one repetition of a layer at a time: no float model is ever
there. Every token reads all weights once, of the experts only those chosen, and the cache: at batch 1 these bytes over
the bandwidth of the memory are a bound on time. The bandwidth is measured here, by a copy (read and written).
"""

import argparse
import datetime
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import lax

from models import config as configs
from models.cache import Cache, cache_bytes, extend
from models.config import Config
from models.execution import Execution
from models.llama4 import Llama4
from models.quantize import Recipe, bits_of, is_param, quantize, size, weigh_tree
from models.quantized import Quantized

SLACK = 2**30
"""bytes for intermediate values"""


def room(device: Any) -> int:
    """Bytes of memory of a device; the machine's where the device has none of its own."""
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def check_room(name: str, config: Config, recipe: Recipe, rows: int, capacity: int, available: int) -> None:
    """Refuses what cannot fit, before anything is drawn."""
    weights, cache = size(config, recipe), cache_bytes(config, rows, capacity)
    slack = SLACK
    if rows * config.top_k >= config.experts:  # a layer's experts are all turned into bfloat16 at once
        slack += 2 * config.experts * 3 * config.width * config.expert_width
    if weights + cache + slack > available:
        raise SystemExit(
            f"{name} in int{recipe.bits} takes {weights / 2**30:.1f} GiB, its cache {cache / 2**30:.1f} and its "
            f"intermediate values about {slack / 2**30:.1f}; {jax.devices()[0].device_kind} has "
            f"{available / 2**30:.1f}: take fewer --bits or --rows, a smaller --config or another device"
        )


def draw(config: Config, recipe: Recipe, key: jax.Array) -> Llama4:
    """A random quantised model, its other parameters in bfloat16."""
    empty = jax.eval_shape(lambda: quantize(Llama4(config, key), recipe))
    params, structure = jax.tree.flatten(empty, is_leaf=is_param)
    kept = [i for i, param in enumerate(params) if not isinstance(param.get_value(), Quantized)]

    @jax.jit
    def rest(key: jax.Array) -> list[jax.Array]:
        """The float parameters alone: XLA never draws what nobody asks for."""
        whole = jax.tree.leaves(Llama4(config, key))
        return [whole[i].astype(jnp.bfloat16) for i in kept]

    floats = iter(rest(key))
    for i, param in enumerate(params):
        weight = param.get_value()
        new = draw_integers(weight, jax.random.fold_in(key, i)) if isinstance(weight, Quantized) else next(floats)
        params[i] = param.replace(new)
    return jax.tree.unflatten(structure, params)


def draw_integers(like: Quantized, key: jax.Array) -> Quantized:
    """Uniform integers, scaled so that unit input gives about unit output; drawn by the leading axis, in place."""
    bits = bits_of(like.values.dtype)
    whole = like.values.shape

    def piece(key: jax.Array) -> jax.Array:
        raw = jax.random.bits(key, (int(np.prod(whole[1:])) * bits // 8,), jnp.uint8)
        integers = lax.bitcast_convert_type(raw, like.values.dtype)
        flat = integers if bits == 8 else rearrange(integers, "n two -> (n two)")
        names = [f"a{i}" for i in range(len(whole) - 1)]
        return rearrange(flat, f"({' '.join(names)}) -> {' '.join(names)}", **dict(zip(names, whole[1:], strict=True)))

    values = jax.jit(lambda key: lax.map(piece, jax.random.split(key, whole[0])))(key)
    spread = 2**bits / 12**0.5
    scale = whole[like.axis] ** -0.5 / spread
    return Quantized(values, jnp.full(like.scales.shape, scale, like.scales.dtype), like.axis)


def touched(model: Llama4, cache: Cache, rows: int) -> int:
    """Bytes that a step reads: the cache, and all weights but the embedding table and the experts nobody chose."""
    config = model.config
    share = min(rows * config.top_k, config.experts) / config.experts
    total = float(cache.bytes)
    for path, param in jax.tree_util.tree_flatten_with_path(model, is_leaf=is_param)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        total += weigh_tree(param) * (0 if name == "embed" else share if ".experts." in name else 1)
    return int(total)


@partial(jax.jit, static_argnames=("count", "execution"), donate_argnums=1)
def decode(
    model: Llama4, cache: Cache, tokens: jax.Array, count: int, execution: Execution
) -> tuple[Cache, jax.Array, jax.Array]:
    """The next `count` tokens of every row, greedily."""

    def step(carry: tuple[Cache, jax.Array], _: None) -> tuple[tuple[Cache, jax.Array], jax.Array]:
        cache, tokens = carry
        layout = cache.place(jnp.ones_like(tokens), 1)
        x = model.read(tokens[:, None], layout, execution)
        hidden, cache, *_ = extend(model, x, layout, cache, execution=execution)
        tokens = jnp.argmax(model.logits(hidden)[:, 0], axis=-1).astype(jnp.int32)
        return (cache, tokens), tokens

    (cache, tokens), drawn = lax.scan(step, (cache, tokens), None, length=count)
    return cache, tokens, drawn


def bandwidth(count: int) -> float:
    """Bytes a second that a copy of `count` bytes reads and writes, the best of ten."""
    copy: Callable[[jax.Array], jax.Array] = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = copy(jnp.zeros(count // 4, jnp.float32))
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        x = jax.block_until_ready(copy(x))
        best = min(best, time.perf_counter() - start)
    return 2 * count / best


def main() -> None:
    """Prints what was built, and its speed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="SCOUT", choices=[n for n, c in vars(configs).items() if type(c) is Config])
    parser.add_argument("--bits", type=int, default=4, choices=(4, 8))
    parser.add_argument("--group", type=int, default=128)
    parser.add_argument("--head", type=int, choices=(4, 8), help="bits of the head; bfloat16 if not given")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--capacity", type=int, default=1024, help="tokens that the cache has room for")
    parser.add_argument("--tokens", type=int, default=128, help="to decode in a round; there are four")
    given = parser.parse_args()
    config, recipe = vars(configs)[given.config], Recipe(bits=given.bits, group=given.group, head=given.head)
    capacity = min(given.capacity, config.max_positions)
    if 4 * given.tokens > capacity:
        raise SystemExit(f"four rounds of --tokens {given.tokens} do not fit a cache of {capacity}; lower --tokens")
    device = jax.devices()[0]
    check_room(given.config, config, recipe, given.rows, capacity, room(device))
    start = time.perf_counter()
    model = jax.block_until_ready(draw(config, recipe, jax.random.key(0)))
    assert weigh_tree(model) == size(config, recipe)
    took, gib = time.perf_counter() - start, weigh_tree(model) / 2**30
    print(f"{datetime.date.today()} {device.device_kind}: {given.config}, {recipe}")
    print(f"{gib:.3f} GiB, drawn in {took:.0f} s")
    cache, tokens = Cache.create(config, given.rows, capacity, "bfloat16"), jnp.zeros(given.rows, jnp.int32)
    read, seconds = touched(model, cache, given.rows), []
    for _ in range(4):
        start = time.perf_counter()
        cache, tokens, drawn = decode(model, cache, tokens, given.tokens, Execution(dtype="bfloat16"))
        jax.block_until_ready(drawn)
        seconds.append((time.perf_counter() - start) / given.tokens)
    best = min(seconds[1:])
    copied = bandwidth(2**30 if device.platform != "cpu" else 2**28)
    bound = copied / read
    print(f"a step: {1e3 * best:.2f} ms, {given.rows / best:.1f} tokens/s; with compiling {1e3 * seconds[0]:.0f} ms")
    print(
        f"it reads {read / 1e9:.4f} GB; a copy does {copied / 1e9:.0f} GB/s: at most {given.rows * bound:.1f} tokens/s"
    )
    print(f"{1 / best / bound:.0%} of the bound reached")


if __name__ == "__main__":
    main()
