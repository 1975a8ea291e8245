"""Compiled: what becomes of a program when the machine's own compiler has it, or why that refuses it."""

import re
import resource
import time
from dataclasses import dataclass
from pathlib import Path

from distill.plan.hlo import Module
from distill.plan.programs import Program

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
SIZE = r"([\d.]+)([KMGT]?)"
NEEDED = (
    re.compile(rf"total memory required for HLO temporaries \({SIZE}\) exceeds available HBM \({SIZE}\)"),
    re.compile(rf"Used {SIZE} of {SIZE} hbm"),
)
"""how a compiler says that a program needs more memory than there is"""


@dataclass(frozen=True)
class Refusal:
    """A program that needs more memory than a device has; bytes."""

    needed: float
    available: float


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one device, as the compiler laid them out."""

    arguments: int
    outputs: int
    aliased: int
    """of the outputs, that take the place of arguments"""
    temporaries: int
    """of all that is neither, one beside the other where they live at once"""
    peak: int
    """the most that is held at any time, arguments too"""
    code: int
    host: int
    """on the host, where something is kept there"""


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What is known of a program after the compiler had it."""

    refusal: Refusal | None
    memory: Memory | None
    module: Module | None
    flops: float | None
    """as the compiler counts them: a loop's body once, a kernel not at all; None where it does not count"""
    seconds: dict[str, float]
    """wall time of tracing and of compiling, and processor time of both"""
    resident: float
    """bytes that this process had at its fullest"""


def compile_program(program: Program, keep: Path | None = None) -> Compiled:
    """Traces and compiles it. A refusal for want of memory takes seconds, and is an answer.

    Args:
      program: which.
      keep: a folder for the text of what the compiler made of it; None: it is not kept.
    """
    start, used = time.perf_counter(), time.process_time()
    lowered = program.lower()
    traced = time.perf_counter()
    refusal = memory = module = flops = None
    try:
        executable = lowered.compile()
    except Exception as error:  # what a compiler raises is its own; anything else goes on its way
        refusal = read_refusal(str(error))
        if refusal is None:
            raise
    else:
        found = executable.memory_analysis()
        assert found is not None
        memory = Memory(
            arguments=found.argument_size_in_bytes, outputs=found.output_size_in_bytes,
            aliased=found.alias_size_in_bytes, temporaries=found.temp_size_in_bytes,
            peak=found.peak_memory_in_bytes, code=found.generated_code_size_in_bytes,
            host=found.host_argument_size_in_bytes + found.host_temp_size_in_bytes,
        )  # fmt: skip
        text = executable.as_text() or ""
        module = Module.parse(text)
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{re.sub('[^a-z0-9]+', '_', program.name.lower())}.txt").write_text(text)
        costs = executable.cost_analysis() or {}
        flops = float(costs["flops"]) if costs.get("flops", 0) > 0 else None
    seconds = {"trace": traced - start, "compile": time.perf_counter() - traced, "cpu": time.process_time() - used}
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    return Compiled(
        refusal=refusal, memory=memory, module=module, flops=flops, seconds=seconds, resident=resident
    )  # fmt: skip


def read_refusal(text: str) -> Refusal | None:
    """Bytes needed and available, from what a compiler says when memory does not suffice; None: it says another thing.

    A refusal of which the numbers cannot be read is one all the same.
    """
    for pattern in NEEDED:
        found = pattern.search(text)
        if found:
            needed, unit, available, other = found.groups()
            return Refusal(float(needed) * UNITS[unit], float(available) * UNITS[other])
    return Refusal(float("nan"), float("nan")) if "RESOURCE_EXHAUSTED" in text else None
