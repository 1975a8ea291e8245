"""A paced stage of a run: what is measured, what is read, and that it goes on where it was."""

import shutil
import threading
from dataclasses import dataclass, replace

import numpy as np
import pytest

from distill import ordering
from distill.ceiling import Ceiling
from distill.curriculum.filter import DropEasiest, Filter, RandomShare
from distill.curriculum.pacing import Pacing
from distill.curriculum.reducible import Reducible
from distill.curriculum.sampler import Rising, Uniform
from distill.curriculum.selection import Selection
from distill.data.loader import Loader
from distill.data.source import Folder
from distill.launch import run_experiment
from distill.mesh import Mesh
from distill.metrics import Metrics
from distill.reading import describe_order, stage_loader
from distill.room import Room
from distill.run import Run, load_run
from distill.tasks.small import Small
from distill.tasks.source import Questions
from models.execution import Execution
from tests.distill.small import MOE, WIDE, experiment, learner, stage, teacher

BYTES, LARGE = replace(MOE, vocab=272), replace(WIDE, vocab=272)
EASY = Pacing(by="student", sampler=Rising(), window=8)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    random = np.random.default_rng(0)
    for number in range(30):
        words = random.choice(["one", "two", "three", "four"], 10 + number)
        (folder / f"{number}.txt").write_text(f"{number} " + " ".join(words))
    return Folder(str(folder))


def paced(text, pacing: Pacing | None = EASY, **changes):
    """A teacher, a student that has begun, and a stage by a pacing."""
    settings = {"rows": 4, "save_every": 2, "log_every": 1}
    stages = (
        stage(learner("teacher", model=LARGE), learner(model=BYTES), name="begin", steps=2, **settings),
        stage(learner("tuned", model=BYTES, start="student"), name="paced", teacher="teacher", steps=4, stream=1,
              pacing=pacing, **(settings | changes)),
    )  # fmt: skip
    return experiment(corpus=text, stages=stages)


