"""Causal attention inside rooms, in one piece or by blocks: exact, in memory that grows with the row, not its square.

Of a block, u are queries, those of all g heads that share a key's head after each other, and w are keys.

A room is a number: a query sees the keys of its own room that do not stand behind it. A document is a room, and so is
a chunk of one.
"""

from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from models.layers import contract
from models.remat import product

T = TypeVar("T")

BLOCK = 512
"""columns of a block of queries or keys"""
NOWHERE = -1
"""the room of a key that no query sees: rooms are not negative"""
NEVER = jnp.finfo(jnp.float32).min
"""below every score, and finite: infinity minus infinity would be no number"""

Running = tuple[Float[Array, "*n b k u"], Float[Array, "*n b k u"], Float[Array, "*n b k u c"]]
"""of the keys seen so far: the largest score, the sum of weights relative to it, and of weights times values"""


class Queries(NamedTuple):
    """Blocks of queries, and where each stands: the last column of keys that it may see."""

    heads: Float[Array, "*n b k u c"]
    rooms: Int[Array, "*n b u"]
    places: Int[Array, "*n u"]


class Keys(NamedTuple):
    """Blocks of keys with their values, and their columns."""

    keys: Float[Array, "*n b k w c"]
    values: Float[Array, "*n b k w c"]
    rooms: Int[Array, "*n b w"]
    places: Int[Array, "*n w"]


def attend_blocks(
    q: Float[Array, "b t h c"],
    k: Float[Array, "b s k c"],
    v: Float[Array, "b s k c"],
    rooms: Int[Array, "b t"],
    theirs: Int[Array, "b s"],
    places: Int[Array, " t"],
    block: int = BLOCK,
) -> Float[Array, "b t h c"]:
    """Softmax attention of each query over the keys of its room up to its place, one block of keys after the other.

    The softmax is kept relative to the largest score so far (Milakov and Gimelshein 2018, arXiv:1805.02867), so nothing
    larger than block x block is ever there. The gradient computes every block once more (Dao et al. 2022,
    arXiv:2205.14135). Blocks in which nothing can be seen are skipped, there and back.

    theirs: the rooms of the keys. places: of each query, the last column of keys that it may see.
    """
    return _attend(block, q, k, v, rooms, theirs, places)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(block: int, q: Array, k: Array, v: Array, rooms: Array, theirs: Array, places: Array) -> Array:
    return _forward(block, q, k, v, rooms, theirs, places)[0]


def _forward(
    block: int, q: Array, k: Array, v: Array, rooms: Array, theirs: Array, places: Array
) -> tuple[Array, tuple[Array, ...]]:
    queries, keys = (
        fold_queries(q, k.shape[2], rooms, places, block),
        fold_keys(k, v, theirs, jnp.arange(k.shape[1]), block),
    )
    heads, norms = finish(gather_blocks(begin(queries.heads), queries, keys))
    y, norms = product(unfold(heads, q)), product(norms)
    return y, (q, k, v, rooms, theirs, places, y, norms)


def _backward(block: int, saved: tuple[Array, ...], slope: Array) -> tuple[Array | None, ...]:
    q, k, v, rooms, theirs, places, y, norms = saved
    queries, keys = (
        fold_queries(q, k.shape[2], rooms, places, block),
        fold_keys(k, v, theirs, jnp.arange(k.shape[1]), block),
    )
    back = fold_slopes(slope, y, k.shape[2], block)
    to_q, to_k, to_v = pull_blocks(no_slopes(queries, keys), queries, keys, norms, back)
    return unfold(to_q, q), unfold_keys(to_k, k), unfold_keys(to_v, v), None, None, None


_attend.defvjp(_forward, _backward)


def fold_queries(
    q: Float[Array, "b t h c"], groups: int, rooms: Int[Array, "b t"], places: Int[Array, " t"], block: int
) -> Queries:
    """Blocks of queries by head of the `groups` keys; the last is filled up with what sees what the last one sees."""
    # One axis for all that a product adds up, and no transpose of weights: then XLA:CPU takes a quarter of the time.
    heads = rearrange(_fold(q, block), "n b t (k g) c -> n b k (g t) c", k=groups)
    rooms, places = (_fold(x, block, mode="edge") for x in (rooms, places[None]))
    g = q.shape[2] // groups
    return Queries(heads, repeat(rooms, "n b t -> n b (g t)", g=g), repeat(places, "n 1 t -> n (g t)", g=g))


