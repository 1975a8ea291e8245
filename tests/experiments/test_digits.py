"""The digits experiment: its documents, and its tiny version from the command line to its figures."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from distill.reading import stage_loader
from experiments import digits
from experiments.digits import EXPERIMENT, HELD_OUT, Digits, read_digits, without_end
from models.config import Layer
from models.images import split
from models.tokenizer import Bytes
from models.vision import check_images


def test_a_digit_is_a_row_of_its_image_the_question_and_the_answer():
    (batch,) = stage_loader(EXPERIMENT, EXPERIMENT.stages[0]).held_out_batches(Digits(), 1)
    check_images(EXPERIMENT.stages[0].learners[0].model.vision, batch.tokens, batch.images)
    assert "<|image_end|>Which digit?" in Bytes().decode(batch.tokens[0])
    assert without_end(batch).mask.sum() == len(batch.tokens) == batch.mask.sum() / 2


def test_the_answer_of_every_row_is_what_its_image_shows():
    images, labels = read_digits()
    answers = {split(image, 16, most=1).tiles.tobytes(): label for image, label in zip(images, labels, strict=True)}
    (batch,) = stage_loader(EXPERIMENT, EXPERIMENT.stages[0]).held_out_batches(Digits(), 1)
    answered = batch.labels[without_end(batch).mask] - ord("0")
    assert [answers[tile.tobytes()] for tile in batch.images] == answered.tolist()


def test_no_image_is_both_held_out_and_trained_on():
    images, _ = read_digits()
    held, train = ({image.tobytes() for image in part} for part in (images[:HELD_OUT], images[HELD_OUT:]))
    assert not held & train


def test_the_students_differ_in_nothing_but_what_they_are_told():
    _, distil, labels, same, alone = EXPERIMENT.stages
    assert (
        len(
            {
                (one.stream, one.steps, one.learners[0].name, one.learners[0].model)
                for one in (distil, labels, same, alone)
            }
        )
        == 1
    )
    assert same.documents == alone.documents == 100
    assert distil.documents is labels.documents is None


def test_without_scikit_learn_there_is_a_message(monkeypatch):
    read_digits.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ValueError, match="come with scikit-learn; install it"):
        read_digits()


@pytest.mark.slow
def test_a_small_version_ends_with_its_figures(tmp_path, capsys, monkeypatch):
    # The same stages with one layer: of the tiny one, nearly all the time goes into compiling.
    layer = {"layers": 1, "pattern": (Layer(rope=True, moe=False),)}
    stages = tuple(
        replace(stage, learners=(replace(one, model=replace(one.model, **layer)),))
        for stage in EXPERIMENT.stages
        for one in stage.learners
    )
    monkeypatch.setattr(digits, "EXPERIMENT", replace(EXPERIMENT, stages=stages))
    digits.main(["--tiny", "--quiet", "--run", str(tmp_path / "run")])
    figures = json.loads((tmp_path / "run" / "digits.json").read_text())
    assert list(figures) == ["teach", "distil", "labels", "same", "alone"]
    assert all(0 <= np.mean(values["accuracy"]) <= 1 for values in figures.values())
    said = capsys.readouterr().out
    assert all(f"{first} - {second}, accuracy" in said for first, second in digits.PAIRS)
