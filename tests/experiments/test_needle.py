"""What the needle experiment asks, and that it runs from end to end."""

import json
from dataclasses import replace

import numpy as np
import pytest

from distill import Learner, Stage
from experiments import needle
from models.config import tiny
from models.tokenizer import Bytes


def test_a_document_asks_for_the_digits_of_its_needles():
    found = needle.compose(np.random.default_rng(0), 65, 4)
    assert Bytes().decode(found.tokens) == (
        "<|begin_of_text|>C1sky is blue, thE8e sun is yeD6llow, G9here weC1D6E8G9C1D6E8G9<|end_of_text|>"
    )
    assert [chr(found.tokens[column]) for column in found.asked] == list("CDEG")


def test_a_needle_is_as_deep_as_the_filler_before_it_is_long():
    found = needle.compose(np.random.default_rng(0), 65, 4)
    before = [0, len("sky is blue, the sun is ye"), len("sky is blue, th"), len("sky is blue, the sun is yellow, ")]
    np.testing.assert_allclose(found.depths, np.array(before) / 39)


@pytest.mark.parametrize("tokens", [17, 65, 1025])
def test_a_document_has_the_size_that_is_asked_for(tokens):
    assert needle.compose(np.random.default_rng(1), tokens, 2).tokens.shape == (tokens,)


def test_documents_are_the_same_each_time_and_fit_in_a_row():
    documents = needle.Haystacks(length=64).documents("train")
    texts = [documents[i]["text"] for i in range(600)]
    assert texts == [documents[i]["text"] for i in range(600)]
    assert {len(text) + 2 for text in texts} == set(range(16, 66))
    assert texts[0] != needle.Haystacks(length=64).documents("held_out")[0]["text"]


def test_every_variant_takes_sixteen_times_the_length():
    assert all(config.max_positions == 16 * needle.LENGTH for config in needle.VARIANTS.values())


@pytest.mark.slow
def test_the_experiment_runs_and_draws_its_figure(tmp_path, monkeypatch, capsys):
    stage = Stage(
        name="learn",
        learners=(Learner(name="irope", model=tiny(needle.FULL)),),
        steps=2,
        rows=4,
        length=32,
        save_every=2,
    )
    small = replace(needle.EXPERIMENT, stages=(stage,), corpus=needle.Haystacks(length=32, count=2000), held_out=1)
    monkeypatch.setattr(needle, "EXPERIMENT", small)
    needle.main(["--run", str(tmp_path / "run"), "--quiet", "--tiny"])
    found = json.loads((tmp_path / "run" / "retrieval.json").read_text())
    assert np.shape(found["irope"]) == (4, needle.DEPTHS)  # a tiny model has no 16 times the length
    assert (tmp_path / "run" / "figures" / "needle.png").stat().st_size > 10_000
    assert "irope" in capsys.readouterr().out.splitlines()[-2]
