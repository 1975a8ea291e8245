"""Moments at which a process kills itself with -9, for proofs of what survives that. What it runs knows nothing.

Each is arranged by wrapping what the moment lies in, in this process alone: `MOMENTS[name](count)` dies at the
count-th time.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill.rl.journal import Journal
from distill.rl.publisher import Publisher
from distill.rl.record import Event, Record, encode

WRITING, BEFORE, AFTER = "leaves are being written", "before the rename", "after the rename"
HALF = "half a record is written"
TAKEN = "a batch is consumed, not learned from"
COPYING, PUBLISHED = "a version is being copied", "published, nothing drawn with it"
RESTORING = "the journal is cut to a checkpoint"


def die() -> None:
    """Nothing of this process comes after."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def at(holder: Any, name: str, count: int, *, before: bool, when: Callable[..., bool] = lambda *_: True) -> None:
    """Dies before (or after) the count-th call of a function of `holder` of which `when` says that it counts."""
    real, seen = vars(holder)[name], [0]

    def wrapped(*arguments: Any, **named: Any) -> Any:
        counts = when(*arguments)
        seen[0] += counts
        if counts and before and seen[0] == count:
            die()
        found = real(*arguments, **named)
        if counts and not before and seen[0] == count:
            die()
        return found

    setattr(holder, name, wrapped)


def temporary(folder: Path) -> tuple[list[str], list[Path]]:
    """Checkpoints that have no name yet in a stage's folder, and what files of leaves they hold."""
    try:
        begun = sorted(one.name for one in folder.glob("*.orbax-checkpoint-tmp*"))
        return begun, [leaf for name in begun for leaf in (folder / name).glob("*/ocdbt.process_0/d/*")]
    except FileNotFoundError:  # it has got its name
        return [], []


def writing(folder: Path) -> Callable[[int], None]:
    """Dies when `count` files of leaves lie in a checkpoint that has no name yet, those of earlier processes apart."""

    def arrange(count: int) -> None:
        old = {*temporary(folder)[1]}

        def watch() -> None:
            while len({*temporary(folder)[1]} - old) < count:
                time.sleep(0.0005)
            die()

        threading.Thread(target=watch, daemon=True).start()

    return arrange


def _named(source: Any, target: Any) -> bool:
    """Whether a rename gives a checkpoint its name."""
    return Path(target).name.isdigit() and "orbax-checkpoint-tmp" in Path(source).name


def _half(count: int) -> None:
    real, seen = Journal.append, [0]

    def append(journal: Journal, record: Record) -> int:
        seen[0] += record.event is Event.COMPLETED
        if seen[0] < count:
            return real(journal, record)
        data = encode(record)
        os.write(journal._file, data[: len(data) // 2])
        die()
        return 0

    Journal.append = append


def _first_draw(count: int) -> None:
    """`count` publications beyond the first one."""
    at(Publisher, "get", 1, before=True, when=lambda publisher, version, *_: version >= first[0] + count)
    real, first = Publisher.publish, [1 << 30]

    def publish(publisher: Publisher, version: int, weights: Any) -> None:
        first[0] = min(first[0], version)
        real(publisher, version, weights)

    Publisher.publish = publish


MOMENTS: dict[str, Callable[[Path], Callable[[int], None]]] = {
    WRITING: writing,
    BEFORE: lambda _: lambda count: at(os, "rename", count, before=True, when=_named),
    AFTER: lambda _: lambda count: at(os, "rename", count, before=False, when=_named),
    COPYING: lambda _: lambda count: at(Publisher, "copy", count + 1, before=False),
    PUBLISHED: lambda _: _first_draw,
    HALF: lambda _: lambda count: _half(4 * count),
    TAKEN: lambda _: (
        lambda count: at(Journal, "append", count, before=False, when=lambda _, record: record.event is Event.CONSUMED)
    ),
    RESTORING: lambda _: lambda _: at(Journal, "truncate", 1, before=False),
}
"""from the folder of a stage's checkpoints and a count to a process that will die"""
