"""Models from elsewhere teach and are started from, and learners go out."""

import json
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill import Given, Mesh, load_weights
from distill.ceiling import Ceiling
from distill.data.source import Folder
from distill.export import export
from distill.hold import AsItIs
from distill.launch import run_experiment
from distill.metrics import Metrics
from distill.options import parse
from distill.room import Room
from distill.run import Run
from distill.state import Weights
from losses import RouterHealth
from models import huggingface
from models.bpe import train
from models.llama4 import Llama4
from models.tokenizer import Bytes
from tests.distill.small import MOE, experiment, learner, stage

BYTES = replace(MOE, vocab=272)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of the model that learns here."""
    folder = tmp_path_factory.mktemp("given") / "checkpoint"
    huggingface.save(folder, jax.jit(lambda key: Llama4(BYTES, key))(jax.random.key(3)))
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for number in range(20):
        (folder / f"{number}.txt").write_text(f"{number} " + "one two three four " * 15)
    return folder


def given(folder, text, **changes):
    """A learner that starts from the checkpoint, taught by it."""
    student = learner(model=BYTES, start="old", **changes)
    only = stage(student, name="distil", teacher="old", steps=2, save_every=2, log_every=1)
    return experiment(
        given=(Given(name="old", folder=str(folder)),), stages=(only,), corpus=Folder(str(text)), mesh=Mesh(fsdp=2)
    )


@pytest.fixture(scope="module")
def run(folder, text, tmp_path_factory):
    """A run of it."""
    path = tmp_path_factory.mktemp("runs") / "run"
    return path, run_experiment(given(folder, text), path, quiet=True)


def newborn(one, path):
    """The state that the run's learner begins with."""
    with Metrics(path) as metrics:
        room = Room(one, Run(path), metrics, Ceiling(1.0), threading.Event(), True)
        return room.newborn(one.stages[0].learners[0], one.stages[0].steps)


def test_a_fingerprint_changes_with_any_byte_of_a_small_file_and_with_the_dtype(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    one = Given(name="old", folder=str(tmp_path / "copy"))
    assert one.fingerprint == Given(name="new", folder=str(folder)).fingerprint
    assert one.fingerprint != replace(one, dtype="bfloat16").fingerprint
    (file,) = (tmp_path / "copy").glob("*.safetensors")
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    assert one.fingerprint != Given(name="new", folder=str(folder)).fingerprint


@pytest.mark.parametrize(("place", "seen"), [(0, True), (3, True), (4, False), (129, True), (200, False), (299, True)])
def test_of_a_large_file_every_32nd_piece_and_the_last_are_read(tmp_path, monkeypatch, place, seen):
    monkeypatch.setattr("distill.given.PIECE", 4)
    monkeypatch.setattr("distill.given.LARGE", 256)
    (tmp_path / "config.json").write_text("{}")
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(300))
    before = Given(name="large", folder=str(tmp_path)).fingerprint
    file.write_bytes(bytes(300)[:place] + b"x" + bytes(300)[place + 1 :])
    assert (Given(name="large", folder=str(tmp_path)).fingerprint != before) == seen


def test_a_learner_that_starts_from_its_teacher_agrees_with_it_at_first(run):
    path, _ = run
    first = json.loads((path / "metrics.jsonl").read_text().splitlines()[0])
    assert first["step"] == 1 and first["student/soft"] < 1e-6 and first["student/agreement"] == 1


def test_a_given_teacher_is_what_learners_are_held_against(run):
    _, results = run
    assert 0 < results["models"][0]["kl"] < 1


def test_a_newborn_learner_has_the_given_weights_and_the_moments_of_none(folder, text, tmp_path):
    state = newborn(given(folder, text), tmp_path)
    wanted = huggingface.load(folder)
    jax.tree.map(np.testing.assert_array_equal, state.weights.model, wanted)
    assert len(state.weights.model.head[...].sharding.device_set) == 2
    assert sum(float(abs(leaf).max()) for leaf in jax.tree.leaves(state.opt)) == 0


def test_a_start_has_a_bias_of_zero_where_its_routers_are_balanced_by_one(folder, text, tmp_path):
    bias = newborn(given(folder, text, router=RouterHealth(bias_rate=0.01)), tmp_path).weights.bias
    assert bias is not None and not bias.any()


def test_a_given_teacher_is_read_in_its_own_dtype(folder):
    one = Given(name="old", folder=str(folder), dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(one.teacher(Mesh()))} == {"bfloat16"}


def test_tiny_leaves_what_starts_from_given_weights_as_it_is(folder, text):
    assert given(folder, text).tiny().stages[0].learners[0].model == BYTES


