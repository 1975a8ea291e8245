"""A grading process as whoever started it sees it: it answers in time, or is killed with all that it started."""

import contextlib
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

GRADER = str(Path(__file__).with_name("grader.py"))
"""run by its path: as a module of the package it would import the package, and jax"""
LONGEST, REASON = 1 << 20, 500
"""bytes of an answer, and characters of a reason, at most"""


@dataclass(frozen=True)
class Failed:
    """There is no reward, and why: the sample is masked. It is not a reward of 0."""

    reason: str
    died: bool = field(default=False, compare=False)
    """whether its process died under it: by the reward's fault, or because somebody killed it"""


class Ward:
    """A process that outlives this one by a moment, however this one ends, and kills what was left at work."""

    def __init__(self) -> None:
        self._mutex, self._groups = threading.Lock(), set[int]()
        self._process = _start(["--ward"])

    def note(self, sign: str, group: int) -> None:
        """ "+": a group of processes began; "-": it is gone."""
        with self._mutex:
            self._groups = self._groups | {group} if sign == "+" else self._groups - {group}
            if self._said(f"{sign}{group}\n"):
                return
            self.close()  # somebody killed it: another one watches
            self._process = _start(["--ward"])
            self._said("".join(f"+{one}\n" for one in self._groups))

    def close(self) -> None:
        """Nothing is left to be watched."""
        _close(self._process)
        self._process.wait()

    def _said(self, lines: str) -> bool:
        assert self._process.stdin
        try:
            return os.write(self._process.stdin.fileno(), lines.encode()) >= 0
        except BrokenPipeError:
            return False


class Examiner:
    """One grading process, begun anew when it had to be killed. For one thread at a time; any may `stop` it."""

    def __init__(self, where: str, parameters: Mapping[str, Any], ward: Ward, timeout: float, patience: float) -> None:
        self._command = [
            where,
            json.dumps(dict(parameters), allow_nan=False),
            *(folder or os.getcwd() for folder in sys.path),
        ]
        self._ward, self._timeout, self._patience = ward, timeout, patience
        self._process: subprocess.Popen[bytes] | None = None
        self._mutex, self._stopped = threading.Lock(), False
        self._heard, self._count = b"", 0

    def start(self) -> Failed | None:
        """Starts the process, if it is not there; why it cannot grade, if so."""
        with self._mutex:
            if self._stopped:
                return Failed("was stopped")
            if self._process is not None:
                return None
            self._process, self._heard = _start(self._command), b""
            self._ward.note("+", self._process.pid)
        answer = self._ask(self._process, {"id": None}, b"", self._patience)
        if isinstance(answer, Failed):
            self.kill()
            return replace(answer, reason=f"could not start: {answer.reason}")
        return None

    def grade(self, question: Mapping[str, Any], answer: str) -> float | Failed:
        """The reward, which is finite, or why there is none; soon after the timeout, whatever the reward does."""
        failed = self.start()
        if failed or self._process is None:
            return failed or Failed("was stopped")
        self._count += 1
        asked = {"id": self._count, "question": dict(question), "answer": answer}
        said = self._ask(self._process, asked, json.dumps(asked).encode() + b"\n", self._timeout)
        return said if isinstance(said, Failed) else float(said["reward"])

    def stop(self) -> None:
        """Whoever waits for the process hears at once that it died, and none is started any more."""
        with self._mutex:
            self._stopped = True
            self._signal()

    def kill(self) -> str:
        """Kills the process and all of its group; how it ended."""
        with self._mutex:
            process = self._process
            if process is None:
                return "was stopped"
            self._signal()
            self._process, code = None, process.wait()
            self._ward.note("-", process.pid)
            _close(process)
            return f"died of signal {-code}" if code < 0 else f"died with exit code {code}"

    def _signal(self) -> None:
        """To the group of a process that nobody has waited for yet, so that no other can have its number."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _ask(
        self, process: subprocess.Popen[bytes], asked: Mapping[str, Any], request: bytes, timeout: float
    ) -> dict[str, Any] | Failed:
        """What it answers to a request; if that is nothing, it is killed."""
        deadline = time.monotonic() + timeout
        try:
            said = json.loads(self._exchange(process, request, deadline))
            if said["id"] != asked["id"]:
                raise ValueError("an answer to something else")
            if "failed" in said:
                return Failed(str(said["failed"])[:REASON])
            if "answer" in asked and not math.isfinite(said["reward"]):
                raise ValueError("a grader sends what is finite")
            return said
        except TimeoutError:
            self.kill()
            return Failed(f"gave no answer in {timeout:g} seconds")
        except (EOFError, OSError):
            return Failed(self.kill(), died=True)
        except (KeyError, TypeError, ValueError):
            self.kill()
            return Failed("wrote into the pipe of the answers")

    def _exchange(self, process: subprocess.Popen[bytes], request: bytes, deadline: float) -> bytes:
        """Writes a request and reads a line; neither waits for a process that does not read or write.

        Raises:
            TimeoutError, EOFError, OSError, ValueError: the deadline is over, the process is gone, or says too much.
        """
        assert process.stdin and process.stdout
        left = memoryview(request)
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if left:
                selector.register(process.stdin, selectors.EVENT_WRITE)
            while b"\n" not in self._heard:
                events = selector.select(max(0.0, deadline - time.monotonic()))
                if not events:
                    raise TimeoutError
                for key, _ in events:
                    if key.fileobj is process.stdin:
                        left = left[os.write(process.stdin.fileno(), left) :]
                        if not left:
                            selector.unregister(process.stdin)
                    else:
                        heard = os.read(process.stdout.fileno(), 1 << 16)
                        if not heard:
                            raise EOFError
                        self._heard += heard
                if len(self._heard) > LONGEST:
                    raise ValueError
        line, _, self._heard = self._heard.partition(b"\n")
        return line


def _start(arguments: list[str]) -> subprocess.Popen[bytes]:
    """A grader in a session of its own: a group to kill, which Ctrl-C does not reach."""
    # -P: what lies beside grader.py is not for the reward to import.
    command = [sys.executable, "-P", GRADER, *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, bufsize=0
    )
    assert process.stdin
    os.set_blocking(process.stdin.fileno(), arguments == ["--ward"])
    return process


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        assert pipe
        with contextlib.suppress(OSError):
            pipe.close()
