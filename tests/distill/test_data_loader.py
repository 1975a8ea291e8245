import json
from dataclasses import dataclass

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from distill.data.batch import Batch
from distill.data.loader import Loader
from distill.data.manifest import Manifest
from distill.manifest import with_tuples
from models.tokenizer import Bytes

BEGIN, END, PAD = Bytes().begin, Bytes().end, Bytes().pad


@dataclass(frozen=True)
class Texts:
    """A source in memory."""

    train: tuple[bytes, ...] = ()
    held_out: tuple[bytes, ...] = ()

    def documents(self, split):
        return [{"text": text, "domain": "text"} for text in vars(self)[split]]

    def manifest(self) -> Manifest:
        raise AssertionError("not needed")


# Every document is one byte value, 1 to 199, as often as it says.
MANY = Texts(train=tuple(bytes([i]) * (i % 7 + 3) for i in range(1, 200)), held_out=(b"abc", b"de", b"fghi"))


def loader(**fields):
    return Loader(**{"rows": 4, "length": 16, "window": 8} | fields)


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def as_read(batches):
    """All tokens in order; the last one of a row is a label only."""
    return np.concatenate(
        [np.append(row, last) for b in batches for row, last in zip(b.tokens, b.labels[:, -1], strict=True)]
    )


def opened(batches):
    """The first byte of every document, in order."""
    read = as_read(batches)
    return read[1:][read[:-1] == BEGIN].tolist()


def assert_same(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_a_document_of_pieces_has_the_tokens_of_its_text_and_each_pieces_domain():
    one = {"text": b"abcde", "domain": "x", "pieces": [("x", 2), ("y", 3)]}
    row = loader(domains=("x", "y"))._tokenise(one)
    np.testing.assert_array_equal(row["tokens"], Bytes().document(b"abcde"))
    assert row["domains"].tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert list(loader()._tokenise(one)) == ["tokens"]
    with pytest.raises(ValueError, match="the pieces of a document have 4 bytes, its text 5"):
        loader()._tokenise(one | {"pieces": [("x", 2), ("y", 2)]})


# Rows by hand: <abc> is one document and <de> the other.


@pytest.fixture
def row():
    """Two documents in one row of 9: BEGIN a b c END | BEGIN d e END."""
    documents = Texts(held_out=(b"abc", b"de")).documents("held_out")
    rows = next(iter(loader(length=8)._rows(grain.MapDataset.source(documents), documents[0], 1)))
    return Batch.of_rows({name: x[None] for name, x in rows.items()}, PAD)


def test_two_short_documents_share_a_row(row):
    a, b, c, d, e = b"abcde"
    assert row.tokens.tolist() == [[BEGIN, a, b, c, END, BEGIN, d, e]]
    assert row.labels.tolist() == [[a, b, c, END, BEGIN, d, e, END]]
    assert row.segments.tolist() == [[1, 1, 1, 1, 1, 2, 2, 2]]
    assert row.positions.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]


def test_the_label_after_a_documents_end_does_not_count(row):
    assert row.mask.tolist() == [[True, True, True, True, False, True, True, True]]


def test_the_layout_is_that_of_packed_documents(row):
    layout = jax.tree.map(jax.numpy.asarray, row).layout()
    assert layout.segments.tolist() == row.segments.tolist() and layout.positions.tolist() == row.positions.tolist()
    assert not layout.aligned


def test_a_document_goes_on_in_the_next_row_with_positions_from_0():
    (batch,) = loader(rows=2, length=4).held_out_batches(Texts(held_out=(b"abcdefg",)), 9)
    a, b, c, d, e, f, g = b"abcdefg"
    assert batch.tokens.tolist() == [[BEGIN, a, b, c], [e, f, g, END]]
    assert batch.labels.tolist() == [[a, b, c, d], [f, g, END, PAD]]
    assert batch.mask.tolist() == [[True] * 4, [True, True, True, False]]
    assert batch.positions.tolist() == [[0, 1, 2, 3]] * 2 and batch.segments.tolist() == [[1] * 4] * 2


def test_padding_has_segment_0_the_pad_token_and_no_labels():
    (batch,) = loader(rows=3, length=8).held_out_batches(Texts(held_out=(b"ab",)), 1)
    assert batch.tokens.tolist() == [[BEGIN, *b"ab", END] + [PAD] * 4] + [[PAD] * 8] * 2
    assert batch.segments.tolist() == [[1] * 4 + [0] * 4] + [[0] * 8] * 2
    assert batch.mask.sum() == 3


def test_labels_are_tokens_shifted_by_one():
    for batch in take(loader().batches(MANY), 5):
        np.testing.assert_array_equal(batch.labels[:, :-1], batch.tokens[:, 1:])
        inside = batch.mask[:, :-1]
        np.testing.assert_array_equal(inside, batch.segments[:, :-1] == batch.segments[:, 1:])
        np.testing.assert_array_equal((batch.positions[:, 1:] == batch.positions[:, :-1] + 1)[inside], True)


def test_shapes_and_dtypes():
    batch = next(loader().batches(MANY))
    assert {x.shape for x in jax.tree.leaves(batch)} == {(4, 16)}
    assert batch.mask.dtype == bool and {x.dtype for x in jax.tree.leaves(batch) if x.dtype != bool} == {
        np.dtype(np.int32)
    }


def test_a_batch_is_a_pytree():
    batch = next(loader().batches(MANY))
    assert_same(jax.jit(lambda x: x)(batch), batch)
    assert jax.tree.map(lambda x: None, batch) is not None


# The order


def test_the_same_loader_gives_the_same_batches():
    assert_same(take(loader().batches(MANY), 20), take(loader().batches(MANY), 20))


