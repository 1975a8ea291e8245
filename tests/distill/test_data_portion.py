"""The rows of each process are those of the batches of all, without overlap or gap, whatever their number."""

import json
from dataclasses import dataclass, field

import jax
import numpy as np
import pytest

from distill.data.loader import Loader
from distill.data.portion import Portion, together
from distill.manifest import with_tuples
from tests.distill.test_data_loader import MANY


@dataclass(frozen=True)
class Watched:
    """A source that remembers which documents were read."""

    read: set = field(default_factory=set)

    def documents(self, split):
        return self

    def manifest(self):
        raise AssertionError("not needed")

    def __len__(self):
        return len(MANY.train)

    def __getitem__(self, index):
        self.read.add(index)
        return MANY.documents("train")[index]


def portion(rows, readers=1, parts=1, source=MANY, size=8):
    loader = Loader(rows=size, length=16, window=8)
    return Portion(lambda reader: loader.batches(source, reader, readers), readers, rows, size, parts)


def rows_of(process, processes, size=8, parts=1):
    """As a mesh over processes has them, in every micro-batch."""
    share, whole = size // parts // processes, size // parts
    return [part * whole + process * share + row for part in range(parts) for row in range(share)]


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_all_rows_of_one_reader_are_the_batches_of_the_loader():
    whole, plain = portion(range(8)), Loader(rows=8, length=16, window=8).batches(MANY)
    for _ in range(5):
        same(next(whole), next(plain))


@pytest.mark.parametrize(("processes", "readers", "parts"), [(2, 1, 1), (4, 1, 2), (2, 2, 2), (4, 4, 2), (2, 4, 1)])
def test_processes_have_the_rows_of_the_same_batches_without_overlap_or_gap(processes, readers, parts):
    whole = portion(range(8), readers, parts)
    mine = [rows_of(process, processes, parts=parts) for process in range(processes)]
    assert sorted(row for rows in mine for row in rows) == [*range(8)]
    each = [portion(rows, readers, parts) for rows in mine]
    for _ in range(3):
        batch = next(whole)
        for rows, part in zip(mine, each, strict=True):
            same(next(part), jax.tree.map(lambda x, rows=rows: x[rows], batch))


def test_with_a_reader_for_each_process_none_reads_what_is_anothers():
    read = []
    for process in range(4):
        source = Watched()
        part = portion(rows_of(process, 4), 4, source=source)
        source.read.clear()  # the look whether the corpus is large enough
        next(part)
        read.append(set(source.read))
    assert all(read) and not any(read[a] & read[b] for a in range(4) for b in range(a))


@pytest.mark.parametrize(("before", "after", "readers"), [(1, 4, 1), (2, 1, 4), (4, 2, 4)])
def test_a_place_that_some_processes_saved_any_number_goes_on_from(before, after, readers):
    whole = portion(range(8), readers)
    olds = [portion(rows_of(process, before), readers) for process in range(before)]
    for _ in range(3):
        for each in (whole, *olds):
            next(each)
    place = with_tuples(together(json.loads(json.dumps([old.get_state() for old in olds]))))
    wanted = [next(whole) for _ in range(2)]
    for process in range(after):
        rows = rows_of(process, after)
        new = portion(rows, readers)
        new.set_state(place)
        for batch in wanted:
            same(next(new), jax.tree.map(lambda x, rows=rows: x[rows], batch))


def test_places_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="different things of where reader 0 stood"):
        together([{"readers": {"0": 1}}, {"readers": {"0": 2, "1": 1}}])
    with pytest.raises(ValueError, match="different things of where they stood"):
        together([{"next": 1}, {"next": 2}])


def test_rows_that_readers_cannot_share_are_refused():
    with pytest.raises(ValueError, match="8 rows in 2 micro-batches cannot be shared by 3 readers; set readers to"):
        portion(range(8), 3, 2)
