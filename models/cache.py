"""Cache: keys and values of what a model has read, and the forward pass over what comes next.

`python -m models.cache` prints what a cache of Scout takes at 128k, 1M and 10M tokens.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jaxtyping import Array, Float, Int

from models.cache_split import see
from models.config import SCOUT, Config, Layer
from models.execution import Execution
from models.layers import Rotation
from models.layout import Layout
from models.llama4 import Llama4, Period
from models.moe import Bias, Routes, Routing, in_order


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Cache:
    """Keys and values of `rows` documents, for each layer of the pattern stacked over periods; a pytree to donate.

    NoPE layers keep all tokens, up to the capacity. Rotary layers see no further than their chunk and keep one, as a
    ring: the token at position i lies in slot i mod chunk, where it takes the place of one from the chunk before.
    Keys are kept turned and normalised; temperature is on queries alone.

    keys, values: heads first, as attention reads them; an s of its own for each layer of the pattern.
    lengths: tokens read of each row, which is the position of its next token.
    """

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    keys: tuple[Float[Array, "p b k s c"], ...]
    values: tuple[Float[Array, "p b k s c"], ...]
    lengths: Int[Array, " b"]

    @staticmethod
    def create(config: Config, rows: int, capacity: int, dtype: str = "float32") -> "Cache":
        """An empty cache for documents of at most `capacity` tokens.

        Raises:
            ValueError: capacity is not between 1 and max_positions.
        """
        if not 1 <= capacity <= config.max_positions:
            raise ValueError(
                f"A cache of {capacity} tokens a row does not fit this model; "
                f"it must hold at least 1 and at most max_positions = {config.max_positions}"
            )
        shapes = [(config.periods, rows, config.kv_heads, slots(config, layer, capacity), config.head_dim)
                  for layer in config.pattern]  # fmt: skip
        keys, values = (tuple(jnp.zeros(shape, dtype) for shape in shapes) for _ in range(2))
        return Cache(keys=keys, values=values, lengths=jnp.zeros(rows, jnp.int32))

    @property
    def bytes(self) -> int:
        """What keys and values take."""
        return sum(leaf.nbytes for leaf in (*self.keys, *self.values))

    def place(self, counts: Int[Array, " b"], t: int) -> Layout:
        """Where the next t columns of each row stand: `counts` of them tokens, padding behind them."""
        columns = repeat(jnp.arange(t), "t -> b t", b=counts.shape[0])
        positions = self.lengths[:, None] + columns
        segments = (columns < counts[:, None]).astype(jnp.int32)
        return Layout(positions=positions, segments=segments, tempering=positions)


def slots(config: Config, layer: Layer, capacity: int) -> int:
    """Tokens that a layer keeps of each row."""
    return min(config.chunk, capacity) if layer.rope else capacity


def cache_bytes(config: Config, rows: int, capacity: int, itemsize: int = 2) -> int:
    """Bytes of keys and values by formula; `itemsize` 2 is bfloat16."""
    kept = config.periods * sum(slots(config, layer, capacity) for layer in config.pattern)
    return 2 * rows * kept * config.kv_heads * config.head_dim * itemsize


def extend(
    model: Llama4,
    x: Float[Array, "b t d"],
    layout: Layout,
    cache: Cache,
    bias: Bias = None,
    execution: Execution = Execution(),  # noqa: B008 (frozen)
) -> tuple[Float[Array, "b t d"], Cache, Routing, Int[Array, "b t l r"]]:
    """Reads the next piece of every row: what `model` would say at these columns, given all that the cache holds.

    Args:
        model: of which `x = model.read(tokens, layout, execution, features)`.
        x: the piece as the first layer reads it; a piece may be of any length and begin anywhere in a chunk.
        layout: `cache.place(counts, t)`. Rows without tokens stay as they are. The caller sees to it that rows do not
            outgrow the capacity: tokens beyond it are not kept.
        cache: donate it, and it is written in place.
        bias, execution: as for the model itself.

    Returns:
        hidden: after the final norm, for `model.logits`; anything at padding.
        cache: with the piece in it.
        routing: of the piece, as from the model itself.
        routes: the experts that every token went to, by MoE layer in order.
    """
    rotation = Rotation.at(layout.positions, model.config)

    def step(
        carry: tuple[Array, Cache], each: tuple[Period, Array | Routes | None, Array]
    ) -> tuple[tuple[Array, Cache], tuple[list[Routing], list[Array]]]:
        period, own_bias, i = each
        return _extend_period(execution.ready(period), i, *carry, layout, rotation, own_bias, execution)

    # The cache is carried, not scanned over: a token is written where it lies. To be read, a layer's part is still
    # sliced out of the stack; a model of one period, as the sampler makes with `unroll`, has no stack to slice.
    periods = (model.periods, bias, jnp.arange(model.config.periods))
    (x, cache), (routings, routes) = jax.lax.scan(step, (x, cache), periods, unroll=execution.unroll)
    cache = replace(cache, lengths=cache.lengths + jnp.sum(layout.valid, axis=1))
    shape = (*x.shape[:2], 0, model.config.top_k)
    ids = rearrange(routes, "m p b t r -> b t (p m) r") if routes else jnp.zeros(shape, jnp.int32)
    return model.norm(x), cache, in_order(routings, model.config.experts), ids


def _extend_period(
    period: Period,
    i: Int[Array, ""],
    x: Float[Array, "b t d"],
    cache: Cache,
    layout: Layout,
    rotation: Rotation,
    bias: Bias,
    execution: Execution,
) -> tuple[tuple[Float[Array, "b t d"], Cache], tuple[list[Routing], list[Int[Array, "b t r"]]]]:
    keys, values, routings, routes = list(cache.keys), list(cache.values), [], []
    for j, (layer, block) in enumerate(zip(period.pattern, period.blocks, strict=True)):
        normed = block.attention_norm(x)
        q, k, v = block.attention.project(normed, layer.rope, layout, rotation)
        chunk, past = block.attention.config.chunk if layer.rope else None, (i, keys[j], values[j])
        y, keys[j], values[j] = see(execution.placement, chunk, q, k, v, layout, *past)
        own_bias = bias[len(routings)] if layer.moe and bias is not None else None
        between = execution.hold(x + block.attention.gather(y))
        x, routing = block.feed(between, layout.valid, own_bias, execution.sending())
        x = execution.hold(x)
        if routing is not None:
            routings.append(routing)
            routes.append(block.choices(between, own_bias))  # the same product again: the compiler takes it once
    return (x, replace(cache, keys=tuple(keys), values=tuple(values))), (routings, routes)


def main() -> None:
    """Prints the table."""
    print("KV cache of one document in bfloat16, GiB\n")
    print(f"{'SCOUT':16}{'kept by rule':>14}{'without chunks':>16}")
    for tokens in (128 * 1024, 1024**2, 10 * 1024**2):
        whole = replace(SCOUT, chunk=tokens)
        print(f"{tokens:12,}{cache_bytes(SCOUT, 1, tokens) / 2**30:18.2f}{cache_bytes(whole, 1, tokens) / 2**30:16.2f}")


if __name__ == "__main__":
    main()