@pytest.mark.parametrize("window", [1, 200])
def test_another_seed_gives_another_order_of_documents_and_of_rows(window):
    first, second = (next(loader(seed=seed, window=window).batches(MANY)) for seed in (0, 1))
    assert (first.tokens != second.tokens).any()


def test_every_epoch_has_another_order_of_the_same_documents():
    stream = loader(rows=1, length=16, window=1).batches(MANY)
    found = opened(take(stream, 300))
    first, second = found[:199], found[199:398]
    assert sorted(first) == sorted(second) == list(range(1, 200)) and first != second


def test_rows_of_a_batch_come_from_different_documents():
    long = Texts(train=tuple(bytes([i]) * 1700 for i in range(40)))
    batch = next(Loader(rows=16, length=16, window=1024).batches(long))
    assert len(set(batch.tokens[:, 1].tolist())) > 4
    assert len(set(next(Loader(rows=16, length=16, window=1).batches(long)).tokens[:, 1].tolist())) == 1


@pytest.mark.parametrize("steps", [0, 1, 2, 7, 50])
def test_a_restored_iterator_goes_on_with_the_next_batch(steps):
    stream, fresh = loader().batches(MANY), loader().batches(MANY)
    take(stream, steps)
    state = json.loads(json.dumps(stream.get_state()))  # as a checkpoint keeps it
    expected = take(stream, 5)
    fresh.set_state(with_tuples(state))
    assert_same(take(fresh, 5), expected)


def test_an_orbax_checkpoint_holds_the_iterators_place(tmp_path):
    stream, fresh = loader().batches(MANY), loader().batches(MANY)
    take(stream, 13)
    weights = {"w": np.arange(3.0)}
    with ocp.CheckpointManager(tmp_path) as manager:
        save = ocp.args.Composite(model=ocp.args.StandardSave(weights), data=grain.checkpoint.CheckpointSave(stream))
        manager.save(13, args=save)
        manager.wait_until_finished()
    expected = take(stream, 5)
    with ocp.CheckpointManager(tmp_path) as manager:
        restore = ocp.args.Composite(
            model=ocp.args.StandardRestore(weights), data=grain.checkpoint.CheckpointRestore(fresh)
        )
        manager.restore(13, args=restore)
    assert_same(take(fresh, 5), expected)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_every_epoch_without_overlap_or_gap(processes):
    streams = [loader(rows=processes, window=1).batches(MANY, process, processes) for process in range(processes)]
    epoch = [len(range(process, 199, processes)) for process in range(processes)]
    parts = [opened(take(stream, 300 // processes))[:count] for stream, count in zip(streams, epoch, strict=True)]
    assert sorted(sum(parts, [])) == list(range(1, 200))


def test_a_process_gets_its_share_of_the_rows():
    assert next(loader().batches(MANY, 1, 2)).tokens.shape == (2, 16)


# Held-out batches


def test_held_out_batches_are_the_same_for_every_seed_and_window():
    assert_same(loader().held_out_batches(MANY, 3), loader(seed=5, window=1).held_out_batches(MANY, 3))


def test_held_out_batches_hold_every_document_once():
    read = (
        Bytes()
        .decode(as_read(loader(rows=2, length=4).held_out_batches(MANY, 99)))
        .replace("<|finetune_right_pad|>", "")
    )
    documents = read.replace("<|begin_of_text|>", "").split("<|end_of_text|>")
    assert sorted(documents) == ["", "abc", "de", "fghi"]


def test_few_held_out_batches_are_the_first_of_many():
    small = loader(rows=1, length=4)
    assert_same(small.held_out_batches(MANY, 2), small.held_out_batches(MANY, 4)[:2])


def test_processes_get_the_rows_of_the_same_held_out_batches():
    (whole,) = loader(rows=4, length=4).held_out_batches(MANY, 1)
    parts = [loader(rows=4, length=4).held_out_batches(MANY, 1, i, 2)[0] for i in range(2)]
    assert_same(jax.tree.map(lambda *x: np.concatenate(x), *parts), whole)


# Errors


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"length": 1}, "length is 1; a row needs at least 2 tokens"),
        ({"rows": 0}, "rows is 0; it must be at least 1"),
        ({"window": 0}, "window is 0; it must be at least 1"),
        ({"seed": -1}, "seed is -1; it must be 0 to 2147483647"),
        ({"seed": 2**31}, "seed is 2147483648; it must be 0 to 2147483647"),
    ],
)
def test_a_loader_of_nothing_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        loader(**fields)


def test_a_corpus_smaller_than_a_row_is_refused():
    with pytest.raises(
        ValueError, match="train split has 5 tokens in 1 documents; at least 17 are needed: bring more text"
    ):
        loader().batches(Texts(train=(b"abc",)))


def test_a_corpus_smaller_than_a_row_for_every_process_is_refused():
    with pytest.raises(ValueError, match="at least 34 are needed"):
        loader().batches(Texts(train=(b"a" * 20,)), 0, 2)


def test_an_empty_split_is_refused():
    with pytest.raises(ValueError, match="held_out split has 0 tokens in 0 documents"):
        loader().held_out_batches(Texts(), 1)


def test_no_held_out_batches_is_refused():
    with pytest.raises(ValueError, match="held-out batches: asked for 0; it must be at least 1"):
        loader().held_out_batches(MANY, 0)


def test_rows_that_processes_cannot_share_are_refused():
    with pytest.raises(ValueError, match="4 rows cannot be shared by 3 processes; set rows to a multiple of 3"):
        loader().batches(MANY, 0, 3)


def test_a_process_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="process is 2 of 2; it must be 0 to 1"):
        loader().batches(MANY, 2, 2)
