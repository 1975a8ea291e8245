"""A step in another process, asked for one at a time.

Two frameworks cannot share one process without sharing threads, allocators and versions, and one after the other is
no comparison on a machine whose speed drifts. So each side lives in a process of its own, which is idle until the
driver writes `step` to it and answers with `seconds loss`; the driver alternates. Standard library only.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


class Line:
    """The worker's end: `begin` waits until a step is asked for, `end` answers how long it took and its loss.

    What libraries print goes to standard error, so that it cannot be taken for an answer.
    """

    def __init__(self, about: dict, steps: int = 0):
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._left = steps
        self._alone = steps > 0
        self._started = 0.0
        self._out.write(json.dumps(about) + "\n")

    def begin(self) -> None:
        """Waits for the driver, then starts the clock; ends the process when there is nothing more to do."""
        if self._alone:
            self._left -= 1
            asked = self._left >= 0
        else:
            asked = sys.stdin.readline().strip() == "step"
        if not asked:
            self._out.flush()
            os._exit(0)  # a trainer that owns the loop has no other way out without saving or logging
        self._started = time.perf_counter()

    def end(self, loss: Callable[[], float]) -> None:
        """Stops the clock once `loss` has been read, which waits for the step to be done."""
        value = loss()
        self._out.write(f"{time.perf_counter() - self._started:.6f} {value:.6f}\n")


def serve(step: Callable[[], float], about: dict, steps: int = 0) -> None:
    """Answers the driver with `step`, which returns its loss once everything it updates is ready. Never returns."""
    line = Line(about, steps)
    while True:
        line.begin()
        loss = step()
        line.end(lambda loss=loss: loss)


@dataclass(frozen=True)
class Took:
    """One step: wall-clock seconds and the loss."""

    seconds: float
    loss: float


class Worker:
    """The driver's end: a module kept alive in a Python of its choice.

    Raises RuntimeError with the end of what the worker printed when it dies.
    """

    def __init__(self, python: Path, module: str, arguments: list[str], environment: dict[str, str], log: Path):
        self.module = module
        self._log = log
        self._process = subprocess.Popen(
            [str(python), "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            bufsize=1,
            env={**os.environ, **environment},
        )
        self.about: dict = json.loads(self._read())

    @property
    def pid(self) -> int:
        """The process's number, to read its clocks by."""
        return self._process.pid

    def step(self) -> Took:
        """Asks for one step and waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        seconds, loss = self._read().split()
        return Took(float(seconds), float(loss))

    def stop(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            self.stop()
            end = "\n".join(self._log.read_text().splitlines()[-8:])
            raise RuntimeError(f"{self.module} stopped before it answered; the end of {self._log.name}:\n{end}")
        return answer
