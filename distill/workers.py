"""Processes on this machine, each on cores of its own."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

Task = TypeVar("Task")

PDEATHSIG = 1
"""of prctl: the signal that a process gets when its parent dies"""


class Workers(Generic[Task]):
    """So many processes at a time; when the block ends, those still at work are told to save and stop.

    Args:
      count: of processes at a time; as many as there are cores, if None. They share the cores evenly.
    """

    def __init__(self, count: int | None = None) -> None:
        cores = sorted(os.sched_getaffinity(0))
        count = len(cores) if count is None else count
        if count < 1:
            raise ValueError(f"workers is {count}; it must be at least 1 trial at a time")
        self._cores = [cores[slot::count] or cores for slot in range(count)]
        self._running: dict[int, tuple[Task, subprocess.Popen]] = {}

    @property
    def free(self) -> bool:
        """Whether one more may start."""
        return len(self._running) < len(self._cores)

    @property
    def running(self) -> list[Task]:
        """What is at work."""
        return [task for task, _ in self._running.values()]

    def start(self, task: Task, command: Sequence[str], log: Path) -> None:
        """Starts the process of a task; what it prints is added to `log`."""
        slot = next(slot for slot in range(len(self._cores)) if slot not in self._running)
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=file, preexec_fn=lambda: _settle(self._cores[slot]), start_new_session=True
            )
        self._running[slot] = task, process

    def ended(self) -> Iterator[tuple[Task, int]]:
        """Those that have ended since the last look, with their exit codes."""
        for slot, (task, process) in list(self._running.items()):
            if process.poll() is not None:
                del self._running[slot]
                yield task, process.returncode

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Tells all to save and stop, then waits for them."""
        for _, process in self._running.values():
            process.terminate()
        for _, process in self._running.values():
            process.wait()


def _settle(cores: Sequence[int]) -> None:
    """On its cores; told to save and stop when the process that started it is gone, however it went (Linux)."""
    os.sched_setaffinity(0, cores)
    ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGTERM)
