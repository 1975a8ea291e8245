from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import huggingface
from models.cache import Cache, cache_bytes, extend
from models.config import SCOUT, Config, Layer, Tempering
from models.dispatch import Dense
from models.execution import Execution
from models.layout import Layout
from models.llama4 import Llama4

DATA = Path(__file__).parents[1] / "data" / "llama4"
CASES = ["scout_tiny", "maverick_tiny", "mm_tiny"]
PLAIN = Execution(dispatch=Dense())
# Two periods of (dense rope, MoE nope), chunks and floors much shorter than a row.
TOY = Config(
    vocab=40, width=16, layers=4, heads=4, kv_heads=2, head_dim=4, expert_width=8, dense_width=12, experts=4, top_k=2,
    pattern=(Layer(rope=True, moe=False), Layer(rope=False, moe=True)), chunk=4, rope_theta=100.0, rope_scaling=None,
    qk_norm=True, tempering=Tempering(floor=3, scale=0.5), eps=1e-5, max_positions=32,
)  # fmt: skip


@cache
def _fixture(case):
    return huggingface.load(DATA / case), dict(np.load(DATA / case / "expected.npz"))


@cache
def _toy():
    return jax.jit(partial(Llama4, TOY))(jax.random.key(0))


@partial(jax.jit, static_argnames="execution", donate_argnums=3)
def _extend(model, x, layout, cache, bias=None, execution=PLAIN):
    hidden, cache, *_ = extend(model, x, layout, cache, bias, execution)
    return model.logits(hidden), cache


@partial(jax.jit, static_argnames="execution")
def _full(model, tokens, layout, images=None, bias=None, execution=PLAIN):
    return model.logits(model(tokens, layout, bias, execution, images)[0])


@jax.jit
def _read(model, tokens, layout, images=None):
    return model.read(tokens, layout, PLAIN, None if images is None else model.look(images, PLAIN))


def _in_pieces(model, x, lengths, size, cache, bias=None, execution=PLAIN):
    """Logits of right-padded rows read `size` tokens at a time, and the cache after them."""
    logits = []
    for start in range(0, x.shape[1], size):
        piece = jnp.pad(x[:, start : start + size], ((0, 0), (0, max(0, start + size - x.shape[1])), (0, 0)))
        counts = jnp.clip(lengths - start, 0, size)
        out, cache = _extend(model, piece, cache.place(counts, size), cache, bias, execution)
        logits.append(out)
    return jnp.concatenate(logits, axis=1)[:, : x.shape[1]], cache


def _right_padded(tokens, lengths):
    return Layout.left_padded(jnp.arange(tokens.shape[1]) < lengths[:, None])


@pytest.mark.parametrize("size", [1, 7, 20])
@pytest.mark.parametrize("case", CASES)
def test_pieces_say_what_the_whole_says(case, size):
    model, expected = _fixture(case)
    tokens, lengths = jnp.asarray(expected["full.input_ids"]), jnp.array([40, 33])
    layout, images = _right_padded(tokens, lengths), _tiles(expected, tokens, model)
    whole = _full(model, tokens, layout, images)
    # An image may lie across pieces: the whole row is read at once, and what the first layer reads comes in pieces.
    x = _read(model, tokens, layout, images)
    pieces, _ = _in_pieces(model, x, lengths, size, Cache.create(model.config, 2, 40))
    # Float32 takes each of the two as far as 1e-5 from what they are in float64.
    np.testing.assert_allclose(pieces[layout.valid], whole[layout.valid], atol=1.5e-5, rtol=0)


def _tiles(expected, tokens, model):
    """The fixture's images, row by row, zeros behind those of rows that have fewer; None without images."""
    if model.config.vision is None:
        return None
    vision = model.config.vision
    counts = (tokens == vision.patch_token).sum(axis=1) // vision.tokens
    tiles = np.zeros((len(tokens), int(counts.max()), *expected["pixel_values"].shape[1:]), np.float32)
    tiles[np.arange(tiles.shape[1]) < np.asarray(counts)[:, None]] = expected["pixel_values"]
    return jnp.asarray(tiles)


def _generate(model, x, lengths, lead, steps):
    """Greedy tokens and logits [steps b v] after a prompt; temperatures go by position + lead."""
    cache, tokens, logits = Cache.create(model.config, len(x), x.shape[1] + steps), [], []
    counts = lengths
    for _ in range(steps):
        layout = cache.place(counts, x.shape[1])
        layout = replace(layout, tempering=layout.positions + lead[:, None])
        out, cache = _extend(model, x, layout, cache)
        logits.append(out[jnp.arange(len(x)), counts - 1])
        tokens.append(jnp.argmax(logits[-1], axis=-1))
        x, counts = _read(model, tokens[-1][:, None], cache.place(counts, 1)), jnp.ones_like(counts)
    return jnp.stack(tokens, axis=1), jnp.stack(logits)


