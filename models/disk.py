"""Disk: folders that are there whole or not at all, and what they are made of."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, beside its place: it gets its name when all of it is on the disk, or goes if filling it fails.

    Raises:
        ValueError: there is something at `folder`.
    """
    check_free(folder)
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    beside.mkdir(parents=True)
    try:
        yield beside
        for path in (*beside.rglob("*"), beside):
            sync(path)
        beside.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def check_free(folder: Path) -> None:
    """Refuses a place that is taken."""
    if folder.exists() or folder.is_symlink():
        raise ValueError(f"{folder} is there already; name a folder that is not, or delete it")


def sync(path: Path) -> None:
    """On the disk, not only in its cache: a rename must not come before what it names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a file of a new folder, as a person would read it."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
