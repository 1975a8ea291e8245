"""Questions that share rows: which, where, in which order, and that each is learned as if it were alone."""

import json
from dataclasses import dataclass, replace

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill import loop
from distill.curriculum.pacing import Pacing
from distill.data.batch import Batch
from distill.data.loader import Loader
from distill.data.manifest import Count, Manifest
from distill.data.packing import shared
from distill.launch import run_experiment
from distill.manifest import with_tuples
from distill.rollout import FromTeacher
from distill.step import Step
from losses import Constant, Distill, NoGate
from models.config import Layer
from models.execution import Execution
from models.tokenizer import Bytes
from tests.distill.small import MOE, QUIET, assert_close, experiment, interrupt, learner, stage, states

BEGIN, END, PAD = Bytes().begin, Bytes().end, Bytes().pad
LABELS = Distill(alpha=Constant(0.0), gate=NoGate())
# Chunks shorter than many of the questions, and both kinds of layer.
SMALL = replace(MOE, vocab=272, chunk=4)


@dataclass(frozen=True)
class Asked:
    """A source in memory: strings of the digits of a number, of 1 to 9 letters, and how many they are."""

    plain: bool = False
    images: bool = False

    def documents(self, split):
        """Sixty and nine of them."""
        found = [chr(97 + n % 26) * (1 + n * n % 9) + str(n) for n in range(60 if split == "train" else 9)]
        rest = [{} if self.plain else {"answer": str(len(one)).encode()} for one in found]
        seen = {"images": np.zeros((1, 4, 4, 3), np.uint8)} if self.images else {}
        return [
            {"text": one.encode(), "domain": "odd" if len(one) % 2 else "even", **more, **seen}
            for one, more in zip(found, rest, strict=True)
        ]

    def manifest(self):
        """Counts."""
        counts = {"even": Count(20), "odd": Count(20)}
        splits = {"train": counts, "held_out": counts}
        return Manifest(name="asked", hash="asked", sha256="asked", basis="nothing", splits=splits)


def loader(**fields):
    return Loader(**{"rows": 4, "length": 40, "packed": True} | fields)


def take(stream, count):
    return [next(stream) for _ in range(count)]


