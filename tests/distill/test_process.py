"""Freed memory stays with the process: a block taken again costs no new pages."""

import subprocess
import sys

import pytest

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
