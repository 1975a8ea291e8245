"""Starts the processes of a run, and starts them all again from the last checkpoint when one of them is gone.

    python -m distill.supervise --processes 2 -- python experiments/herd.py --mesh.data 2     on this machine
    srun python -m distill.supervise -- python experiments/herd.py --mesh.data 16             in every task, or pod

The second form starts one process, which finds the others as it would without (`distill.cluster`). When one is gone the
others stop by themselves, within the heartbeat; every supervisor then starts its own again, and they join anew.

Exit codes are those of the command: 0, it is finished; 75 or 130, it was told to stop, and saved, so that the same
command goes on. Anything else is a failure that restarts did not get over.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from distill.cluster import COORDINATOR, HEARTBEAT, NOTICED, PROCESS, PROCESSES, PROGRESS, USAGE
from distill.workers import PDEATHSIG

SAVED = (NOTICED, 130)
"""codes of a process that was told to stop, and saved"""
LOOK = 0.1
"""seconds between looks at the processes"""
WORDS = 15
"""last lines of a process that are shown when it has failed"""


FOLLOW = f"""
import ctypes, os, sys
prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl is not None:
    prctl({PDEATHSIG}, {int(signal.SIGTERM)})
try:
    os.execvp(sys.argv[1], sys.argv[1:])
except OSError as error:
    print(f"supervise: {{sys.argv[1]}}: {{error.strerror}}", file=sys.stderr)
    sys.exit({USAGE})