@pytest.mark.parametrize("case", CASES)
def test_greedy_tokens_are_those_of_transformers(case):
    model, expected = _fixture(case)
    prompt = jnp.asarray(expected["gen.prompt"])
    lengths = jnp.full(2, prompt.shape[1])
    x = _read(model, prompt, _right_padded(prompt, lengths), _tiles(expected, prompt, model))
    tokens, logits = _generate(model, x, lengths, jnp.zeros(2, int), steps=16)
    np.testing.assert_array_equal(tokens, expected["gen.tokens"])
    np.testing.assert_allclose(logits, expected["gen.logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", ["scout_tiny", "maverick_tiny"])
def test_greedy_tokens_after_left_padding_are_those_of_transformers_where_temperature_goes_by_column(case):
    model, expected = _fixture(case)
    mask = expected["gen_leftpad.attention_mask"]
    lead = 12 - mask.sum(axis=1)
    # A cache knows no padding before a row; the row begins at its first token.
    rows = zip(expected["gen_leftpad.prompt"], lead, strict=True)
    prompt = jnp.stack([jnp.roll(jnp.asarray(row), -n) for row, n in rows])
    lengths = jnp.asarray(12 - lead)
    x = _read(model, prompt, _right_padded(prompt, lengths))
    tokens, logits = _generate(model, x, lengths, jnp.asarray(lead), steps=16)
    np.testing.assert_array_equal(tokens, expected["gen_leftpad.tokens"])
    np.testing.assert_allclose(logits, expected["gen_leftpad.logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [3, 10])
@pytest.mark.parametrize("capacity", [30, 12])
def test_a_piece_may_be_longer_than_a_chunk_and_rows_may_stop(size, capacity):
    tokens = jax.random.randint(jax.random.key(1), (3, capacity), 0, TOY.vocab)
    lengths = jnp.array([capacity, 1, 11])
    bias = jax.random.normal(jax.random.key(2), (2, 1, 4))
    layout = _right_padded(tokens, lengths)
    whole = _full(_toy(), tokens, layout, bias=bias)
    pieces, cache = _in_pieces(
        _toy(), _read(_toy(), tokens, layout), lengths, size, Cache.create(TOY, 3, capacity), bias
    )
    np.testing.assert_allclose(pieces[layout.valid], whole[layout.valid], atol=1e-5, rtol=0)
    np.testing.assert_array_equal(cache.lengths, lengths)


def test_a_row_without_tokens_stays_as_it_is():
    x = _read(_toy(), jnp.arange(6).reshape(2, 3), Layout.dense(2, 3))
    _, before = _extend(_toy(), x, (empty := Cache.create(TOY, 2, 8)).place(jnp.array([3, 3]), 3), empty)
    kept = jax.tree.map(np.asarray, before)
    _, after = _extend(_toy(), x, before.place(jnp.array([0, 3]), 3), before)
    for old, new in zip(kept.keys + kept.values, after.keys + after.values, strict=True):
        np.testing.assert_array_equal(old[:, 0], new[:, 0])
        assert np.any(old[:, 1] != new[:, 1])
    np.testing.assert_array_equal(after.lengths, [3, 6])


def test_rotary_layers_keep_a_chunk_and_the_others_everything():
    cache = Cache.create(TOY, 2, 20, "bfloat16")
    assert [keys.shape for keys in cache.keys] == [(2, 2, 2, 4, 4), (2, 2, 2, 20, 4)]


@pytest.mark.parametrize("capacity", [3, 20])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bytes_by_formula_are_the_bytes_allocated(capacity, dtype):
    cache = Cache.create(TOY, 2, capacity, dtype)
    assert cache.bytes == cache_bytes(TOY, 2, capacity, jnp.dtype(dtype).itemsize)


def test_scout_at_128k_takes_6_gib_for_all_tokens_and_1_for_chunks():
    assert cache_bytes(SCOUT, 1, 128 * 1024) == (6 + 36 * 8 / 1024 * 4) * 2**30


def test_the_old_cache_is_written_in_place():
    x = _read(_toy(), jnp.arange(6).reshape(2, 3), Layout.dense(2, 3))
    cache = Cache.create(TOY, 2, 8)
    _extend(_toy(), x, cache.place(jnp.array([3, 3]), 3), cache)
    assert all(leaf.is_deleted() for leaf in (*cache.keys, *cache.values))


@pytest.mark.parametrize("capacity", [0, 33])
def test_a_capacity_that_the_model_does_not_have_is_refused(capacity):
    with pytest.raises(ValueError, match=f"A cache of {capacity} tokens a row .* at most max_positions = 32"):
        Cache.create(TOY, 2, capacity)
