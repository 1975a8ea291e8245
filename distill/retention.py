"""Which checkpoints stay on disk, how much room they take, and whether the disk has it."""

import errno
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from distill.place import Place, absolute


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Which checkpoints of a stage stay: the newest `last`, the `best` ones by score (lower is better), and every one
    whose step is a multiple of `every` (None: no such). The newest always stays.

    Raises:
        ValueError: last < 1, best < 0 or every < 1.
    """

    last: int = 2
    best: int = 1
    every: int | None = None

    def __post_init__(self):
        if self.last < 1:
            raise ValueError(f"Retention.last is {self.last}; it must be at least 1: a run resumes from the newest")
        if self.best < 0:
            raise ValueError(f"Retention.best is {self.best}; it must be 0 (keep none for its score) or more")
        if self.every is not None and self.every < 1:
            raise ValueError(f"Retention.every is {self.every}; it must be a number of steps, or None for no such")

    def keep(self, scores: Mapping[int, float | None]) -> set[int]:
        """The steps that stay, of a mapping from step to score; a score of None or NaN is never the best."""
        steps = sorted(scores)
        scored = [(score, step) for step, score in scores.items() if score is not None and not math.isnan(score)]
        best = {step for _, step in sorted(scored)[: self.best]}
        every = {step for step in steps if self.every is not None and step % self.every == 0}
        return set(steps[-self.last :]) | best | every

    def most(self, steps: int) -> int:
        """The most checkpoints on disk at once in a stage of `steps` steps, the one being written included."""
        return self.last + self.best + (0 if self.every is None else steps // self.every) + 1


@dataclass(frozen=True)
class Preservation:
    """A Retention in the form orbax asks for (its PreservationPolicy), with the scores by step."""

    retention: Retention
    scores: dict[int, float | None] = field(default_factory=dict)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Which of the checkpoints on disk, and the one about to be, stay once that one is whole."""
        keep = self.retention.keep({info.step: self.scores.get(info.step) for info in checkpoints})
        return [info.step in keep for info in checkpoints]


def estimate(trees: Any, retention: Retention, steps: int) -> int:
    """Bytes on disk that the checkpoints of a stage need at most, from the shapes in `trees` (arrays or abstract ones).

    An upper bound but for some kilobytes of names: orbax compresses what can be compressed.
    """
    leaves = jax.tree.leaves(trees)
    return retention.most(steps) * sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves)


def check_space(folder: Place, needed: int) -> None:
    """Refuses to start when the disk under `folder` cannot hold `needed` bytes; what `folder` holds already counts.
    A bucket has room.

    Raises:
        OSError: (ENOSPC) naming the bytes needed and free.
    """
    folder = absolute(folder)
    if not isinstance(folder, Path):
        return
    present = sum(
        file.stat().st_size
        for file in folder.rglob("*")
        if file.is_file() and not any(p.endswith((".damaged", ".aside")) for p in file.relative_to(folder).parts)
    )
    standing = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(standing).free
    if needed - present > free:
        raise OSError(
            errno.ENOSPC,
            f"the checkpoints in {folder} need {needed - present:,} more bytes, but {free:,} are free on that disk; "
            "free some, put the run on another disk (--run), or keep fewer (Retention: last, best, every)",
        )


def disk_full(error: BaseException) -> bool:
    """Whether `error`, or one that caused it, says that the disk (or the user's share of it) is full.

    tensorstore and orbax wrap the system's error in their own and keep its text alone.
    """
    seen = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, OSError) and current.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if any(text in str(current) for text in ("No space left on device", "Disk quota exceeded", "File too large")):
            return True
        if isinstance(current, BaseExceptionGroup) and any(disk_full(part) for part in current.exceptions):
            return True
        current = current.__cause__ or current.__context__
    return False