def test_the_command_line_names_another_folder(folder, text):
    options = parse(given(folder, text), ["--given.0.dtype", "bfloat16", "--given.0.folder", str(folder)])
    assert options.experiment.given[0] == Given(name="old", folder=str(folder), dtype="bfloat16")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"given": ()}, "'student' starts from 'old', which is not given and no .*; there are \\[\\]"),
        (
            {"stages": (stage(learner(model=replace(BYTES, width=64), start="old")),)},
            r"'student' cannot start from 'old': it differs in width \(64, not 32\): .* give it the same",
        ),
        ({"stages": (stage(learner("old", model=BYTES)),)}, "a learner and a given model are both called 'old'"),
        ({"stages": (stage(learner(model=MOE), teacher="old"),)}, "teacher 'old' has a vocabulary of 272, student"),
        (
            {"stages": (stage(learner(model=replace(BYTES, max_positions=9999)), teacher="old", length=600),)},
            "longer than the 512 positions of teacher 'old'",
        ),
    ],
)
def test_what_does_not_fit_what_is_given_is_refused(folder, text, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(given(folder, text), **changes)


def test_given_models_of_one_name_are_refused(folder, text):
    one = Given(name="old", folder=str(folder))
    with pytest.raises(ValueError, match=r"given models are named \['old', 'old'\]; each needs its own name"):
        replace(given(folder, text), given=(one, one))


def test_a_given_folder_that_is_not_there_is_refused(text):
    with pytest.raises(ValueError, match="has no config.json; it must be a folder written by save_pretrained"):
        given("nowhere", text)


def test_a_learner_goes_out_as_it_is_with_the_tokenizer_of_its_run(run, tmp_path):
    path, _ = run
    export(path, tmp_path / "out")
    wanted = load_weights(path, "distil", "student").model
    jax.tree.map(np.testing.assert_array_equal, huggingface.load(tmp_path / "out"), wanted)
    assert (tmp_path / "out" / "tokenizer.json").exists()
    assert huggingface.Ids.read(tmp_path / "out").begin == 256


def test_a_learner_is_named_where_there_are_several(run, tmp_path, monkeypatch):
    path, _ = run
    found = {"stages": [{"name": "distil", "learners": [{"name": "scout"}, {"name": "maverick"}]}]}
    monkeypatch.setattr("distill.run.Run.config", property(lambda _: found))
    with pytest.raises(ValueError, match=r"learners \['scout', 'maverick'\]; say which with --learner"):
        export(path, tmp_path / "out")


def test_a_learner_whose_routers_have_a_bias_does_not_go_out(run, tmp_path, monkeypatch):
    path, _ = run
    weights = load_weights(path, "distil", "student")
    biased = Weights(weights.model, jnp.ones((1, 2, 4)))
    monkeypatch.setattr("distill.export.load_weights", lambda *_: biased)
    with pytest.raises(ValueError, match="selection bias that is not zero"):
        export(path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_export_is_a_command_of_models_too(run, tmp_path):
    path, _ = run
    command = [sys.executable, "-m", "models.huggingface", "export", str(path), str(tmp_path / "out")]
    done = subprocess.run([*command, "--dtype", "bfloat16"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "bfloat16" in done.stdout, done.stderr
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "is there already" in done.stderr


def test_a_run_does_not_go_on_with_other_given_weights(folder, text, tmp_path):
    kept, path = tmp_path / "checkpoint", tmp_path / "run"
    huggingface.save(kept, huggingface.load(folder))
    run_experiment(given(kept, text), path, quiet=True)
    shutil.rmtree(kept)
    huggingface.save(kept, jax.jit(lambda key: Llama4(BYTES, key))(jax.random.key(4)))
    with pytest.raises(ValueError, match=r"was begun with given models \{'old': '.*'\} and would go on with"):
        run_experiment(given(kept, text), path, quiet=True)


def test_a_given_model_of_another_tokenizer_is_refused(folder, text, tmp_path):
    kept = tmp_path / "checkpoint"
    huggingface.save(kept, huggingface.load(folder), Bytes())
    given(kept, text).given[0].check_tokenizer(Bytes())
    train(["one two three four " * 3], 280, kept / "tokenizer.model").save(kept)
    (kept / "tokenizer.model").unlink()
    with pytest.raises(ValueError, match=r"'old' has tokenizer .*; a token must mean the same to both"):
        run_experiment(given(kept, text), tmp_path / "run", quiet=True)


def test_given_models_are_held_while_stages_listen_to_the_same(folder, text, tmp_path):
    base = given(folder, text)
    other = replace(base.given[0], name="other")
    run = Run(tmp_path)
    room = Room(replace(base, given=(*base.given, other)), run, Metrics(tmp_path), Ceiling(1.0), threading.Event())
    first = room.teachers(("old",), AsItIs())[0]
    assert room.teachers(("old",), AsItIs())[0].weights.model is first.weights.model
    room.teachers(("other",), AsItIs())
    assert [name for name, _, _ in room.held] == ["other"]
    both = room.teachers(("old", "other"), AsItIs())
    again = room.teachers(("old", "other"), AsItIs())
    assert [one.weights.model for one in both] == [one.weights.model for one in again]
    room.silence()
    assert not room.held