@pytest.fixture(scope="module")
def done(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "paced"
    run_experiment(paced(text), folder, quiet=True)
    return folder


def test_every_document_is_measured_and_the_table_is_kept(done, text):
    table = Reducible.load(done / "difficulty" / "paced.json")
    assert len(table.ids) == len(text.documents("train"))
    sizes = [len(text.documents("train")[int(one)]["text"]) + 1 for one in table.ids]
    assert table.tokens.tolist() == sizes  # begin, its bytes and end: as many labels as bytes, and one
    assert np.isfinite(table.losses).all() and len(set(table.losses.tolist())) > 20


def test_a_paced_run_goes_on_from_a_checkpoint_to_the_same_numbers(done, text, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(done, run)
    shutil.rmtree(run / "checkpoints" / "paced" / "4")
    (run / "results.json").unlink()
    monkeypatch.setattr(ordering, "measure", None)  # nobody reads again
    run_experiment(paced(text), run, quiet=True)
    assert (run / "metrics.jsonl").read_bytes() == (done / "metrics.jsonl").read_bytes()
    assert load_run(run).results["models"][-1]["cross_entropy"] == load_run(done).results["models"][-1]["cross_entropy"]


def test_a_table_of_another_model_is_refused(done, text, tmp_path):
    shutil.copytree(done, tmp_path / "run")
    other = replace(Reducible.load(done / "difficulty" / "paced.json"), model="other")
    other.save(tmp_path / "run" / "difficulty" / "paced.json")
    with pytest.raises(ValueError, match="the table is of the model other"):
        run_experiment(paced(text), tmp_path / "run", quiet=True)


def sums(loader, source):
    """Of a model: cross-entropy and labels of every document."""
    model = teacher(config=LARGE).weights
    documents = loader.training(source)
    return ordering.measure(((model, Execution()),), loader, documents, Mesh().build())


def test_a_document_has_the_same_loss_in_whatever_batch_it_comes(text):
    (whole, labels), (cut, again) = (sums(Loader(rows=rows, length=16, documents=9), text) for rows in (8, 3))
    np.testing.assert_array_equal(labels, again)
    np.testing.assert_allclose(whole, cut, rtol=1e-5)


def test_of_a_question_the_answer_and_its_end_are_measured():
    asked = Questions(Small(tasks=("reverse",), levels=(0,), train=6, held_out=2))
    _, labels = sums(Loader(rows=4, length=16), asked)
    assert labels.tolist() == [len(item.answer) + 1 for item in asked.items("train")]


def test_pieces_have_every_token_but_the_first_as_a_label_once(text):
    loader = Loader(rows=2, length=8)
    document = text.documents("train")[0]
    rows = list(loader.pieces(document))
    labels = [row["tokens"][1:][row["tokens_segment_ids"][1:] > 0] for row in rows]
    assert np.concatenate(labels).tolist() == loader.tokenizer.document(document["text"]).tolist()[1:]


def test_documents_are_read_in_the_order_given(text):
    loader = Loader(rows=1, length=16, window=1)
    documents, order = loader.training(text), np.array([5, 2, 2, 7])
    wanted = np.concatenate([loader.tokenizer.document(documents[int(place)]["text"]) for place in order])
    rows = loader.batches(text, order=order)
    read = np.concatenate([np.append(batch.tokens[0], batch.labels[0, -1:]) for batch in (next(rows), next(rows))])
    np.testing.assert_array_equal(read, wanted[: len(read)])


@pytest.mark.parametrize("rule", [DropEasiest(share=0.5), RandomShare(share=0.5)], ids=str)
def test_what_a_filter_drops_is_never_read(done, text, rule):
    table = Reducible.load(done / "difficulty" / "paced.json")
    halved = replace(EASY, sampler=Uniform(), keep=rule)
    long = replace(paced(text).lessons[-1], steps=400)  # each is read several times
    order = ordering.arrange(table, table.tokens + 1.0, long, 0, halved)
    assert set(order.tolist()) == set(np.flatnonzero(rule(table)).tolist())


@dataclass(frozen=True)
class Nothing(Filter):
    """A filter of the user's own."""

    def __call__(self, measured):
        return np.zeros(len(measured.ids), bool)


def test_a_filter_that_leaves_nothing_is_refused(done, text):
    table = Reducible.load(done / "difficulty" / "paced.json")
    with pytest.raises(ValueError, match="stage 'paced': Nothing.* leaves none of"):
        ordering.arrange(table, table.tokens + 1.0, paced(text).lessons[-1], 0, replace(EASY, keep=Nothing()))


def test_stages_of_one_stream_share_what_was_measured_and_others_do_not(done, text, tmp_path, monkeypatch):
    run = shutil.copytree(done, tmp_path / "run")
    monkeypatch.setattr(ordering, "measure", None)  # nobody reads again
    made = paced(text)
    first = made.lessons[-1]
    alike = replace(first, name="alike", pacing=replace(EASY, sampler=Uniform()))
    with Metrics(run) as metrics:
        room = Room(made, Run(run), metrics, Ceiling(1.0), threading.Event(), quiet=True)

        def read(stage):
            loader = stage_loader(made, stage)
            return ordering.reducible(room, stage, loader, loader.training(text), text, stage.pacing)

        assert read(alike).losses.tolist() == read(first).losses.tolist()
        with pytest.raises(TypeError, match="not callable"):
            read(replace(alike, name="other", stream=2))


@dataclass(frozen=True)
class Watched:
    """Documents, and how often one was read."""

    documents: object
    reads: list

    def __len__(self):
        return len(self.documents)

    def __getitem__(self, index):
        self.reads.append(index)
        return self.documents[index]


def test_what_a_stage_reads_ahead_is_in_its_order_too(done, text, monkeypatch):
    table, stage = Reducible.load(done / "difficulty" / "paced.json"), paced(text).lessons[-1]
    order = ordering.arrange(table, table.tokens + 1.0, stage, 0, EASY)
    watched = Watched(text.documents("train"), [])
    monkeypatch.setattr(Folder, "documents", lambda self, split: watched)
    batches = Loader(rows=4, length=stage.length, window=EASY.window).batches(text, order=order)
    watched.reads.clear()
    for _ in range(stage.steps):
        next(batches)
    assert 0 < len(watched.reads) <= len(order)


def test_a_question_counts_as_a_row(tmp_path, monkeypatch):
    asked = Questions(Small(tasks=("reverse",), levels=(0,), train=6, held_out=2))
    count = len(asked.documents("train"))
    table = Reducible(
        ids=tuple(map(str, range(count))), losses=np.ones(count), tokens=np.full(count, 5), model="m", teacher="t",
        pool="p",
    )  # fmt: skip
    monkeypatch.setattr(ordering, "reducible", lambda *_: table)
    one = stage(learner(model=BYTES), name="paced", steps=4, rows=4, length=16)
    made = experiment(stages=(one,), corpus=asked)
    with Metrics(tmp_path) as metrics:
        room = Room(made, Run(tmp_path), metrics, Ceiling(1.0), threading.Event(), quiet=True)
        order = ordering.ordered(room, one, stage_loader(made, one), asked, EASY)
    ahead = one.steps * one.rows + EASY.window + 2 * one.rows
    assert ahead <= len(order) <= ahead + 4


def test_a_store_is_not_captured_of_a_paced_stage(text):
    made = paced(text)
    with pytest.raises(ValueError, match="reads in an order of its own run, by its pacing"):
        describe_order(made, made.lessons[-1])


def test_a_store_is_not_captured_of_a_stage_that_selects_nor_read_by_one(text):
    made = paced(text, pacing=None, selection=Selection(by="student"))
    with pytest.raises(ValueError, match="'paced' reads what its selection leaves, by what its own run measured"):
        describe_order(made, made.lessons[-1])
    with pytest.raises(ValueError, match="'paced': its rows are those of 'somewhere', from which selection leaves"):
        replace(made, stages=(made.stages[0], replace(made.lessons[-1], store="somewhere")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pacing": Pacing(by="nobody")}, "paced by the loss of 'nobody'"),
        ({"teacher": None}, "what a frozen teacher in memory says"),
        ({"store": "somewhere"}, "what a frozen teacher in memory says"),
    ],
)
def test_what_cannot_be_paced_is_refused_at_the_door(text, changes, message):
    made = paced(text)
    with pytest.raises(ValueError, match=message):
        replace(made, stages=(*made.stages[:-1], replace(made.stages[-1], **changes)))


def test_the_tiny_form_measures_few_documents(text):
    assert [one.documents for one in paced(text).tiny().lessons] == [None, 100]
    assert paced(text, documents=7).tiny().lessons[-1].documents == 7