def fold_keys(
    k: Float[Array, "b s k c"],
    v: Float[Array, "b s k c"],
    rooms: Int[Array, "b s"],
    places: Int[Array, " s"],
    block: int,
) -> Keys:
    """Blocks of keys that stand at these columns; the last is filled up with keys that are nowhere."""
    keys, values = (rearrange(_fold(x, block), "n b s k c -> n b k s c") for x in (k, v))
    rooms = _fold(rooms, block, constant_values=NOWHERE)
    return Keys(keys, values, rooms, _fold(places[None], block, mode="edge")[:, 0])


def fold_slopes(
    slope: Float[Array, "b t h c"], y: Float[Array, "b t h c"], groups: int, block: int
) -> tuple[Float[Array, "n b k u c"], Float[Array, "n b k u"]]:
    """The slope on the answers by blocks, and its product with them, which every score's slope needs."""
    turn = "n b t (k g) c -> n b k (g t) c"
    heads, answers = (rearrange(_fold(x, block), turn, k=groups) for x in (slope, y))
    return heads, jnp.sum(heads.astype(jnp.float32) * answers.astype(jnp.float32), axis=-1)


def unfold(heads: Float[Array, "n b k u c"], like: Float[Array, "b t h c"]) -> Float[Array, "b t h c"]:
    """Rows again, of the shape and dtype of `like`."""
    rows = rearrange(heads, "n b k (g t) c -> b (n t) (k g) c", g=like.shape[2] // heads.shape[2])
    return rows[:, : like.shape[1]].astype(like.dtype)


def unfold_keys(keys: Float[Array, "n b k c w"], like: Float[Array, "b s k c"]) -> Float[Array, "b s k c"]:
    """Slopes on keys or values as rows again, of the shape and dtype of `like`."""
    return rearrange(keys, "n b k c w -> b (n w) k c")[:, : like.shape[1]].astype(like.dtype)


def visits(
    rooms: Int[Array, "n b u"], theirs: Int[Array, "m b w"], places: Int[Array, "n u"], columns: Int[Array, "m w"]
) -> Bool[Array, "n m"]:
    """Which blocks of queries see something in which blocks of keys, or might: by the range of their rooms."""
    beneath = jnp.max(theirs, axis=-1)[None] < jnp.min(rooms, axis=-1)[:, None]
    above = jnp.min(theirs, axis=-1)[None] > jnp.max(rooms, axis=-1)[:, None]
    ahead = jnp.min(columns, axis=-1)[None] > jnp.max(places, axis=-1)[:, None]
    return jnp.any(~(beneath | above), axis=-1) & ~ahead


def begin(heads: Float[Array, "n b k u c"]) -> Running:
    """Nothing was seen."""
    shape = heads.shape[:-1]
    return jnp.full(shape, NEVER), jnp.zeros(shape, jnp.float32), jnp.zeros(heads.shape, jnp.float32)


def gather_blocks(running: Running, queries: Queries, keys: Keys) -> Running:
    """Adds all these keys to what the queries have seen."""

    def row(each: tuple[Running, Queries, Array]) -> Running:
        running, query, seen = each
        count, order = _wanted(seen)
        return lax.fori_loop(0, count, lambda n, running: _take(query, _at(keys, order[n]), running), running)

    return lax.map(row, (running, queries, _visits(queries, keys)))


def finish(running: Running) -> tuple[Float[Array, "n b k u c"], Float[Array, "n b k u"]]:
    """The answers, and the logarithm of each query's sum of exponentials, from which weights can be made again."""
    largest, total, sums = running
    return sums / total[..., None], largest + jnp.log(total)


def no_slopes(queries: Queries, keys: Keys) -> tuple[Array, Array, Array]:
    """Zeros for `pull_blocks` to add to: slopes on queries, and on keys and values with columns last."""
    turned = jnp.zeros(rearrange(keys.keys, "n b k w c -> n b k c w").shape, jnp.float32)
    return jnp.zeros(queries.heads.shape, jnp.float32), turned, turned


def pull_blocks(
    slopes: tuple[Array, Array, Array],
    queries: Queries,
    keys: Keys,
    norms: Float[Array, "n b k u"],
    back: tuple[Float[Array, "n b k u c"], Float[Array, "n b k u"]],
) -> tuple[Array, Array, Array]:
    """Adds to the slopes (float32) on queries, keys and values what these keys have given to these queries."""
    seen = _visits(queries, keys)
    count, order = _wanted(rearrange(seen, "n m -> (n m)"))
    # Turned once, here: a product that turns its operand takes XLA:CPU half as long again.
    turned = rearrange([queries.heads, back[0]], "two n b k u c -> two n b k c u")

    def step(n: Array, slopes: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        i, j = jnp.divmod(order[n], seen.shape[1])
        more = _pull(_at(queries, i), _at(keys, j), _at(norms, i), *_at(back, i), *_at((turned[0], turned[1]), i))
        add = lambda x, place, y: lax.dynamic_update_index_in_dim(x, _at(x, place) + y, place, 0)  # noqa: E731
        return add(slopes[0], i, more[0]), add(slopes[1], j, more[1]), add(slopes[2], j, more[2])

    return lax.fori_loop(0, count, step, slopes)


def _visits(queries: Queries, keys: Keys) -> Bool[Array, "n m"]:
    return visits(queries.rooms, keys.rooms, queries.places, keys.places)


def _wanted(seen: Bool[Array, " n"]) -> tuple[Int[Array, ""], Int[Array, " n"]]:
    """How many there are, and their numbers first: a loop over them costs nothing for the others."""
    return jnp.sum(seen, dtype=jnp.int32), jnp.argsort(~seen, stable=True).astype(jnp.int32)


def _at(tree: T, i: Array) -> T:
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, i, keepdims=False), tree)


