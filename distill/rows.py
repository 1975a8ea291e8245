"""The rows of a teacher-target store, to read at random, and as batches: by any number of processes."""

from dataclasses import dataclass
from typing import Any

from distill.data.loader import Batches
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
