"""Images in text: from documents to rows, through a step, and through a whole run."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill import Mesh, load_weights, loop
from distill.data.batch import Batch
from distill.data.question import Reader
from distill.evaluate import evaluate
from distill.experiment import Experiment
from distill.launch import run_experiment
from distill.optim import decayed, muon_dimensions
from distill.state import abstract
from distill.step import Step
from distill.teacher import LiveTeacher, Silent
from losses import Distill, NoGate
from models.execution import Execution
from models.vision import check_images
from tests.distill.seeing import (
    BEGIN,
    END,
    EYE,
    IDS,
    IMAGE,
    PAD,
    SEEING,
    START,
    STOP,
    Greys,
    batches,
    document,
    loader,
    picture,
)
from tests.distill.small import MOE, QUIET, assert_close, interrupt, learner, stage, states, take


def assert_same(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


# Rows by hand.


def test_a_document_with_an_image_is_a_row_and_its_answer_is_what_counts():
    row = Reader(IDS, EYE, 1).row(document(0), 9)
    batch = Batch.of_rows({name: x[None] for name, x in row.items()}, PAD)
    assert batch.tokens.tolist() == [[BEGIN, START, IMAGE, 268, STOP, ord("q"), ord("A"), END]]
    assert batch.mask.tolist() == [[False] * 5 + [True, True, False]]
    assert batch.labels[0, 5:7].tolist() == [ord("A"), END]
    np.testing.assert_array_equal(batch.images, np.full((1, 1, 3, 8, 8), -1, np.float32))


def test_frames_of_a_video_are_images_in_order_and_shorter_videos_have_zeros_behind():
    read = Reader(IDS, EYE, 3).tokenise({**document(0), "images": np.concatenate([picture(0), picture(255)])})
    assert read["tokens"].tolist().count(268) == 2
    assert [set(np.unique(tile)) for tile in read["images"]] == [{-1.0}, {1.0}, {0.0}]
    check_images(EYE, read["tokens"][None], read["images"][None])


def test_no_pixel_of_an_image_is_zero_as_padding_is():
    levels = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, 8, 8, 3))
    read = Reader(IDS, EYE, 256).tokenise({**document(0), "images": levels})
    assert np.all(read["images"] != 0)


def test_a_batch_of_images_has_a_tile_for_each_row():
    (batch,) = batches(1)
    assert (batch.tokens.shape, batch.images.shape) == ((4, 8), (4, 1, 3, 8, 8))
    check_images(EYE, batch.tokens, batch.images)


def test_images_stay_with_their_answers():
    for batch in batches(6):
        answers = batch.labels[:, 5] - 65
        levels = np.round((batch.images[:, 0, 0, 0, 0] + 1) * 127.5)
        np.testing.assert_allclose(levels, answers, atol=0.6)


def test_an_epoch_shows_every_document_once():
    answers = np.concatenate([batch.labels[:, 5] for batch in batches(3)])
    assert sorted(answers - 65) == list(range(12))


def test_training_on_few_documents_shows_no_other_and_the_seed_draws_them():
    drawn = [np.concatenate([batch.labels[:, 5] for batch in batches(5, documents=5, seed=seed)]) for seed in (0, 0, 1)]
    assert len(set(drawn[0])) == 5
    assert sorted(drawn[0]) == sorted([*set(drawn[0])] * 4)
    assert set(drawn[0]) == set(drawn[1]) != set(drawn[2])


def test_batches_of_images_go_on_where_they_were():
    stream, fresh = loader().batches(Greys()), loader().batches(Greys())
    for _ in range(4):
        next(stream)
    fresh.set_state(json.loads(json.dumps(stream.get_state())))
    assert_same([next(stream) for _ in range(5)], [next(fresh) for _ in range(5)])


def test_processes_share_the_documents_of_an_epoch():
    streams = [loader(rows=4).batches(Greys(), process, 2) for process in range(2)]
    answers = np.concatenate([next(stream).labels[:, 5] for stream in streams for _ in range(3)])
    assert sorted(answers - 65) == list(range(12))


def test_held_out_images_are_filled_up_with_padding():
    (batch,) = loader().held_out_batches(Greys(), 9)
    assert batch.images.shape == (4, 1, 3, 8, 8)
    assert batch.mask.sum(1).tolist() == [2, 2, 2, 0]
    assert not np.any(batch.images[3])


def test_more_images_than_a_row_has_are_refused():
    with pytest.raises(ValueError, match=r"has 2 images, a row 1; set --stages\.N\.images 2"):
        Reader(IDS, EYE, 1).tokenise(document(0, count=2))


def test_a_document_longer_than_its_row_is_refused():
    with pytest.raises(ValueError, match=r"has 8 tokens, a row 6 and one label; .* set --stages\.N\.length 7"):
        next(loader(length=6).batches(Greys()))


def test_a_document_without_an_image_among_others_is_refused():
    with pytest.raises(ValueError, match="has images, another has none, or lacks its answer"):
        Reader(IDS, EYE, 1).tokenise({"text": b"q", "domain": "text"})


def test_images_for_models_that_do_not_see_are_refused():
    with pytest.raises(ValueError, match=r"have no vision tower; set model\.vision"):
        loader(vision=None).batches(Greys())


@pytest.mark.parametrize(("change", "what"), [({"patch_token": 5}, "patch_token 5"), ({"channels": 1}, "1 channels")])
def test_vision_that_is_not_the_tokenizers_or_grey_is_refused(change, what):
    with pytest.raises(ValueError, match=f"{what}.* the tokenizer's patch is 268"):
        Reader(IDS, replace(EYE, **change), 1)


@pytest.mark.parametrize("field", ["documents", "images"])
def test_no_documents_and_no_images_are_refused(field):
    with pytest.raises(ValueError, match=f"{field} is 0; it must be at least 1"):
        loader(**{field: 0})


def test_a_stage_whose_models_see_differently_is_refused():
    other = replace(SEEING, vision=replace(EYE, image=16))
    with pytest.raises(ValueError, match=r"'student' and 'other' read the same rows, .* and \(16, 3, 4"):
        Experiment(name="x", stages=(stage(learner(model=SEEING), learner("other", model=other)),))


def test_a_blind_teacher_of_those_who_see_is_refused():
    blind, student = learner("teacher", model=replace(SEEING, vision=None)), learner(model=SEEING)
    stages = (stage(blind, name="teach"), stage(student, name="distil", teacher="teacher"))
    with pytest.raises(ValueError, match="vision differs .* and None"):
        Experiment(name="x", stages=stages)


# Through a step.

PLAIN = Distill(gate=NoGate())
ONE = learner(model=SEEING, router=QUIET, loss=PLAIN)


@pytest.fixture(scope="module")
def rows():
    """Eight rows in two micro-batches, and whole."""
    (whole,) = batches(1, rows=8)
    return tuple(jax.tree.map(lambda x, a=a: x.reshape(a, 8 // a, *x.shape[1:]), whole) for a in (1, 2))


def teacher(mesh=None):
    return LiveTeacher(states(learner("teacher", model=SEEING), mesh=mesh)[0].weights, Execution())


@pytest.fixture(scope="module")
def voice():
    return teacher()


@pytest.fixture(scope="module")
def moved(rows, voice):
    return take([ONE], states(ONE), voice, [rows[0]])


def test_a_step_on_images_moves_the_tower_and_its_projector(moved):
    tower, before = moved[0][0].weights.model.vision, states(ONE)[0].weights.model.vision
    for path, leaf in jax.tree_util.tree_flatten_with_path(jax.tree.map(lambda a, b: a != b, tower, before))[0]:
        assert jnp.any(leaf), jax.tree_util.keystr(path)


def test_what_the_images_show_changes_what_the_teacher_says(rows, voice):
    batch = jax.tree.map(lambda x: jnp.asarray(x[0]), rows[0])
    say = jax.jit(lambda batch: voice.signal(batch).hidden)
    assert jnp.any(say(batch) != say(replace(batch, images=-batch.images)))


def test_micro_batches_of_images_add_up(rows, voice, moved):
    (after,), metrics = take([ONE], states(ONE), voice, [rows[1]])
    assert_close(after.weights, moved[0][0].weights, tolerance=1e-4)
    assert metrics["student/hard"] == pytest.approx(moved[1]["student/hard"], rel=1e-5)


def test_a_mesh_sees_what_one_device_sees(rows, moved):
    mesh = Mesh(data=2, fsdp=2)
    (after,), metrics = take([ONE], states(ONE, mesh=mesh), teacher(mesh), [rows[0]], mesh)
    assert_close(jax.device_get(after.weights), jax.device_get(moved[0][0].weights), tolerance=1e-4)
    assert metrics["student/hard"] == pytest.approx(moved[1]["student/hard"], rel=1e-5)


def test_the_tower_is_cut_along_its_width_and_its_adapter():
    model = abstract(ONE, 10, Mesh(fsdp=4).build()).weights.model
    shard = {path: leaf.sharding.shard_shape(leaf.shape) for path, leaf in (
        ("q", model.vision.blocks.attention.q.get_raw_value()), ("patch", model.vision.patch.get_raw_value()),
        ("down", model.vision.adapter_down.get_raw_value()), ("projector", model.vision.projector.get_raw_value()),
        ("bias", model.vision.blocks.attention.q_bias.get_raw_value()),
    )}  # fmt: skip
    assert shard == {"q": (1, 2, 2, 4), "patch": (48, 2), "down": (2, 8), "projector": (2, 32), "bias": (1, 2, 4)}


def test_biases_tables_and_norms_of_the_tower_do_not_decay_and_are_left_to_adam():
    tower = abstract(ONE, 10, Mesh().build()).weights.model.vision
    biases = {f"{name}_bias" for name in ("q", "k", "v", "o", "up", "down")}
    vectors = {"scale", "bias", "class_token", "position"} | biases
    for tree in (decayed(tower), muon_dimensions(tower)):
        found = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is None or isinstance(x, tuple))[0]
        assert {jax.tree_util.keystr(path).split(".")[-2] for path, leaf in found if not leaf} == vectors


def test_muon_reads_the_output_projection_of_the_tower_from_heads_and_channels():
    tower = abstract(ONE, 10, Mesh().build()).weights.model.vision
    one = muon_dimensions(tower).blocks.attention.o.get_raw_value()
    assert (one.reduction_axis, one.output_axis) == ((1, 2), (3,))


def test_text_alone_is_the_program_it_was():
    from tests.distill.small import batch

    one = learner(model=MOE)
    assert len(jax.tree.leaves(batch())) == 5
    text = jax.jit(Step((one,), 10, Execution())).lower(states(one), Silent(), batch()).as_text()
    assert "erf" not in text


def test_held_out_answers_are_scored_by_what_the_images_show(rows, voice):
    whole = jax.tree.map(lambda x: x[0], rows[0])
    score = evaluate({"same": voice.weights}, voice, [whole], Execution())["same"]
    assert score.labels == 16
    assert (score.kl, score.agreement) == (pytest.approx(0, abs=1e-6), 1.0)


# Through a run.


def small(**changes):
    sizes = {"steps": 4, "save_every": 2, "log_every": 1, "length": 8, "rows": 4}
    stages = (
        stage(learner("teacher", model=SEEING, loss=PLAIN), name="teach", **sizes),
        stage(learner(model=SEEING, loss=PLAIN), name="distil", teacher="teacher", stream=1, documents=8, **sizes),
    )
    return Experiment(**{"name": "greys", "stages": stages, "corpus": Greys(), "held_out": 1, "glance": 1} | changes)


@pytest.mark.slow
def test_a_run_on_images_that_is_stopped_goes_on_to_the_same_numbers(tmp_path, monkeypatch):
    run_experiment(small(), tmp_path / "whole", quiet=True)
    interrupt(monkeypatch, "distil", 3)
    with pytest.raises(loop.Interrupted, match="stopped in stage distil after step 3 of 4"):
        run_experiment(small(), tmp_path / "cut", quiet=True)
    monkeypatch.undo()
    run_experiment(small(), tmp_path / "cut", quiet=True)
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    one, two = (load_weights(tmp_path / name, "distil", "student") for name in ("whole", "cut"))
    assert_same(one, two)
    assert one.model.config.vision == EYE
