"""The tasks of the on-policy experiment, their exam, and that its table can be made."""

import json
from dataclasses import replace

import pytest

from distill import AdamW
from distill.launch import run_experiment
from distill.reading import stage_loader
from experiments import on_policy
from experiments.on_policy import METHODS, NARROW, learn, prepare
from experiments.reasoning import LENGTH, TASKS, Exam, Reasoning, compose, is_right
from models.tokenizer import Bytes


def test_answers_are_right():
    for index in range(60):
        task, prompt, answer = compose("train", index, 0)
        body = prompt[1:-1]
        if task == "reverse":
            assert answer == body[::-1]
        elif task == "sort":
            assert list(answer) == sorted(body)
        else:
            assert int(answer[::-1]) == sum(map(int, body.split(b"+")))


def test_no_prompt_is_both_held_out_and_trained_on():
    train, held = (
        {compose(split, i, seed)[1] for i in range(600) for seed in (0, 1)} for split in ("train", "held_out")
    )
    assert not train & held
    assert {compose("train", i, 0)[0] for i in range(3)} == set(TASKS)


def test_every_question_fits_in_a_row():
    texts = (compose("train", i, 0)[1:] for i in range(3000))
    assert max(len(prompt) + len(answer) for prompt, answer in texts) + 2 <= LENGTH + 1


@pytest.mark.parametrize(("said", "right"), [
    (b"321", True), (b"32", False), (b"3210", False), (b"123", False),
])  # fmt: skip
def test_right_is_equal_to_the_last_character_and_ends(said, right):
    assert is_right([*said, Bytes().end], b"321") is right
    assert not is_right([*said], b"321")


def test_the_same_questions_each_time_and_others_by_another_seed():
    first, again, other = (Reasoning(seed=seed).documents("train") for seed in (0, 0, 1))
    assert [first[i] for i in range(5)] == [again[i] for i in range(5)] != [other[i] for i in range(5)]
    assert Reasoning().manifest().hash != Reasoning(seed=1).manifest().hash


def test_methods_differ_in_loss_rollout_and_rate_alone(tmp_path, monkeypatch):
    stages = _methods(tmp_path, monkeypatch).stages
    alike = {
        replace(
            one, name="", rollout=None, learners=(replace(one.learners[0], loss=on_policy.LABELS, optimizer=AdamW()),)
        )
        for one in stages
    }
    assert len(alike) == 1 and [one.name for one in stages] == list(METHODS)


@pytest.mark.slow
def test_a_small_version_ends_with_its_table(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "seed0"
    for one in prepare(folder, tiny=True):
        run_experiment(replace(one, stages=(replace(one.stages[0], steps=1),)), folder / one.name, quiet=True)
    methods = {name: METHODS[name] for name in ("data-forward", "own-sampled")}
    made = learn("methods", methods, folder, tiny=True).tiny()
    run_experiment(replace(made, name="methods"), folder / "methods", quiet=True)
    monkeypatch.setattr(on_policy, "Exam", lambda asked, questions: Exam(6, questions))
    on_policy.report(tmp_path, 1)
    assert "own-sampled - data-forward: exact" in capsys.readouterr().out
    found = json.loads((tmp_path / "on_policy.json").read_text())
    assert list(found) == ["teacher", "begun", *methods]
    assert found["data-forward"][0]["drawn"] == 0.0 < found["own-sampled"][0]["drawn"]


def _methods(folder, monkeypatch):
    monkeypatch.setattr("distill.given.Trained.model", property(lambda self: NARROW))
    return learn("methods", METHODS, folder, tiny=False)


def test_batches_hold_questions_and_their_answers(tmp_path, monkeypatch):
    one = _methods(tmp_path, monkeypatch)
    batch = next(stage_loader(one, one.stages[0]).batches(Reasoning(count=100)))
    assert batch.tokens.shape == (64, LENGTH) and 3 < batch.mask.sum() / 64 < 9
