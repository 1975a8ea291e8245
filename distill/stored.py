"""A teacher-target store: what a teacher said of the rows of a data set, so that students need no teacher in memory.

    manifest.json                  whose words of which rows these are, and their form
    p000-00000.array_record        rows of process 0 of those that captured, in order
    p000-00000.json                how many batches that is, its sha256, and where the data iterator stood after it

A shard is there when its json is: that is written last, by a rename. See `distill.store`.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from distill.data.loader import Batches
from distill.fingerprint import fingerprint
from distill.items import named_leaves
from distill.state import Weights
from distill.targets import Form
from models.disk import sync, write_json

SCHEMA = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class About:
    """Whose words of which rows a store holds. Two stores of equal `About` hold the same."""

    teacher: str
    """fingerprint of its weights and configuration"""
    tokenizer: str
    data: str
    """hash of the corpus"""
    order: str
    """what decides which rows of it come in which order"""
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
            found = json.loads((self.folder / MANIFEST).read_text())
            if found.get("schema") != SCHEMA:
                raise ValueError(f"schema {found.get('schema')!r}, this version reads {SCHEMA}")
            return About(**(found | {"form": Form(**found["form"])}))
        except (OSError, AttributeError, KeyError, TypeError, json.JSONDecodeError, ValueError) as error:
            raise ValueError(f"{self.folder} is not a teacher-target store: {error}") from error

    def begin(self, about: About) -> None:
        """Writes the manifest, or finds the same one there.

        Raises:
            ValueError: the folder holds another store, or something else.
        """
        if (self.folder / MANIFEST).exists():
            self.about.check(**vars(about))
            return
        if self.folder.exists() and any(".partial" not in path.name for path in self.folder.iterdir()):
            raise ValueError(f"{self.folder} is not empty, and no store; name a new folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        _place(self.folder / MANIFEST, asdict(about))

    def shards(self, process: int) -> list[Shard]:
        """The whole shards of a process that captured, in order, up to the first that is missing."""
        found: list[Shard] = []
        while (note := self._name(process, len(found)).with_suffix(".json")).exists():
            path = note.with_suffix(".array_record")
            found.append(Shard(path, process, len(found), **json.loads(note.read_text())))
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
        beside = path.with_suffix(".partial")
        beside.unlink(missing_ok=True)
        writer = ArrayRecordWriter(str(beside), "group_size:8,zstd:3")
        for record in records:
            writer.write(record)
        writer.close()
        sync(beside)
        os.replace(beside, path)
        _place(path.with_suffix(".json"), {"batches": batches, "sha256": digest(path), "state": state})

    def _name(self, process: int, number: int) -> Path:
        return self.folder / f"p{process:03d}-{number:05d}.array_record"


class Rows:
    """Random access to the rows of a whole store, in the order in which batches were captured.

    Raises:
        ValueError: rows are missing, or a shard is damaged (told when it is first read).
    """

    def __init__(self, store: Store):
        """Looks at what there is; reads nothing yet."""
        self.about = store.about
        if store.missing():
            raise ValueError(
                f"{store.folder} lacks {store.missing()} of its {self.about.batches} batches; the same `capture` "
                "command goes on where it was"
            )
        self._shards = {(s.process, s.number): s for p in range(self.about.processes) for s in store.shards(p)}
        self._readers: dict[tuple[int, int], Any] = {}

    def __len__(self) -> int:
        return self.about.rows * self.about.batches

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The arrays of a row."""
        batch, row = divmod(index, self.about.rows)
        process, place = divmod(row, self.about.rows // self.about.processes)
        number, inside = divmod(batch, self.about.shard)
        share = self.about.rows // self.about.processes
        raw = self._reader(process, number).read([inside * share + place])[0]
        return self.about.form.unpack(raw)

    def _reader(self, process: int, number: int) -> Any:
        from array_record.python.array_record_module import ArrayRecordReader

        if (process, number) not in self._readers:
            shard = self._shards[process, number]
            if digest(shard.path) != shard.sha256:
                raise ValueError(f"{shard.path} is damaged: delete it and its json, and capture it again")
            self._readers[process, number] = ArrayRecordReader(str(shard.path))
        return self._readers[process, number]


@dataclass(frozen=True)
class Share:
    """The rows that one of several processes reads, of batches of `size` rows."""

    rows: Rows
    size: int
    process: int
    processes: int

    def __len__(self) -> int:
        return len(self.rows) // self.size * self.size // self.processes

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The arrays of a row."""
        share = self.size // self.processes
        batch, place = divmod(index, share)
        return self.rows[batch * self.size + self.process * share + place]


def stored_batches(rows: Rows, size: int, process: int = 0, processes: int = 1) -> Batches:
    """Batches of `size` rows of a store with their targets, read ahead in a thread; they end where the store does.

    Raises:
        ValueError: rows cannot be shared among the processes.
    """
    import grain

    if size % processes:
        raise ValueError(f"{size} rows cannot be shared by {processes} processes; set rows to a multiple of it")
    mine = grain.MapDataset.source(Share(rows, size, process, processes))
    ahead = mine.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4 * size))
    return iter(ahead.batch(size // processes, drop_remainder=True, batch_fn=rows.about.form.batch))


def identify(weights: Weights) -> str:
    """12 hex digits that change with a model's configuration or its weights."""
    found = {"config": repr(weights.model.config), "weights": fingerprint(named_leaves(weights))}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:12]


def digest(path: Path) -> str:
    """sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _place(path: Path, value: dict[str, Any]) -> None:
    """A json file, whole or not there."""
    beside = path.with_suffix(".partial.json")
    write_json(beside, value)
    sync(beside)
    os.replace(beside, path)
    sync(path.parent)
