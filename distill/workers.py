"""Processes on this machine, each on cores of its own."""

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

Task = TypeVar("Task")

PARENT = "HERD_PARENT"
"""in the environment of a trial's process: the number of the process that started it"""
PDEATHSIG = 1
"""of prctl: the signal that a process gets when its parent dies"""


class Workers(Generic[Task]):
    """So many processes at a time; when the block ends, those still at work are told to save and stop.

    The block begins when nobody else works in the folder: neither another command nor, if one was killed, its
    processes, which still save.

    Args:
      folder: in which they work.
      count: of processes at a time; as many as there are cores, if None. They share the cores evenly.
    """

    def __init__(self, folder: Path, count: int | None = None) -> None:
        cores = sorted(os.sched_getaffinity(0))
        count = len(cores) if count is None else count
        if count < 1:
            raise ValueError(f"workers is {count}; it must be at least 1 trial at a time")
        self._folder = folder
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
        ours = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self._cores[slot])  # a process begins on the cores of the one that starts it
        try:
            with open(log, "ab") as file:
                process = subprocess.Popen(
                    command,
                    stdout=file,
                    stderr=file,
                    env=os.environ | {PARENT: str(os.getpid())},
                    start_new_session=True,
                    pass_fds=(self._lock,),  # so that the folder is taken until the last of them is gone
                )
        finally:
            os.sched_setaffinity(0, ours)
        self._running[slot] = task, process

    def ended(self) -> Iterator[tuple[Task, int]]:
        """Those that have ended since the last look, with their exit codes."""
        for slot, (task, process) in list(self._running.items()):
            if process.poll() is not None:
                del self._running[slot]
                yield task, process.returncode

    def __enter__(self) -> "Workers[Task]":
        """Itself, once the folder is free."""
        self._lock = _taken(self._folder)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Tells all to save and stop, then waits for them."""
        for _, process in self._running.values():
            process.terminate()
        for _, process in self._running.values():
            process.wait()
        os.close(self._lock)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else begins trials in the folder until the block ends; it begins when they are gone."""
    lock = _taken(folder)
    try:
        yield
    finally:
        os.close(lock)


def _taken(folder: Path) -> int:
    """The folder's lock, held as long as this file descriptor, or a process that has inherited it, is there."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / ".workers", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"{folder}: another command, or what it began, is at work; waiting", file=sys.stderr)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def follow() -> None:
    """For a process that runs a trial: it is told to save and stop when its parent is gone, however it went (Linux).

    It does not hear that a job's time is up, which may be said to all of a job: its parent does, and tells it.
    """
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    parent, prctl = os.environ.get(PARENT), getattr(ctypes.CDLL(None), "prctl", None)
    if parent is None or prctl is None:
        return
    prctl(PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit("its parent is gone")
