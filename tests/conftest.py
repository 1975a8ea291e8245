"""Every test runs on CPU, as 8 virtual devices for the tests of meshes; set before anybody imports jax.

Tests compile much and compute little, so the compiler does not optimise, and emits fusions in the plain way: that of
MLIR, which runs use, takes three times as long for the step of a small model. Nor does it cut a program in parts for
threads of its own: the tests have a process for every core.
"""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
FLAGS = [
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])

# Many tests compile the same program, in several processes: whoever is first compiles it for all. To read a program
# takes a fifth of the time to compile it, however small it is.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parents[1] / ".cache" / "tests")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax  # noqa: E402
import pytest  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    """A program whose writer was killed, or is at it, is compiled again: jax warns, and no test is at fault."""
    config.addinivalue_line("filterwarnings", "ignore:Error reading persistent compilation cache entry")


@pytest.fixture
def key() -> jax.Array:
    """A random key, the same for every test."""
    return jax.random.key(0)
