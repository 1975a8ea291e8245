"""How a stage of reinforcement learning goes, while it does: a table for people, a line now and then for log files."""

import sys
import time
from collections import Counter, deque
from collections.abc import Mapping
from io import TextIOBase
from typing import Any

import numpy as np

from distill.progress import clock
from distill.standing import rank

WINDOW = 8
"""updates that a number is the mean of, and that its trend compares with those before: one update's groups are few"""
SPARKS = "▁▂▃▄▅▆▇█"
NOTICED = 0.05
"""of reward, below which it neither rises nor falls"""
PAUSE = 0.2
"""seconds between two drawings of the table, at least"""


class View:
    """The progress of `total` updates, of which `initial` were done before; used as `Progress` is.

        with View(total=100, label="rl", initial=20) as view:
            view.update(step, metrics, timings)

    On a terminal: how it goes (age of the groups, queue, tokens a second, who waits, what failed), and the reward by
    task and level with its trend. Elsewhere a plain line every `every` seconds.

    Args:
        total, label, initial, quiet, stream, every: as of `Progress`.
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
        self._step = initial
        self._past: dict[str, deque[float]] = {}
        self._lags: Counter[int] = Counter()
        self._last: dict[str, float] = {}
        self._start = self._shown = time.monotonic()
        self._live: Any = None

    def __enter__(self) -> "View":
        self._start = self._shown = time.monotonic()
        if not self._quiet and self._stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(self._table(), console=Console(file=self._stream, markup=False), auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            self._live.stop()
        elif not self._quiet and self._step > self._initial:
            self._print()

    def update(self, step: int, metrics: Mapping[str, Any], timings: Mapping[str, Any]) -> None:
        """`step` updates are done; what the lines of metrics.jsonl and timings.jsonl say of the last.

        Whatever they lack is not shown. Passing numbers that are still on the device would wait for it.
        """
        self._step = step
        for name, value in {**metrics, **timings}.items():
            if isinstance(value, int | float) and np.isfinite(value):
                self._last[name] = float(value)
                self._past.setdefault(name, deque(maxlen=2 * WINDOW)).append(float(value))
                if name.startswith("lag/"):
                    self._lags[int(name[4:])] += int(value)
        if self._quiet:
            return
        now = time.monotonic()
        if self._live is not None and now - self._shown >= PAUSE:
            self._shown = now
            self._live.update(self._table(), refresh=True)
        elif self._live is None and now - self._shown >= self._every:
            self._print()

    def _print(self) -> None:
        self._shown = time.monotonic()
        said = [f"{name} {text}" for name, text in self._facts()]
        print(f"{self._label}: {self._step}/{self._total} {', '.join(said)}", file=self._stream, flush=True)

    def _facts(self) -> list[tuple[str, str]]:
        """What is known beside the rewards of cells: names and words."""
        rows = (
            ("reward", self._say("{:.3f}", "reward")),
            ("lag", self._say("{:.2f}", "lag") + self._spread()),
            ("queue", self._say("{:.0f} ready", "ready") + self._say(", {:.0f} under way", "under_way")),
            ("sampler", self._speed("actor")),
            ("learner", self._speed("learner")),
            ("answers", self._say("{:.1f} tokens", "length") + self._say(", {:.0%} all right", "all_right")
             + self._say(", {:.0%} all wrong", "all_wrong")),
            ("entropy", self._say("{:.3f}", *(name for name in self._past if name.endswith("/entropy")))),
            ("faults", self._faults()),
            ("time", self._left()),
        )  # fmt: skip
        return [(name, text) for name, text in rows if text]

    def _table(self) -> Any:
        """The whole of it, for a terminal."""
        from rich import box
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        head = Table.grid(padding=(0, 1))
        head.add_row(self._label, ProgressBar(total=self._total, completed=self._step, width=30),
                     f"{self._step}/{self._total}")  # fmt: skip
        facts = Table.grid(padding=(0, 1))
        facts.add_column(style="dim")
        for name, text in self._facts():
            facts.add_row(name, text)
        cells = [name.removeprefix("reward/").rpartition("/") for name in self._past if name.startswith("reward/")]
        levels = sorted({level for _, _, level in cells}, key=rank)
        rewards = Table("reward", *(f"level {level}" for level in levels), box=box.SIMPLE_HEAD, pad_edge=False)
        for task in sorted({task for task, _, _ in cells}):
            rewards.add_row(task, *(self._trend(f"reward/{task}/{level}", len(levels) < 4) for level in levels))
        return Group(head, facts, *([rewards] if cells else []))

    def _trend(self, name: str, spark: bool) -> str:
        """The mean of the last values, whether it grew, and the values."""
        past = [*self._past.get(name, ())]
        if not past:
            return ""
        new, old = past[-WINDOW:], past[:-WINDOW] or past[: len(past) // 2] or past
        change = float(np.mean(new) - np.mean(old))
        arrow = "→" if abs(change) < NOTICED else "↗" if change > 0 else "↘"
        line = "".join(SPARKS[min(int(max(value, 0.0) * len(SPARKS)), len(SPARKS) - 1)] for value in new)
        return f"{np.mean(new):.2f} {arrow}" + (f" {line}" if spark else "")

    def _say(self, form: str, *names: str) -> str:
        """The mean of the last values of the first of these that is known, in words; else nothing."""
        found = next((self._past[name] for name in names if name in self._past), None)
        return "" if found is None else form.format(np.mean([*found][-WINDOW:]))

    def _speed(self, who: str) -> str:
        parts = self._say("{:,.0f} tokens/s", f"{who}_tokens_per_second"), self._say("{:.0%} idle", f"{who}_idle")
        return ", ".join(part for part in parts if part)

    def _spread(self) -> str:
        """The shares of groups at each lag, since the start."""
        total = sum(self._lags.values())
        shares = [f"{count / total:.0%}" for _, count in sorted(self._lags.items())] if total else []
        return f" ({' '.join(shares)} at 0 to {max(self._lags)})" if shares else ""

    def _faults(self) -> str:
        """How many of each kind, as last counted."""
        found = {name.partition("/")[2]: count for name, count in self._last.items() if name.startswith("faults/")}
        kinds = [f"{count:.0f} {name.replace('_', ' ')}" for name, count in found.items() if count]
        return ", ".join(kinds) or ("none" if found else "")

    def _left(self) -> str:
        done, seconds = self._step - self._initial, time.monotonic() - self._start
        return f"{clock((self._total - self._step) * seconds / done)} left" if done > 0 else ""