def _take(query: Queries, key: Keys, running: Running) -> Running:
    """Adds one block of keys to what one block of queries has seen."""
    largest, total, sums = running
    scores, seen = _scores(query, key)
    now = jnp.maximum(largest, jnp.max(jnp.where(seen, scores, NEVER), axis=-1))
    weights = jnp.exp(jnp.where(seen, scores - now[..., None], -jnp.inf))
    kept = jnp.exp(largest - now)
    more = contract("bkuw,bkwc->bkuc", weights.astype(key.values.dtype), key.values)
    return now, total * kept + jnp.sum(weights, axis=-1), sums * kept[..., None] + more


def _pull(
    query: Queries, key: Keys, norms: Array, slope: Array, along: Array, turned_heads: Array, turned_slope: Array
) -> tuple[Array, Array, Array]:
    """What one block of keys has given to one block of queries, as slopes on queries, keys and values."""
    scores, seen = _scores(query, key)
    weights, kind = jnp.exp(jnp.where(seen, scores - norms[..., None], -jnp.inf)), slope.dtype
    moved = contract("bkuc,bkwc->bkuw", slope, key.values) - along[..., None]
    moved = (moved * weights * query.heads.shape[-1] ** -0.5).astype(kind)
    to_q, to_k = contract("bkuw,bkwc->bkuc", moved, key.keys), contract("bkcu,bkuw->bkcw", turned_heads, moved)
    return to_q, to_k, contract("bkcu,bkuw->bkcw", turned_slope, weights.astype(kind))


def _scores(query: Queries, key: Keys) -> tuple[Float[Array, "b k u w"], Bool[Array, "b 1 u w"]]:
    scores = contract("bkuc,bkwc->bkuw", query.heads, key.keys) * query.heads.shape[-1] ** -0.5
    seen = query.rooms[:, :, None] == key.rooms[:, None]
    return scores, (seen & (key.places[None, :] <= query.places[:, None]))[:, None]


def _fold(x: Array, block: int, **fill: Any) -> Array:
    """Cuts rows into blocks, blocks first, the last filled up, with zeros where nothing else is said."""
    padded = jnp.pad(x, [(0, 0), (0, -x.shape[1] % block)] + [(0, 0)] * (x.ndim - 2), **fill)
    return rearrange(padded, "b (n t) ... -> n b t ...", t=block)
