"""Every test runs on CPU, as 8 virtual devices for the tests of meshes; set before anybody imports jax.

Tests compile much and compute little, so the compiler does not optimise: random draws compile three times as fast.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"

import jax  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture
def key() -> jax.Array:
    """A random key, the same for every test."""
    return jax.random.key(0)
