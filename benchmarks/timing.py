"""Timing: callables side by side, in alternation in one process, so that what disturbs one disturbs all."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

TICK = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Table:
    """Seconds of every round of every contestant, and how many cores other processes kept busy meanwhile.

    seconds: on the wall. work: of all our cores together; it hardly feels other processes, but not idle cores either.
    """

    seconds: dict[str, list[float]]
    work: dict[str, list[float]]
    others: float
    quiet: bool

    def median(self, name: str) -> float:
        """Median seconds of one call."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, base: str) -> float:
        """Median over rounds of this one's time to that of base in the same round: above 1 is slower."""
        return statistics.median(a / b for a, b in zip(self.seconds[name], self.seconds[base], strict=True))

    def effort(self, name: str, base: str) -> float:
        """Median of this one's CPU time over that of base."""
        return statistics.median(self.work[name]) / max(statistics.median(self.work[base]), 1e-9)

    def spread(self, name: str, base: str) -> tuple[float, float]:
        """Quartiles of that ratio over rounds."""
        ratios = [a / b for a, b in zip(self.seconds[name], self.seconds[base], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return low, high

    def show(self, *bases: str, flops: float | None = None) -> str:
        """One line a contestant: median and best in ms, ratios to each base, and GFLOP/s for so many `flops` a call."""
        width = max(map(len, self.seconds))
        lines = []
        for name, seconds in self.seconds.items():
            line = f"{name:{width}s}  {1e3 * self.median(name):9.3f} ms (best {1e3 * min(seconds):9.3f})"
            for base in bases:
                low, high = self.spread(name, base)
                line += f"  {self.ratio(name, base):5.2f} x {base} [{low:.2f}-{high:.2f}],"
                line += f" {self.effort(name, base):5.2f} by CPU time"
            if flops is not None:
                line += f"  {flops / self.median(name) / 1e9:6.1f} GFLOP/s"
            lines.append(line)
        state = "quiet" if self.quiet else "NOT QUIET: trust the ratios, not the times"
        return "\n".join([*lines, f"other processes kept {self.others:.2f} cores busy ({state})"])


def alternate(
    contestants: dict[str, Callable[[], Any]],
    rounds: int = 9,
    warm: int = 2,
    patience: float = 20.0,
    limit: float = 0.1,
) -> Table:
    """Calls every contestant once a round, starting with another one each round, and waits for each result.

    Args:
        contestants: functions of no arguments; what they return is waited for.
        rounds: of which at least 2.
        warm: calls of each beforehand (compiling, first touch of memory); not measured.
        patience: seconds to wait for other processes to leave the machine; then it measures anyway, and says so.
        limit: cores that others may keep busy on a machine still called quiet.
    """
    if rounds < 2 or not contestants:
        raise ValueError(f"{len(contestants)} contestants in {rounds} rounds: at least 1 and 2 are needed")
    for call in contestants.values():
        for _ in range(warm):
            jax.block_until_ready(call())
    _await_quiet(patience, limit)
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    work: dict[str, list[float]] = {name: [] for name in names}
    before = _read_clocks()
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start, worked = time.perf_counter(), time.process_time()
            jax.block_until_ready(contestants[name]())
            seconds[name].append(time.perf_counter() - start)
            work[name].append(time.process_time() - worked)
    others = _busy_cores(before, _read_clocks())
    return Table(seconds, work, others, others <= limit)


def _await_quiet(patience: float, limit: float) -> None:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        before = _read_clocks()
        time.sleep(0.5)
        if _busy_cores(before, _read_clocks()) <= limit:
            return


def _read_clocks() -> tuple[float, float, float]:
    """Seconds on the wall, of all cores' work, and of our own."""
    work = 0.0
    if os.path.exists("/proc/stat"):
        with open("/proc/stat") as file:
            user, nice, system, _, _, irq, soft, steal = map(float, file.readline().split()[1:9])
        work = (user + nice + system + irq + soft + steal) * TICK
    return time.monotonic(), work, time.process_time()


def _busy_cores(before: tuple[float, float, float], after: tuple[float, float, float]) -> float:
    """Cores that processes other than this one kept busy between two readings."""
    wall, work, own = (b - a for a, b in zip(before, after, strict=True))
    return max(0.0, work - own) / max(wall, TICK)
