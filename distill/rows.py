"""The rows of a teacher-target store, to read at random, and as batches: by any number of processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from distill.data.batch import Batch
from distill.stored import Store, damaged, digest

OPEN = 64
"""shards that a reader keeps open, at least; more where more processes captured, as a batch is in a shard of each"""


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
        self._checked: set[tuple[int, int]] = set()

    def check(self) -> None:
        """Holds every shard against its sha256, which reading does at the first row of each.

        Raises:
            ValueError: one is damaged.
        """
        for key in self._shards:
            self._check(key)

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

        key = (process, number)
        if key not in self._readers:
            self._check(key)
            while len(self._readers) >= max(OPEN, 2 * self.about.processes):
                self._readers.pop(next(iter(self._readers))).close()
            self._readers[key] = ArrayRecordReader(str(self._shards[key].path))
        return self._readers[key]

    def _check(self, key: tuple[int, int]) -> None:
        shard = self._shards[key]
        if key not in self._checked and digest(shard.path) != shard.sha256:
            raise ValueError(f"{damaged(shard.path)} (its sha256 differs)")
        self._checked.add(key)


@dataclass(frozen=True)
class Share:
    """Some rows of every batch of `size` rows, from a batch on."""

    rows: Rows
    size: int
    wanted: Sequence[int]
    start: int = 0

    def __len__(self) -> int:
        return max(len(self.rows) // self.size - self.start, 0) * len(self.wanted)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The arrays of a row."""
        batch, place = divmod(index, len(self.wanted))
        return self.rows[(self.start + batch) * self.size + self.wanted[place]]


class StoredBatches:
    """Batches of `size` rows of a store with their targets, read ahead in a thread; they end where the store does.

    The place in them is the number of the next batch, whoever reads which rows.

    Args:
        rows: of the store.
        size: rows of a batch.
        wanted: numbers of the rows of each batch that are read here; None: all.
    """

    def __init__(self, rows: Rows, size: int, wanted: Sequence[int] | None = None):
        self._rows, self._size = rows, size
        self._wanted = range(size) if wanted is None else wanted
        self._go(0)

    def __iter__(self) -> Iterator[Batch]:
        """Itself."""
        return self

    def __next__(self) -> Batch:
        """The next batch."""
        batch = next(self._ahead)
        self._next += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """The place."""
        return {"batch": self._next}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a place."""
        self._go(state["batch"])

    def _go(self, batch: int) -> None:
        import grain

        self._next = batch
        mine = grain.MapDataset.source(Share(self._rows, self._size, self._wanted, batch))
        ahead = mine.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4 * self._size))
        form = self._rows.about.form
        self._ahead: Iterator[Batch] = iter(ahead.batch(len(self._wanted), drop_remainder=True, batch_fn=form.batch))
