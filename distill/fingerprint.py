"""Fingerprints of arrays: what a checkpoint is checked against when it is read back."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32


def describe(leaf: Any) -> str:
    """dtype and shape of an array or of its abstract stand-in, as one word: `float32[2,64,8]`."""
    return f"{np.dtype(leaf.dtype).name}[{','.join(str(size) for size in leaf.shape)}]"


def fingerprint(leaves: Mapping[str, Any]) -> dict[str, str]:
    """Eight hexadecimal digits per array: the wrap-around sum of its mixed words (`_mixed_sum`).

    One changed word, in whatever bits, always changes it; several changed or swapped words do so but for a chance of
    2^-32. It does not depend on the sharding, and is computed where the arrays are: one number per array comes back.
    """
    groups: dict[Any, list[str]] = {}
    for name, leaf in leaves.items():
        groups.setdefault(frozenset(leaf.devices()) if isinstance(leaf, jax.Array) else None, []).append(name)
    sums = {}  # one jit takes arrays of one set of devices only
    for names in groups.values():
        for name, value in zip(names, _sums(tuple(leaves[name] for name in names)), strict=True):
            sums[name] = f"{int(value):08x}"
    return {name: sums[name] for name in leaves}


def identify(config: Any, weights: Mapping[str, str]) -> str:
    """12 hex digits that change with a model's configuration or with the fingerprint of one of its arrays."""
    found = {"config": repr(config), "weights": dict(weights)}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:12]


@jax.jit
def _sums(leaves: tuple[Any, ...]) -> tuple[UInt32[Array, ""], ...]:
    return tuple(_mixed_sum(leaf) for leaf in leaves)


def _mixed_sum(x: Array) -> UInt32[Array, ""]:
    """sum_i mix(word_i xor mix(i)) modulo 2^32. A sum weighted by the position would miss the swap of x and -x, whose
    words differ in the highest bit alone; for a fixed i, mix is a bijection of the word."""
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    size = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    words = jax.lax.bitcast_convert_type(x, size).astype(jnp.uint32)  # 8 bytes: one more axis, of 2
    index = jnp.zeros(words.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(words.ndim)):
        index += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    return jnp.sum(_mix(words ^ _mix(index + jnp.uint32(1))), dtype=jnp.uint32)


def _mix(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """A bijection of 32-bit words that spreads every bit over all (C. Wellons, lowbias32, 2018)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
