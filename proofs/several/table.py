"""Rows of figures with what they must be, and how far two runs are apart."""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from distill.metrics import read
from distill.run import load_run

CLOSE = 2e-5
"""the largest difference of a figure, as a share of it where it is more than 1"""


class Table:
    """Rows of figures with what they must be."""

    def __init__(self) -> None:
        self.good, self.began = True, time.monotonic()
        print(f"{'what':78} {'found':>10} {'must be':>10} {'seconds':>8}", flush=True)

    def row(self, what: str, found: float, must: Callable[[float], bool], said: str) -> None:
        """One more, with the seconds since the last."""
        good, now = must(found), time.monotonic()
        self.good &= good
        print(f"{what:78} {found:10.3g} {said:>10} {now - self.began:8.1f}{'' if good else '   FAILED'}", flush=True)
        self.began = now

    def close(self, what: str, found: float) -> None:
        """A difference that must be small."""
        self.row(what, found, lambda x: x <= CLOSE, f"<= {CLOSE:g}")

    def none(self, what: str, found: float) -> None:
        """A number that must be 0."""
        self.row(what, found, lambda x: x == 0, "0")

    def yes(self, what: str, found: bool) -> None:
        """Something that must be."""
        self.row(what, float(found), lambda x: x == 1.0, "1")


def distance(one: Path, other: Path) -> float:
    """The largest difference between the lines and the figures of two runs; infinite where one lacks something."""
    left, right = read(one / "metrics.jsonl"), read(other / "metrics.jsonl")
    left += load_run(one).results["models"]
    right += load_run(other).results["models"]
    worst = 0.0 if len(left) == len(right) else float("inf")
    for a, b in zip(left, right, strict=False):
        if a.keys() != b.keys() or [a[name] for name in ("stage", "step") if name in a] != [
            b[name] for name in ("stage", "step") if name in b
        ]:
            return float("inf")
        for name in a.keys() - {"seconds"}:
            if isinstance(a[name], float):
                worst = max(worst, abs(a[name] - b[name]) / max(1.0, abs(a[name])))
    return worst


def same(one: Path, other: Path) -> bool:
    """Whether two runs have the same lines, byte for byte."""
    return (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


def prove(what: str | None, *parts: Callable[[Path, Table], None]) -> None:
    """The command line of a proof: all of its parts, or some; exit code 1 where a row is not what it must be."""
    named = {part.__name__: part for part in parts}
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*named, []], help="of it; all, if none is named")
    parser.add_argument("--folder", type=Path, help="in which the runs stay; else they go")
    asked, began = parser.parse_args(), time.monotonic()
    with tempfile.TemporaryDirectory() as where:
        root, table = asked.folder or Path(where), Table()
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{root.absolute()}/compiled")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
        for part in asked.parts or named:
            named[part](root, table)
        print(json.dumps({"good": table.good, "seconds": round(time.monotonic() - began)}))
    sys.exit(0 if table.good else 1)
