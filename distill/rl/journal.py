"""The journal: what happened to every group, on the disk before the learner acts on it."""

import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from distill.lock import alone
from distill.rl.record import Damaged, Event, Record, encode
from distill.rl.segments import chain, cut_at, new_segment, records, segments, whole_until
from models.disk import sync

ENDS = (Event.CONSUMED, Event.FILTERED, Event.EXPIRED, Event.POISONED)
"""after which nothing happens to a group"""


def folder_of(run: Path, stage: str) -> Path:
    """Where a run keeps the journal of a stage."""
    return run / "journal" / stage


class Journal:
    """An append-only log in a folder of its own, written by one process, and by any of its threads.

    Its files are named by the offset of their first byte in all that was ever written, so an offset stays what it is.
    What a writer that was stopped left half-written at the end is cut off when it is opened; anything else that is not
    a record is damage, and refused with its offset, since groups after it would be lost in silence.

    Args:
        folder: made if it is not there.
        segment: bytes of a file after which the next is begun.
        cut: forget what lies at this offset and after, before anything is read; the way past damage.

    Raises:
        ValueError: another process is at work in it, it is damaged, or holds what is not a journal's.
    """

    def __init__(self, folder: Path, segment: int = 64 << 20, cut: int | None = None) -> None:
        self.folder, self._segment, self._mutex = folder, segment, threading.Lock()
        self._closed = False
        folder.mkdir(parents=True, exist_ok=True)
        self._held = ExitStack()
        self._held.enter_context(alone(folder))
        try:
            if not segments(folder):
                new_segment(folder, 0)
            if cut is not None:
                cut_at(folder, cut)
            self._start, self._path = chain(folder)[-1]
            whole = whole_until(self._path, self._start)
            os.truncate(self._path, whole - self._start)
            sync(self._path)
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        except BaseException:
            self._held.close()
            raise
        self.end = whole
        """the offset behind the last record"""

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def append(self, record: Record) -> int:
        """Adds a record; the offset behind it.

        When a batch is consumed, that and all before it is on the disk when this returns.

        Raises:
            ValueError: the record cannot be written; the journal is closed.
            OSError: the disk is full, or fails; the journal is as it was before.
        """
        data = encode(record)
        with self._mutex:
            self._check_open()
            if self.end > self._start and self.end + len(data) > self._start + self._segment:
                self._rotate()
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(self._file, view) :]
            except OSError:
                os.ftruncate(self._file, self.end - self._start)
                raise
            self.end += len(data)
            if record.event is Event.CONSUMED:
                os.fsync(self._file)
            return self.end

    def sync(self) -> int:
        """Everything is on the disk when this returns; the offset behind it, for a checkpoint to name."""
        with self._mutex:
            self._check_open()
            os.fsync(self._file)
            return self.end

    def read(self, offset: int = 0) -> Iterator[tuple[int, Record]]:
        """Every record from `offset` to the present end, with the offset behind it.

        Raises:
            ValueError: no record begins at `offset`, or one is damaged.
        """
        files, end = chain(self.folder), self.end
        if not 0 <= offset <= end:
            raise ValueError(
                f"offset {offset} does not lie in {self.folder}, which ends at {end}; take the checkpoint that belongs "
                "to this journal"
            )
        for (start, path), stop in zip(files, [*(start for start, _ in files[1:]), end], strict=True):
            if offset < stop:
                yield from records(path, start, max(offset, start), stop)

    def truncate(self, offset: int) -> None:
        """Forgets what lies at `offset` and after: a checkpoint is older than the journal.

        Raises:
            ValueError: no record ends there.
        """
        with self._mutex:
            self._check_open()
            os.close(self._file)
            try:
                cut_at(self.folder, offset)
            finally:
                self._start, self._path = chain(self.folder)[-1]
                self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
                self.end = self._start + self._path.stat().st_size

    def close(self) -> None:
        """Puts everything on the disk and lets go of the folder."""
        with self._mutex:
            if not self._closed:
                self._closed = True
                os.fsync(self._file)
                os.close(self._file)
                self._held.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"{self.folder} is closed; open it again")

    def _rotate(self) -> None:
        """The next file; the last one is on the disk before its successor is there."""
        os.fsync(self._file)
        self._path = new_segment(self.folder, self.end)
        os.close(self._file)
        self._start, self._file = self.end, os.open(self._path, os.O_WRONLY | os.O_APPEND)


def read_records(folder: Path, end: int | None = None) -> Iterator[Record]:
    """Every record of a journal as it is now, in order; it is not opened, and who writes it does not notice.

    What is half-written at its end, by a writer that was stopped or is at it, is left out.

    Args:
        folder: of the journal.
        end: the offset to read to, of a checkpoint; None: as far as there are records.

    Raises:
        ValueError: there is no journal, it is damaged, it ends before `end`, or its run went back to a checkpoint
            while it was read.
    """
    files: list[tuple[int, Path, int]] = []
    try:
        found = chain(folder)
        if not found:
            raise ValueError(f"there is no journal at {folder}; run the stage of reinforcement learning first")
        whole = whole_until(found[-1][1], found[-1][0])
        files = [(*one, stop) for one, (stop, _) in zip(found, [*found[1:], (whole, None)], strict=True)]
        if end is not None and end > whole:
            raise ValueError(
                f"the journal {folder} ends at {whole}, and its checkpoint knows it to {end}; bring back the journal "
                "that belongs to it"
            )
        for start, path, stop in files:
            for _, record in records(path, start, start, stop if end is None else min(stop, end)):
                yield record
    except (Damaged, FileNotFoundError) as error:
        as_it_was = all(path.exists() and path.stat().st_size >= stop - start for start, path, stop in files)
        if isinstance(error, Damaged) and as_it_was:
            raise
        raise ValueError(
            f"the journal {folder} went back to a checkpoint while it was read, as its run was started again; read it "
            "once more"
        ) from error


@dataclass(frozen=True)
class Audit:
    """What the books say of every group."""

    counts: dict[str, int]
    """groups by what last happened to them"""
    lost: tuple[int, ...]
    """admitted, and then never heard of"""
    doubled: tuple[int, ...]
    """came to more than one end"""


def audit(records: Iterable[Record], live: Iterable[int] = ()) -> Audit:
    """Goes through a journal, from its start.

    Args:
        records: in order.
        live: groups that are known to be on their way or ready; only others can be lost.
    """
    last: dict[int, Event] = {}
    ended: set[int] = set()
    doubled: set[int] = set()
    for record in records:
        for uid in record.uids:
            if record.event in ENDS:
                doubled |= ended & {uid}
                ended.add(uid)
            if uid not in ended or record.event in ENDS:
                last[uid] = record.event
    counts = Counter(event.value for event in last.values())
    lost = set(last) - ended - set(live)
    return Audit(
        {event.value: counts[event.value] for event in Event if event is not Event.BEGUN},
        tuple(sorted(lost)),
        tuple(sorted(doubled)),
    )