def assert_same(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def questions(batches):
    """Of every question in the order of rows: its tokens, those of them that are labels, and its positions."""
    found = []
    for batch in batches:
        for row in range(len(batch.tokens)):
            for segment in range(1, batch.segments[row].max(initial=0) + 1):
                here = batch.segments[row] == segment
                tokens = [*batch.tokens[row][here], batch.labels[row][here][-1]]  # the last is a label only
                learned = batch.labels[row][here & batch.mask[row]]
                found.append((tokens[: tokens.index(END) + 1], learned.tolist(), batch.positions[row][here].tolist()))
    return found


def written(split="train"):
    """The same of the corpus, by hand."""
    return [([BEGIN, *one["text"], *one["answer"], END], [*one["answer"], END]) for one in Asked().documents(split)]


# Rows


def test_two_questions_share_a_row_by_hand():
    row = {"tokens": np.array([BEGIN, 97, 98, END]), "answer": np.array([False, False, True, True])}

    packed = next(iter(shared(grain.MapDataset.source([row, row]), 10, ("tokens", "answer"), 1)))
    batch = Batch.of_rows({name: x[None] for name, x in packed.items()}, PAD)
    assert batch.tokens.tolist() == [[BEGIN, 97, 98, END, BEGIN, 97, 98, END, PAD]]
    assert batch.labels.tolist() == [[97, 98, END, BEGIN, 97, 98, END, PAD, PAD]]
    assert batch.mask.tolist() == [[False, True, True, False, False, True, True, False, False]]
    assert batch.segments.tolist() == [[1, 1, 1, 1, 2, 2, 2, 2, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 0]]


def test_every_question_is_whole_and_its_answer_alone_is_learned():
    found = questions(take(loader().batches(Asked()), 8))
    known = written()
    assert len(found) > 60 and all((tokens, learned) in known for tokens, learned, _ in found)
    assert all(positions == list(range(len(positions))) for *_, positions in found)


def test_packed_rows_hold_more_questions_and_less_padding():
    one, other = (next(loader(packed=packed, rows=16).batches(Asked())) for packed in (True, False))
    shares = [float(np.mean(batch.segments == 0)) for batch in (one, other)]
    assert shares[0] < 0.15 < 0.6 < shares[1]


def test_a_question_knows_its_domain_in_a_shared_row():
    batch = next(loader(domains=("even", "odd")).batches(Asked()))
    starts = np.argwhere((batch.positions == 0) & (batch.segments > 0))
    for row, place in starts:
        here = batch.segments[row] == batch.segments[row, place]
        size = int(bytes(batch.labels[row][here & batch.mask[row]][:-1].tolist()))
        assert set(batch.domains[row][here]) == {size % 2}


# Order


@pytest.mark.parametrize("steps", [0, 1, 6])
def test_a_restored_iterator_goes_on_with_the_next_batch(steps):
    stream, fresh = loader().batches(Asked()), loader().batches(Asked())
    take(stream, steps)
    state = json.loads(json.dumps(stream.get_state()))  # as a checkpoint keeps it
    fresh.set_state(with_tuples(state))
    assert_same(take(fresh, 5), take(stream, 5))


@pytest.mark.parametrize("processes", [1, 2])
def test_batches_are_the_next_questions_of_a_process_and_processes_share_an_epoch(processes):
    epoch = []
    for process in range(processes):
        alone = loader(packed=False, rows=processes).batches(Asked(), process, processes)
        order = [tokens for tokens, *_ in questions(take(alone, 60 // processes + 40))]
        epoch += order[: 60 // processes]
        for batch in take(loader(rows=2 * processes).batches(Asked(), process, processes), 8):
            found = [tokens for tokens, *_ in questions([batch])]
            assert len(batch.tokens) == 2 and sorted(found) == sorted(order[: len(found)])
            order = order[len(found) :]
    assert sorted(epoch) == sorted(tokens for tokens, _ in written())


def test_held_out_questions_come_once_whatever_the_seed():
    batches = loader().held_out_batches(Asked(), 9)
    assert sorted((tokens, learned) for tokens, learned, _ in questions(batches)) == sorted(written("held_out"))
    assert_same(batches, loader(seed=5).held_out_batches(Asked(), 9))
    parts = [loader().held_out_batches(Asked(), 1, process, 2)[0] for process in range(2)]
    assert_same(jax.tree.map(lambda *x: np.concatenate(x), *parts), batches[0])


# What is learned


def test_loss_gradient_and_routing_of_shared_rows_are_those_of_a_row_each():
    one = learner(model=SMALL, loss=LABELS, router=QUIET)
    (state,), step = states(one), Step((one,), 10, Execution())
    (packed,), (single,) = (loader(rows=9, packed=way).held_out_batches(Asked(), 9) for way in (True, False))
    assert (packed.segments > 0).any(1).sum() == 2 and (single.segments > 0).any(1).sum() == 9
    slope = jax.jit(lambda batch: step.slope(one, state, None, batch))
    shared, alone = (slope(jax.tree.map(jnp.asarray, batch)) for batch in (packed, single))
    assert float(shared.metrics["loss"].count) == float(alone.metrics["loss"].count) == packed.mask.sum()
    assert_close(shared.metrics["loss"].total, alone.metrics["loss"].total, 1e-6)
    assert_close(shared.gradient, alone.gradient)
    np.testing.assert_array_equal(shared.load, alone.load)


# Errors


@pytest.mark.parametrize(
    ("source", "fields", "message"),
    [
        (Asked(), {"length": 9}, r"a document with an answer has \d+ tokens, a row 9 and one label; it is not cut"),
        (Asked(plain=True), {}, "packed is for questions with answers, and documents of text share rows anyway"),
        (Asked(images=True), {}, "has images, and their questions are rows by themselves"),
    ],
)
def test_what_cannot_share_rows_is_refused(source, fields, message):
    with pytest.raises(ValueError, match=message):
        next(loader(**fields).batches(source))
    with pytest.raises(ValueError, match=message):
        loader(**fields).held_out_batches(source, 1)


def run():
    """A student of packed rows."""
    settings = {"steps": 3, "rows": 4, "length": 40, "save_every": 3, "log_every": 1, "packed": True}
    student = learner(model=replace(SMALL, layers=1, pattern=(Layer(rope=True, moe=False),)), loss=LABELS)
    return experiment(stages=(stage(student, name="tune", **settings),), corpus=Asked())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "teacher", "rollout": FromTeacher()}, "a rollout completes one prompt a row"),
        ({"teacher": "teacher", "pacing": Pacing(by="teacher")}, "a pacing counts one question a row"),
    ],
)
def test_a_stage_that_needs_a_question_a_row_is_refused_at_the_door(changes, message):
    teach = stage(learner("teacher", model=SMALL), name="teach")
    tune = stage(learner(model=SMALL, loss=LABELS), name="tune", packed=True, **changes)
    with pytest.raises(ValueError, match=f"stage 'tune': packed rows have several questions, and .*{message}"):
        experiment(stages=(teach, tune), corpus=Asked())


# Through a run


def test_a_packed_run_that_is_stopped_goes_on_to_the_same_numbers(tmp_path, monkeypatch):
    run_experiment(run(), tmp_path / "whole", quiet=True)
    interrupt(monkeypatch, "tune", 2)
    with pytest.raises(loop.Interrupted, match="stopped in stage tune after step 2 of 3"):
        run_experiment(run(), tmp_path / "cut", quiet=True)
    monkeypatch.undo()
    run_experiment(run(), tmp_path / "cut", quiet=True)
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
