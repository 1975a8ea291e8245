"""How far a stage is, on the terminal: a bar for people, a line now and then for log files, or nothing."""

import sys
import time
from io import TextIOBase
from typing import Any


class Progress:
    """The progress of `total` steps, of which `initial` were done before.

        with Progress(total=1000, label="pretrain", initial=200) as bar:
            bar.update(step, loss=2.31, tokens=8192)

    Args:
        total: steps when done.
        label: what is under way.
        initial: steps done before this process started; they do not count towards the speed.
        quiet: print nothing.
        stream: where to print; a bar where it is a terminal, else a plain line every `every` seconds.
        every: seconds between plain lines.
    """

    def __init__(
        self,
        total: int,
        label: str,
        initial: int = 0,
        *,
        quiet: bool = False,
        stream: TextIOBase | None = None,
        every: float = 5.0,
    ):
        self._total, self._label, self._initial, self._quiet, self._every = total, label, initial, quiet, every
        self._stream: Any = sys.stderr if stream is None else stream
        self._step, self._tokens, self._loss = initial, 0, ""
        self._start = self._printed = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Progress":
        self._start = self._printed = time.monotonic()
        if not self._quiet and self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[say]}"),
            )
            self._bar = Bar(*columns, console=Console(file=self._stream), refresh_per_second=5)
            self._task = self._bar.add_task(self._label, total=self._total, completed=self._initial, say="")
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self._step, say=self._say())
            self._bar.stop()
        elif not self._quiet and self._step > self._initial:
            self._print()

    def update(self, step: int, *, loss: float | None = None, tokens: int = 0) -> None:
        """`step` steps are done; the last loss in nats (None: as before), and tokens seen since the last update.

        Asking for the number of a loss waits for the device; pass it only where it has been fetched anyway.
        """
        self._step, self._tokens = step, self._tokens + tokens
        if loss is not None:
            self._loss = f"loss {loss:.4f}"
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=step, say=self._say())
        elif time.monotonic() - self._printed >= self._every:
            self._print()

    def _print(self) -> None:
        self._printed = time.monotonic()
        print(f"{self._label}: {self._step}/{self._total} {self._say()}".rstrip(), file=self._stream, flush=True)

    def _say(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        done = self._step - self._initial
        parts = [self._loss] if self._loss else []
        if self._tokens:
            parts.append(f"{self._tokens / seconds:,.0f} tokens/s")
        if done > 0:
            parts.append(f"{clock((self._total - self._step) * seconds / done)} left")
        return ", ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss from an hour up."""
    minutes, second = divmod(round(max(seconds, 0)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
