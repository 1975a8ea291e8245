"""Every test runs on CPU, as 8 virtual devices for the tests of meshes; set before anybody imports jax."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture
def key() -> jax.Array:
    """A random key, the same for every test."""
    return jax.random.key(0)