"""
"""asks for a signal when its parent is gone, and becomes the command"""


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """How processes are watched over."""

    processes: int = 1
    """to start on this machine, told of each other; 1: alone, or with others that it finds by its surroundings"""
    restarts: int = 5
    """in a row without a new checkpoint between them, after which it gives up"""
    pause: float = 1.0
    """seconds before a restart; twice as long each time that nothing was gained, up to a minute"""
    grace: float = 10.0
    """seconds from SIGTERM to SIGKILL for those left when one has failed: JAX keeps SIGTERM from ending them"""
    notice: float = 120.0
    """seconds to save in, when this supervisor, or one of its processes, is told to stop"""
    heartbeat: int | None = None
    """seconds without a sign of life after which processes take another for dead; None: as the environment has it"""

    def __post_init__(self) -> None:
        for name, least in (("processes", 1), ("restarts", 0), ("pause", 0), ("grace", 0), ("notice", 0)):
            if not vars(self)[name] >= least:  # what is no number is nothing to wait for
                raise ValueError(f"--{name} is {vars(self)[name]}; it must be at least {least}")
        if self.heartbeat is not None and self.heartbeat < 1:
            raise ValueError(f"--heartbeat is {self.heartbeat}; it must be at least 1 second")

    def wait(self, idle: int) -> float:
        """Seconds before the restart after so many failures in a row between which nothing was gained."""
        return min(self.pause * 2.0 ** min(max(idle - 1, 0), 30), 60.0)


class Supervisor:
    """Runs a command in its processes until it is finished, told to stop, or beyond help."""

    def __init__(self, command: Sequence[str], asked: Supervision) -> None:
        if not command:
            raise ValueError("there is no command; put it behind --, as in -- python experiments/herd.py")
        self._command, self._asked = list(command), asked
        self._told = 0
        self._seen: set[str] = set()

    def run(self) -> int:
        """The exit code."""
        old = {each: signal.signal(each, self._hear) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            with tempfile.TemporaryDirectory() as folder:
                return self._go_on(Path(folder))
        finally:
            for each, handler in old.items():
                signal.signal(each, handler)

    def _hear(self, number: int, frame: object) -> None:
        self._told += 1

    def _go_on(self, folder: Path) -> int:
        idle = 0
        while True:
            began = time.monotonic()
            who, code = _Attempt(self._command, self._asked, folder).watch(lambda: self._told)
            if code == 0 or code in SAVED or self._told:
                return code if code >= 0 else 128 - code
            idle = 0 if self._gained(folder) else idle + 1
            how = signal.Signals(-code).name if code < 0 else f"code {code}"
            said = f"process {who} of {self._asked.processes} ended with {how} after {time.monotonic() - began:.0f} s"
            if code == USAGE or idle > self._asked.restarts:
                why = "its command line is refused" if code == USAGE else f"{idle} times without a new checkpoint"
                _say(f"{said}; {why}: giving up")
                return code if code >= 0 else 128 - code
            _say(f"{said}; all start again from the last checkpoint")
            end = time.monotonic() + self._asked.wait(idle)
            while time.monotonic() < end and not self._told:
                time.sleep(min(LOOK, self._asked.pause))

    def _gained(self, folder: Path) -> bool:
        """Whether there is a checkpoint that was not there at the failure before. Saving it anew is no gain."""
        with suppress(FileNotFoundError):
            found = (folder / "progress").read_text()
            new = found not in self._seen
            self._seen.add(found)
            return new
        return False


class _Attempt:
    """The processes of a command, from their start to the end of the last."""

    def __init__(self, command: list[str], asked: Supervision, folder: Path) -> None:
        self._asked, self._logs = asked, [folder / f"process-{number}.log" for number in range(asked.processes)]
        known = os.environ | {PROGRESS: str(folder / "progress")}
        if asked.heartbeat is not None:
            known[HEARTBEAT] = str(asked.heartbeat)
        if asked.processes > 1:
            known |= {COORDINATOR: f"localhost:{free_port()}", PROCESSES: str(asked.processes)}
        self._processes: list[subprocess.Popen[bytes]] = []
        for number, log in enumerate(self._logs):
            own = known | ({PROCESS: str(number)} if asked.processes > 1 else {})
            with open(log, "wb") as file:
                self._processes.append(_start(command, own, file if number else None))
        self._deadline: float | None = None

    def watch(self, told: Callable[[], int]) -> tuple[int, int]:
        """Who decided how it ended, and with which code: the first that failed, else one that saved, else the first."""
        failed: tuple[int, int] | None = None
        heard = 0
        while True:
            codes = [process.poll() for process in self._processes]
            if failed is None:
                failed = next(
                    ((n, c) for n, c in enumerate(codes) if c is not None and c != 0 and c not in SAVED), None
                )
                if failed is not None:
                    self._show(*failed)
                    self._end(self._asked.grace)
            if heard < told():
                heard = told()
                self._end(self._asked.notice if heard == 1 else 0.0)
            if any(code in SAVED for code in codes) and self._deadline is None:
                self._deadline = time.monotonic() + self._asked.notice
            if None not in codes:
                break
            if self._deadline is not None and time.monotonic() > self._deadline:
                for process in self._processes:
                    process.kill()
            time.sleep(LOOK)
        ended = [(number, process.returncode) for number, process in enumerate(self._processes)]
        return failed or next(((n, c) for n, c in ended if c in SAVED), ended[0])

    def _end(self, seconds: float) -> None:
        """Asks all to end, and gives them so long."""
        for process in self._processes:
            process.terminate()
        self._deadline = time.monotonic() + seconds

    def _show(self, number: int, code: int) -> None:
        """The last words of a process that are not on the terminal anyway."""
        if number:
            for line in self._logs[number].read_text(errors="replace").splitlines()[-WORDS:]:
                print(f"[{number}] {line}", file=sys.stderr)


def _start(command: list[str], known: dict[str, str], log: IO[bytes] | None) -> "subprocess.Popen[bytes]":
    """A process that hears of Ctrl-C from its supervisor alone, and saves and stops when that is gone (Linux)."""
    # Not by preexec_fn: JAX, where it is loaded, warns of every fork that runs Python.
    following = [sys.executable, "-I", "-S", "-c", FOLLOW, *command]
    return subprocess.Popen(following, env=known, stdout=log, stderr=log, start_new_session=True)


def free_port() -> int:
    """A port of this machine that nobody listens at, as of now."""
    with socket.socket() as found:
        found.bind(("", 0))
        return found.getsockname()[1]


def _say(line: str) -> None:
    print(f"supervise: {line}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Options, `--`, and the command."""
    import tyro

    given = list(arguments)
    cut = given.index("--") if "--" in given else len(given)
    try:
        supervisor = Supervisor(given[cut + 1 :], tyro.cli(Supervision, args=given[:cut], description=__doc__))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
