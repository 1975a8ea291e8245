"""A run's numbers, one JSON object a line, in two files that only grow.

`metrics.jsonl` holds what the experiment determines: after a kill and a resume it is the file of an uninterrupted run,
byte for byte. `timings.jsonl` holds wall-clock ones. Every line starts with {"stage": ..., "step": ...}; lines are in
the order of the stages, and of the steps in each. Floats are written with `repr`, so they come back exactly. JSON has
no NaN: it is written as null and read as NaN; infinities are the strings "inf" and "-inf", read as floats.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill.place import Growing, Place

FILES = ("metrics.jsonl", "timings.jsonl")


class Metrics:
    """Writes the lines of a run folder. A context manager; leaving it flushes to the disk and closes.

    A line goes to the system in one write, unbuffered: a killed process loses none, and tears at most the last. Only
    `flush` waits for the disk itself; call it before a checkpoint is saved, so that none is ahead of its lines. In a
    bucket lines are seen, and survive a kill, from the next `flush` on (`distill.place`).
    """

    def __init__(self, folder: Place, *, writes: bool = True):
        """`writes`: whether this process is the one that does; else there is no file, and nothing is written."""
        self._files = [Growing(folder / name) for name in FILES] if writes else []
        for file in self._files:
            file.cut(_whole(file.read()))

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def write(self, stage: str, step: int, **values: Any) -> None:
        """A line of metrics.jsonl: numbers the experiment determines (numpy's and jax's too), strings, lists of them.

        Raises:
            ValueError: a value is none of these; nothing is written.
        """
        self._line(0, stage, step, values)

    def time(self, stage: str, step: int, **values: Any) -> None:
        """A line of timings.jsonl: numbers that depend on the machine and the moment."""
        self._line(1, stage, step, values)

    def cut(self, stage: str, step: int, stages: Sequence[str]) -> int:
        """Takes both files back to where a checkpoint stands: lines of later steps and stages go, and a torn last line.

        Args:
            stage: the stage of the checkpoint.
            step: its step; lines of this step stay. Of a stage that starts anew, -1.
            stages: every stage of the run, in order.

        Returns:
            How many lines went.

        Raises:
            ValueError: a line is not JSON, or of a stage that is not in `stages`.
        """
        order = {name: index for index, name in enumerate(stages)}
        if stage not in order:
            raise ValueError(f"stage {stage!r} is none of the run's stages {list(stages)}; name one of them")
        gone = 0
        for file in self._files:
            lines = file.read().splitlines(keepends=True)
            keep = 0
            for number, line in enumerate(lines):
                row = _parse(file.path, number, line)
                if row["stage"] not in order:
                    raise ValueError(
                        f"{file.path}:{number + 1} is of stage {row['stage']!r}, the run has {list(stages)}; the "
                        "folder is of another experiment: use another"
                    )
                if (order[row["stage"]], row["step"]) > (order[stage], step):
                    gone += len(lines) - number
                    break
                keep += len(line)
            file.cut(keep)
        self.flush()
        return gone

    def flush(self) -> None:
        """Returns when every line is on the disk."""
        for file in self._files:
            file.flush()

    def close(self) -> None:
        """Flushes and closes the files."""
        for file in self._files:
            file.close()

    def _line(self, which: int, stage: str, step: int, values: Mapping[str, Any]) -> None:
        row = {"stage": str(stage), "step": int(step)} | {name: _plain(name, value) for name, value in values.items()}
        if self._files:
            self._files[which].append((json.dumps(row, allow_nan=False) + "\n").encode())


def read(path: Place) -> list[dict[str, Any]]:
    """The lines of a metrics file as dicts, oldest first; a torn last line is left out. No file: no lines.

    Raises:
        ValueError: a line other than the last is not JSON; names it.
    """
    if not path.exists():
        return []
    data = path.read_bytes()
    lines = data[: _whole(data)].splitlines()
    return [{name: _back(value) for name, value in _parse(path, i, line).items()} for i, line in enumerate(lines)]


def _whole(data: bytes) -> int:
    """Bytes up to the end of the last whole line."""
    end = data.rfind(b"\n") + 1
    last = data[data.rfind(b"\n", 0, max(end - 1, 0)) + 1 : end]
    try:
        return end if not last or isinstance(json.loads(last), dict) else end - len(last)
    except ValueError:  # a machine that lost power may leave a last line of zeros
        return end - len(last)


def _parse(path: Place, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if {"stage", "step"} <= row.keys():
            return row
        found = sorted(row)
    except (ValueError, AttributeError):
        found = line[:60]
    raise ValueError(
        f"{path}:{number + 1} is not a line of metrics, an object with stage and step: {found!r}; the file was changed "
        "by hand or the disk is faulty: mend or remove that line"
    )


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, str | bool):
        return value
    if isinstance(value, list | tuple):
        return [_plain(name, one) for one in value]
    try:
        array = np.asarray(value)
    except Exception as error:
        raise ValueError(
            f"{name} is a {type(value).__name__}; a line holds numbers, strings and lists of them"
        ) from error
    if array.ndim and array.dtype != object:
        return [_plain(name, one) for one in array]
    if array.dtype == np.bool_:
        return bool(array)
    if array.dtype != object and np.issubdtype(array.dtype, np.integer):
        return int(array)
    try:
        number = float(array)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is a {type(value).__name__}; a line holds numbers, strings and lists of them"
        ) from error
    if math.isnan(number):
        return None
    return number if math.isfinite(number) else repr(number)


def _back(value: Any) -> Any:
    if isinstance(value, list):
        return [_back(one) for one in value]
    if value is None:
        return math.nan
    return float(value) if value in ("inf", "-inf") else value
