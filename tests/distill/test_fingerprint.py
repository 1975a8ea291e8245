"""Fingerprints see what changed."""

import jax.numpy as jnp
import numpy as np
import pytest

from distill.fingerprint import describe, fingerprint


def of(*values, dtype=jnp.float32):
    return fingerprint({"x": jnp.asarray(values, dtype)})["x"]


def test_equal_arrays_have_equal_fingerprints_whatever_holds_them():
    x = np.arange(6, dtype=np.float32)
    assert fingerprint({"x": x}) == fingerprint({"x": jnp.asarray(x)})


def test_swapped_words_are_seen_even_where_only_the_sign_bit_differs():
    assert of(1.0, 2.0) != of(2.0, 1.0)
    assert of(1.0, -1.0, 0.0) != of(-1.0, 1.0, 0.0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int8, jnp.int32, jnp.uint16])
def test_every_flipped_bit_is_seen(dtype):
    x = np.asarray(jnp.asarray([1, 2, 3], dtype))
    seen = {fingerprint({"x": x})["x"]}
    for bit in range(x.itemsize * 8):
        raw = bytearray(x.tobytes())
        raw[x.itemsize + bit // 8] ^= 1 << bit % 8
        seen.add(fingerprint({"x": np.frombuffer(bytes(raw), x.dtype)})["x"])
    assert len(seen) == 1 + x.itemsize * 8


def test_booleans_scalars_and_empty_arrays_have_one_too():
    assert of(True, False, dtype=jnp.bool_) != of(False, True, dtype=jnp.bool_)
    assert fingerprint({"x": jnp.int32(1)}) != fingerprint({"x": jnp.int32(2)})
    assert fingerprint({"x": jnp.zeros((0, 3))}) == {"x": "00000000"}


def test_a_transposed_matrix_is_seen():
    x = jnp.arange(9.0).reshape(3, 3)
    assert fingerprint({"x": x}) != fingerprint({"x": x.T})


def test_describe_is_dtype_and_shape_in_one_word():
    assert describe(jnp.zeros((2, 3), jnp.bfloat16)) == "bfloat16[2,3]"
    assert describe(jnp.int32(1)) == "int32[]"
