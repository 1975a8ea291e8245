"""Freed memory stays with the process: a block taken again costs no new pages. Compiled programs stay where all see."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from distill.process import keep_compiled
from tests.distill.bucket import bucket

MIN = "jax_persistent_cache_min_compile_time_secs"
ROUNDS = """
import ctypes
import resource
from distill.process import keep_memory
{call}
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def round():
    block = libc.malloc(64 << 20)
    libc.memset(block, 1, 64 << 20)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
first = round()
for _ in range(8):
    last = round()
print(last - first)
"""


def faults(call: str) -> int:
    """Pages that eight blocks of 64 MiB cost after the first, in a process of its own."""
    command = [sys.executable, "-c", ROUNDS.format(call=call)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_a_block_taken_again_costs_no_new_pages():
    assert faults("assert keep_memory()") < 100 < faults(""), "a block of 64 MiB has 16,384 pages of 4 KiB"


@pytest.fixture
def cached():
    """Sets JAX's folder of compiled programs for a test; puts it back as it was."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_enable_xla_caches", MIN)
    before = {name: getattr(jax.config, name) for name in names}

    def use(folder):
        compilation_cache.reset_cache()
        jax.config.update(names[0], folder)

    yield use
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_compiled_programs_of_a_pod_are_in_the_bucket_that_it_names(cached):
    with bucket() as store:
        cached("gs://b/cache")
        keep_compiled()
        jax.jit(lambda x: jnp.sin(x) * 3.21)(1.0)
        assert [name for name in store.puts if name.startswith("/b/cache/jit_") and name.endswith("-cache")]
        assert jax.config.jax_persistent_cache_enable_xla_caches == "none", "XLA itself writes to no bucket"


def test_a_folder_of_the_users_own_stands_and_none_is_this_projects(cached, tmp_path):
    cached(str(tmp_path / "own"))
    keep_compiled(tmp_path / "ours")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
    cached(None)
    keep_compiled(tmp_path / "ours")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "ours")


def test_a_bucket_for_compiled_programs_that_nothing_here_reads_is_refused(cached, monkeypatch):
    def missing(name):
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr("fsspec.get_filesystem_class", missing)
    cached("gs://b/cache")
    with pytest.raises(ValueError, match=r"gs://b/cache is in a bucket, and gcsfs"):
        keep_compiled()
