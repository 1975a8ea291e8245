"""What a process that trains asks of its surroundings: programs and memory are kept, not made anew."""

import ctypes
import sys
from pathlib import Path

import jax

from distill.place import far, place

CACHE = Path(__file__).parent.parent / ".cache" / "jax"
"""of compiled programs; a folder of the user's own (JAX_COMPILATION_CACHE_DIR, which may be gs://BUCKET/FOLDER) is used
in its place: one that all hosts of a pod see, and that outlives them"""
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""of glibc's mallopt"""


def settle() -> None:
    """Keeps compiled programs on disk, and freed memory in the process; for the start of a program."""
    keep_compiled()
    keep_memory()


def keep_compiled(folder: Path = CACHE) -> None:
    """Keep compiled programs on disk, so that a restart, or the next seed, compiles nothing twice.

    Of several processes JAX has the first write them, and all read.

    Raises:
      ValueError: they are to be in a bucket, and nothing here reads one.
    """
    # A choice of the user's own (JAX_COMPILATION_CACHE_DIR) stands.
    own = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if own is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    elif far(place(own)):
        # XLA's own caches, of what it found fastest on a GPU, are written by XLA, which knows no buckets.
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def keep_memory() -> bool:
    """Freed memory stays in the process, for the next step; whether that could be arranged (Linux with glibc alone).

    On the CPU, XLA takes its temporary memory from malloc at every call; glibc maps large blocks anew and gives them
    back, so the kernel clears every page of every step again, which shows in the steps of small models.
    """
    if not sys.platform.startswith("linux"):
        return False
    malloc = getattr(ctypes.CDLL(None), "mallopt", None)
    if malloc is None:
        return False
    return all([malloc(M_ARENA_MAX, 1), malloc(M_MMAP_MAX, 0), malloc(M_TRIM_THRESHOLD, -1)])
