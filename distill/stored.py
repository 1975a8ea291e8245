"""A teacher-target store: what a teacher said of the rows of a data set, so that students need no teacher in memory.

    manifest.json                  whose words of which rows these are, and their form
    p000-00000.array_record        rows of process 0 of those that captured, in order
    p000-00000.json                how many batches that is, its sha256, and where the data iterator stood after it

A shard is there when its json is: that is written last, by a rename. Each json carries a digest of itself. See
`distill.store`.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from distill.targets import Form
from models.disk import sync, write_json

SCHEMA = 3
MANIFEST = "manifest.json"
GROUP = 8
"""rows that are compressed together"""


@dataclass(frozen=True, kw_only=True)
class About:
    """Whose words of which rows a store holds. Stores of equal `About` hold the same, but for a machine's rounding."""

    teacher: str
    """fingerprint of its weights and configuration"""
    computed: str
    """dtype of the teacher's forward pass"""
    tokenizer: str
    data: str
    """hash of the corpus"""
    documents: int | None
    """of the corpus, drawn by the seed, that the rows are of; None: all"""
    packed: bool = False
    """whether questions share rows"""
    order: str
    """what decides which rows of it come in which order"""
    change: str
    """what became of the rows before they were captured, such as noise in their labels"""
    form: Form
    rows: int
    """of a captured batch, over all processes"""
    batches: int
    processes: int
    """that captured"""
    shard: int
    """batches of a shard"""
    temperature: float = 1.0
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        for name in ("rows", "batches", "processes", "shard"):
            if vars(self)[name] < 1:
                raise ValueError(f"{name} is {vars(self)[name]}; a store needs at least 1")
        if self.rows % self.processes:
            raise ValueError(
                f"{self.rows} rows cannot be shared by {self.processes} processes; capture with a number that "
                f"divides {self.rows}"
            )

    def check(self, **wanted: Any) -> None:
        """Refuses what is not as wanted, by name.

        Raises:
            ValueError: a field differs.
        """
        bad = [f"{n} is {vars(self)[n]!r}, wanted {value!r}" for n, value in wanted.items() if vars(self)[n] != value]
        if bad:
            raise ValueError(f"the store is another's: {'; '.join(bad)}; capture one, or name the right one")


@dataclass(frozen=True)
class Shard:
    """A whole shard."""

    path: Path
    process: int
    number: int
    batches: int
    size: int
    """bytes"""
    sha256: str
    state: dict[str, Any]
    """of the data iterator after its last row"""


@dataclass(frozen=True)
class Store:
    """A store on disk."""

    folder: Path

    @cached_property
    def about(self) -> About:
        """Its manifest.

        Raises:
            ValueError: there is none, or it is not one that this version reads.
        """
        try:
            found = _read(self.folder / MANIFEST)
            if found.get("schema") != SCHEMA:
                raise ValueError(f"schema {found.get('schema')!r}, this version reads {SCHEMA}")
            found["form"] = Form(**found["form"])
            return About(**found)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.folder} is not a teacher-target store: {error}") from error

    @property
    def size(self) -> int:
        """On disk, with all that describes it."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    @contextmanager
    def writing(self, about: About, process: int) -> Iterator[None]:
        """Holds a process's part, to write shards into it; writes the manifest, or finds the same one there.

        Raises:
            ValueError: the folder holds another store, or something else; or another process writes this part.
        """
        if not 0 <= process < about.processes:
            raise ValueError(f"process is {process} of {about.processes}; it must be 0 to {about.processes - 1}")
        listed = {path.name for path in self.folder.iterdir()} if self.folder.exists() else set()
        if not (self.folder / MANIFEST).exists() and any(name[0] != "." for name in listed):
            raise ValueError(f"{self.folder} is not empty, and no store; name a new folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        with _held(self.folder / f".p{process:03d}.lock", wait=False):
            with _held(self.folder / ".lock", wait=True):
                if not (self.folder / MANIFEST).exists():
                    _place(self.folder / MANIFEST, asdict(about))
            self.about.check(**vars(about))
            yield

    def shards(self, process: int) -> list[Shard]:
        """The whole shards of a process that captured, in order; some may be missing between them.

        Raises:
            ValueError: one is damaged, as far as its size and its json tell.
        """
        found: list[Shard] = []
        for number in range(-(-self.about.batches // self.about.shard)):
            path = self._name(process, number)
            if not (note := path.with_suffix(".json")).exists():
                continue
            try:
                shard = Shard(path, process, number, **_read(note))
                if path.stat().st_size != shard.size:
                    raise ValueError(f"{path.stat().st_size} bytes, {shard.size} were written")
            except (OSError, TypeError, ValueError) as error:
                raise ValueError(f"{damaged(path)} ({error})") from error
            found.append(shard)
        return found

    def missing(self) -> int:
        """Batches that are not captured yet, by the process that lacks most."""
        return max(
            self.about.batches - sum(shard.batches for shard in self.shards(process))
            for process in range(self.about.processes)
        )

    def write(self, process: int, number: int, records: list[bytes], batches: int, state: dict[str, Any]) -> None:
        """A shard: its rows under another name, onto the disk, then its name, then the note that makes it whole."""
        from array_record.python.array_record_module import ArrayRecordWriter

        path = self._name(process, number)
        note, beside = path.with_suffix(".json"), _beside(path)
        note.unlink(missing_ok=True)  # of a shard that was damaged: it must not vouch for this one
        beside.unlink(missing_ok=True)
        writer = ArrayRecordWriter(str(beside), f"group_size:{GROUP},zstd:3")
        for record in records:
            writer.write(record)
        writer.close()
        sync(beside)
        os.replace(beside, path)
        size = path.stat().st_size
        _place(note, {"batches": batches, "size": size, "sha256": digest(path), "state": state})

    def _name(self, process: int, number: int) -> Path:
        return self.folder / f"p{process:03d}-{number:05d}.array_record"


def digest(path: Path) -> str:
    """sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged(path: Path) -> str:
    """What to do about a shard."""
    return f"{path} is damaged: delete it and its json, and capture it again"


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _place(path: Path, value: dict[str, Any]) -> None:
    """A json file with a digest of itself, whole or not there."""
    beside, plain = _beside(path), json.loads(json.dumps(value))  # as it will be read: no tuples, names are strings
    write_json(beside, plain | {"digest": _digest(plain)})
    sync(beside)
    os.replace(beside, path)
    sync(path.parent)


def _read(path: Path) -> dict[str, Any]:
    """What `_place` wrote. Raises ValueError or OSError."""
    found = json.loads(path.read_text())
    if not isinstance(found, dict) or found.pop("digest", None) != _digest(found):
        raise ValueError(f"{path.name} was changed: its digest does not match")
    return found


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextmanager
def _held(path: Path, wait: bool) -> Iterator[None]:
    """A lock; the system lets go of it when the process ends, however it ends."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise ValueError(f"{path} is held by another process, which captures this part; wait for it") from error
        yield
