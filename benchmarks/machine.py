"""What the benchmark runs on, and whether anything else runs on it. Linux tells; elsewhere it is taken to be quiet."""

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def keep(cores: int) -> None:
    """Leaves this process and its children no more than so many cores, where the system can be told."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def describe() -> dict:
    """The processor, the cores this process may use and the memory; nothing that tells one machine from its twin."""
    model = platform.processor() or platform.machine()
    flags = ""
    if Path("/proc/cpuinfo").exists():
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
        model = next((value.strip() for key, _, value in lines if key.strip() == "model name"), model)
        flags = next((value for key, _, value in lines if key.strip() == "flags"), "")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "avx512_bf16": "avx512_bf16" in flags.split(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.system(),
    }


@dataclass(frozen=True)
class Moment:
    """A reading of the clocks: wall seconds, CPU seconds of the whole machine, and those of one process."""

    wall: float
    machine: float
    process: float


def read(pid: int) -> Moment:
    """Reads the clocks, with those of process `pid`."""
    if not Path("/proc/stat").exists():
        return Moment(time.perf_counter(), 0.0, 0.0)
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    own = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    process = int(own[11]) + int(own[12])
    machine = user + nice + system + irq + softirq + steal
    return Moment(time.perf_counter(), machine / _TICKS, process / _TICKS)


def others(before: Moment, after: Moment) -> float:
    """How many cores anything but the process kept busy between two readings (stolen time counts)."""
    used = (after.machine - before.machine) - (after.process - before.process)
    return max(0.0, used) / (after.wall - before.wall)


def wait_until_quiet(limit: float, busy: float = 0.1, look: float = 0.5) -> float:
    """Waits until less than `busy` cores are in use, at most `limit` seconds; returns the cores last seen in use."""
    end = time.perf_counter() + limit
    while True:
        before = read(os.getpid())
        time.sleep(look)
        seen = others(before, read(os.getpid()))
        if seen < busy or time.perf_counter() > end:
            return seen
