"""An experiment with a trained tokenizer: chosen, written down, held to."""

import json
from dataclasses import replace

import numpy as np
import pytest

from distill import load_run
from distill.data.source import Folder
from distill.launch import run_experiment
from distill.opening import open_run
from distill.options import parse
from distill.resolved import to_json
from models.bpe import BPE, train
from models.tokenizer import Bytes
from tests.distill.small import MOE, experiment, learner, stage

WORDS = ["one", "two", "three", "four"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    random = np.random.default_rng(0)
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"{number} " + " ".join(random.choice(WORDS, 60)))
    return folder


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    return train([" ".join(WORDS) * 3], 280, tmp_path_factory.mktemp("bpe") / "tokenizer.model")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return train(["five six seven eight " * 3], 280, tmp_path_factory.mktemp("other") / "tokenizer.model")


def small(text, tokenizer, vocab=280):
    one = stage(learner(model=replace(MOE, vocab=vocab)), steps=2, save_every=1, log_every=1)
    return experiment(corpus=Folder(str(text)), stages=(one,), tokenizer=tokenizer, compare=None)


@pytest.fixture(scope="module")
def finished(text, bpe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, run_experiment(small(text, bpe), folder, quiet=True)


def test_a_run_knows_its_tokenizer_without_the_file(finished, bpe):
    folder, _ = finished
    found = load_run(folder).tokenizer
    assert found.fingerprint == bpe.fingerprint and found.encode("one two").tolist() == bpe.encode("one two").tolist()


def test_the_same_tokenizer_goes_on(finished, text, bpe):
    folder, results = finished
    assert (
        run_experiment(small(text, bpe), folder, quiet=True)["models"][0]["cross_entropy"]
        == (results["models"][0]["cross_entropy"])
    )


def test_another_tokenizer_in_the_same_file_is_refused(finished, text, bpe, other):
    folder, _ = finished
    with open_run(folder, small(text, bpe)) as run, pytest.raises(ValueError, match=(
        f"was begun with tokenizer {bpe.fingerprint} and would go on with {other.fingerprint}; bring the old one back"
    )):  # fmt: skip
        run.write_tokenizer(other)


def test_a_run_that_trained_nothing_takes_a_corrected_tokenizer(text, bpe, other, tmp_path):
    with open_run(tmp_path, small(text, bpe)) as run:
        for tokenizer in (bpe, other, Bytes()):
            run.write_tokenizer(tokenizer)
            assert run.tokenizer.fingerprint == tokenizer.fingerprint


def test_runs_that_wrote_no_tokenizer_are_of_bytes(text, bpe, tmp_path):
    with open_run(tmp_path, small(text, bpe)) as run:
        assert run.tokenizer == Bytes()


def test_a_model_of_another_vocabulary_is_refused(text, bpe, tmp_path):
    with pytest.raises(ValueError, match="'student' has a vocabulary of 272, the tokenizer of 280; set --stages.N"):
        run_experiment(small(text, bpe, vocab=272), tmp_path / "run", quiet=True)


def test_the_tokenizer_is_in_the_configuration(text, bpe):
    found = json.loads(json.dumps(to_json(small(text, bpe))))["tokenizer"]
    assert found == {"class": "BPE", "path": bpe.path}
    assert to_json(small(text, Bytes()))["tokenizer"] == {"class": "Bytes"}


def test_the_tokenizer_can_be_chosen_on_the_command_line(text):
    options = parse(small(text, Bytes()), ["tokenizer:bpe", "--tokenizer.path", "some.model"])
    assert options.experiment.tokenizer == BPE("some.model")
    assert parse(small(text, BPE("a")), ["--tokenizer.path", "b"]).experiment.tokenizer == BPE("b")
    assert parse(small(text, BPE("a")), ["--seed", "1"]).experiment.tokenizer == BPE("a")
    assert parse(small(text, Bytes()), ["--seed", "1"]).experiment.tokenizer == Bytes()
