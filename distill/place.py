"""Where a run's files lie: in a folder of this machine, or in a bucket of Google Cloud Storage (`gs://bucket/run`).

On this machine a file that was written is on the disk, and a folder or file has its name when it is whole. A bucket
knows neither appending nor renaming; there, what holds is this:

- a file is the old one or the new one, whole, and seen by everybody once it is written (the store's own promise);
- a file that grows (`Growing`) is kept beside the process and uploaded whole at every flush: who is killed loses the
  lines since the last one, and those are lines after the last checkpoint, which a resume takes back anyway;
- a folder is filled file by file, and is there once the last of them, its mark, is;
- what is moved is copied and then deleted; a kill in between leaves both.

docs/launching.md says it to users.
"""

import importlib.util
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from etils import epath

from models import disk

Place = Path | epath.Path
"""a file or folder, here or in a bucket"""

BUCKET = "gs://"
MARK = ".whole"
"""the file that is written last into a folder of a bucket"""


def place(path: str | PurePath) -> Place:
    """The file or folder of this name.

    Raises:
      ValueError: it is on a store that is not read here, or what reads buckets is not installed.
    """
    store = re.match(r"(\w+):/+(.*)", str(path))  # pathlib makes one slash of two
    if store is None:
        return Path(path)
    name = f"{store[1]}://{store[2]}"
    if not name.startswith(BUCKET) or not store[2]:
        raise ValueError(f"{name} is neither a folder of this machine nor gs://BUCKET/FOLDER; name one of these")
    _check_installed(name)
    return epath.Path(name)


def _check_installed(name: str) -> None:
    """Refuses a bucket where nothing reads it: at the door, not after an hour of training."""
    if importlib.util.find_spec("tensorflow") is not None:  # then epath reads buckets through it
        return
    import fsspec

    try:
        fsspec.get_filesystem_class("gcs")
    except ImportError as error:
        raise ValueError(
            f"{name} is in a bucket, and gcsfs, which reads it, is not installed ({error}); pip install "
            "'herd-distill[gcs]', or name a folder of this machine"
        ) from error


def far(path: Place) -> bool:
    """Whether it lies in a bucket."""
    return not isinstance(path, Path)


def absolute(path: str | PurePath) -> Place:
    """The file or folder of this name, the same wherever the process goes."""
    found = place(path)
    return found.absolute() if isinstance(found, Path) else found


def write_text(path: Place, text: str) -> None:
    """Writes a file, so that at any moment it is the old one or the new one, whole, and there to stay."""
    if not isinstance(path, Path):
        path.write_bytes(text.encode())
        return
    beside = path.with_name(f".{path.name}.tmp")
    with open(beside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    disk.sync(path.parent)  # the rename too


def write_json(path: Place, value: Any) -> None:
    """Writes `value` as JSON, as `write_text` does."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def move(path: Place, to: Place) -> None:
    """Gives a folder another name; one that has it goes."""
    remove(to)
    path.rename(to)


def remove(path: Place) -> None:
    """Removes a folder, if it is there, with all that is in it."""
    if isinstance(path, Path):
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists():
        path.rmtree()


@contextmanager
def new_folder(path: Place) -> Iterator[Path]:
    """A folder of this machine to fill; it is at `path` when all of it was written, or not at all.

    Raises:
      ValueError: there is something at `path`.
    """
    if isinstance(path, Path):
        with disk.new_folder(path) as beside:
            yield beside
        return
    if there(path):
        raise ValueError(f"{path} is there already; name a folder that is not, or delete it")
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)
        remove(path)  # of an earlier one that did not get its mark
        for file in sorted(one for one in Path(made).rglob("*") if one.is_file()):
            (path / file.relative_to(made).as_posix()).write_bytes(file.read_bytes())
        (path / MARK).write_bytes(b"")


def there(path: Place) -> bool:
    """Whether there is a folder that `new_folder` filled."""
    return path.exists() if isinstance(path, Path) else (path / MARK).exists()


@contextmanager
def near(path: Place) -> Iterator[Path]:
    """A folder that `new_folder` filled, to be read as one of this machine."""
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory() as copy:
        for file in path.iterdir():
            if not file.is_dir():
                (Path(copy) / file.name).write_bytes(file.read_bytes())
        yield Path(copy)


class Growing:
    """A file that grows by lines. Here each is with the system in one unbuffered write; see the module for buckets."""

    def __init__(self, path: Place) -> None:
        self.path, self._changed = path, False
        if isinstance(path, Path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            return
        self._file, name = tempfile.mkstemp()  # as O_EXCL; nobody else needs its name
        os.unlink(name)
        self.append(path.read_bytes() if path.exists() else b"")
        self._changed = False

    def read(self) -> bytes:
        """All of it."""
        return os.pread(self._file, os.fstat(self._file).st_size, 0)

    def append(self, data: bytes) -> None:
        """Adds to its end."""
        self._changed = True
        os.lseek(self._file, 0, os.SEEK_END)
        while data:  # a full disk or a signal may cut a write short
            data = data[os.write(self._file, data) :]

    def cut(self, size: int) -> None:
        """Leaves its first bytes."""
        if size != os.fstat(self._file).st_size:
            self._changed = True
            os.ftruncate(self._file, size)

    def flush(self) -> None:
        """Returns when all of it is where it will survive this process and machine."""
        if isinstance(self.path, Path):
            os.fsync(self._file)
        elif self._changed:
            self.path.write_bytes(self.read())
        self._changed = False

    def close(self) -> None:
        """Flushes, and lets go of it."""
        self.flush()
        os.close(self._file)
