"""Kernels of accelerators give what XLA gives by blocks; here they are interpreted."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.config import SCOUT_PICO
from models.flash import Attend, Blockwise, CuDNN, Splash, suited
from models.llama4 import Execution, Llama4

SPLASH = Splash(block_q=128, block_kv=128, interpret=True)
SEGMENTS = jnp.array([[1] * 60 + [2] * 150 + [3] * 34 + [0] * 12])


def arrays(t=256, s=256, c=16, dtype=jnp.float32, b=1):
    shapes = ((b, t, 4, c), (b, s, 2, c), (b, s, 2, c))
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(each, shape).astype(dtype) for each, shape in zip(keys, shapes, strict=True)]


@partial(jax.jit, static_argnums=0)
def value_and_slopes(form, q, k, v, *where):
    def loss(q, k, v):
        y = form(q, k, v, *where).astype(jnp.float32)
        return jnp.sum(y * jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)), y

    slopes, y = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(q, k, v)
    return y, *slopes


def same(form, given, *where, atol):
    pairs = zip(value_and_slopes(form, *given, *where), value_and_slopes(Blockwise(64), *given, *where), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs.astype(jnp.float32), atol=atol)


def test_splash_is_attention_inside_rooms_of_any_length():
    same(SPLASH, arrays(200, 200), SEGMENTS[:, :200], SEGMENTS[:, :200], atol=1e-5)


def test_splash_takes_queries_from_anywhere_in_the_row():
    places = jnp.concatenate([jnp.arange(64), 192 + jnp.arange(64)])
    same(SPLASH, arrays(128), SEGMENTS[:, places], SEGMENTS, places, atol=1e-5)


def test_splash_of_one_room_is_causal_attention():
    q, k, v = arrays(100, 150, b=2)
    np.testing.assert_allclose(jax.jit(SPLASH)(q, k, v), Blockwise()(q, k, v), atol=2e-6)


def test_the_triton_kernel_is_attention_inside_rooms():
    kernel = CuDNN(tile=64, interpret=True)
    given = arrays(128, dtype=jnp.bfloat16)
    same(kernel, given, SEGMENTS[:, 128:], SEGMENTS, atol=0.06)
    assert jnp.any(kernel(*given, SEGMENTS[:, 128:], SEGMENTS) != kernel.otherwise(*given, SEGMENTS[:, 128:], SEGMENTS))


@pytest.mark.parametrize("given", [arrays(), arrays(130, 130, dtype=jnp.bfloat16)], ids=["float32", "130 columns"])
def test_what_the_kernels_of_nvidia_do_not_take_is_done_by_blocks(given):
    np.testing.assert_array_equal(CuDNN()(*given), CuDNN().otherwise(*given))


def test_packed_rows_lower_to_triton_for_cuda():
    step = jax.jit(partial(value_and_slopes, CuDNN()))
    lowered = step.trace(*arrays(dtype=jnp.bfloat16), SEGMENTS, SEGMENTS).lower(lowering_platforms=("cuda",))
    assert "triton" in lowered.as_text()


def test_splash_lowers_to_mosaic_for_tpus():
    step = jax.jit(partial(value_and_slopes, Splash()))
    lowered = step.trace(*arrays(c=128, dtype=jnp.bfloat16), SEGMENTS, SEGMENTS).lower(lowering_platforms=("tpu",))
    assert lowered.as_text().count("tpu_custom_call") >= 3


def test_the_maps_of_64k_queries_over_1m_keys_fit_the_scalar_memory_of_a_tpu():
    q, k, v = (jax.ShapeDtypeStruct((1, t, 1, 128), jnp.bfloat16) for t in (2**16, 2**20, 2**20))
    rooms, theirs = (jax.ShapeDtypeStruct((1, t), jnp.int32) for t in (2**16, 2**20))
    step = jax.jit(partial(value_and_slopes, Splash()))
    text = step.trace(q, k, v, rooms, theirs).lower(lowering_platforms=("tpu",)).as_text()
    calls = [line for line in text.splitlines() if "tpu_custom_call" in line]
    maps = [re.findall(r"tensor<1x128x1024xi(\d+)>", line) for line in calls]
    assert len(maps) == 3 and all(len(bits) >= 2 for bits in maps)
    assert all(128 * 1024 * sum(map(int, bits)) / 8 < 2**20 / 2 for bits in maps)  # of 1 MiB


@pytest.mark.parametrize(("platform", "kind"), [("cpu", Blockwise), ("gpu", CuDNN), ("cuda", CuDNN), ("tpu", Splash)])
def test_every_platform_has_what_suits_it(platform, kind):
    assert type(suited(platform)) is kind and isinstance(suited(platform), Attend)


def test_a_model_attends_as_its_execution_says():
    asked = []

    def record(q, k, v, rooms=None, theirs=None, places=None):
        asked.append(k.shape[1])
        return q

    shapes = jax.eval_shape(partial(Llama4, SCOUT_PICO), jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((1, 2 * SCOUT_PICO.chunk), jnp.int32)
    jax.eval_shape(lambda model, tokens: model(tokens, execution=Execution(attention=record)), shapes, tokens)
    assert asked == [SCOUT_PICO.chunk] * 3 + [2 * SCOUT_PICO.chunk]


@pytest.mark.parametrize("name", ["block_q", "block_kv"])
def test_blocks_that_fill_no_vector_are_refused(name):
    with pytest.raises(ValueError, match=f"Splash.{name} is 100; it must be a multiple of 128"):
        Splash(**{name: 100})
