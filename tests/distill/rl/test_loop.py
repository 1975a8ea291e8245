"""The loop of reinforcement learning, on a model that has hardly begun: order, bounds, restarts, faults."""

import dataclasses
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from distill.curriculum.measure import measure
from distill.curriculum.table import Table
from distill.loop import Interrupted
from distill.metrics import read
from distill.rl.loop import run_reinforcement
from distill.rl.order import EarliestDeadline, FirstInFirstOut
from distill.rl.record import Event
from distill.rl.reward import Rubric
from distill.run import Run
from distill.tasks.exam import Exam
from distill.trained import load_weights
from losses import Toward
from models.tokenizer import Bytes
from tests.distill.rl.begun import ASKED, EVEN, MODEL, SLOW, STAGE, AtLook, Spoilt, books, finish, opened


@pytest.fixture(scope="module")
def strict(begun, tmp_path_factory):
    """A run in strict order, one version behind."""
    folder = tmp_path_factory.mktemp("strict")
    return folder, *finish(begun, folder)


def assert_same(one, other):
    for mine, its in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, its)


def test_in_strict_order_timing_changes_nothing(begun, strict, tmp_path):
    _, weights, lines = strict
    slowly, same = finish(begun, tmp_path, replace(STAGE, latency=SLOW))
    assert_same(weights, slowly)
    assert lines == same


def test_it_learns_from_answers_that_are_at_most_as_old_as_it_may(strict):
    _, _, lines = strict
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[0]["lag_max"] == 0 and all(line["lag_max"] <= 1 for line in lines)
    assert any(line["lag_max"] == 1 for line in lines)
    assert all(0 < line["reward"] < 1 and line["groups"] == 4 for line in lines)


def test_every_line_accounts_for_every_group(strict):
    _, _, lines = strict
    before = 0
    for line in lines:
        ends = sum(line[name] for name in ("consumed", "filtered", "expired", "poisoned", "in_flight"))
        assert line["admitted"] == ends and line["consumed"] == 4 * line["step"]
        assert line["lag/0"] + line["lag/1"] == line["groups"] == 4
        used = line["consumed"] + line["filtered"]
        assert sum(value for name, value in line.items() if name.startswith("asked/")) == used - before
        before = used


def test_who_waits_and_how_fast_it_goes_is_said_apart_from_what_the_seed_determines(strict):
    folder, _, lines = strict
    for line in read(folder / "timings.jsonl"):
        assert 0 <= line["learner_idle"] <= 1 and 0 <= line["actor_idle"] <= 1
        assert line["learner_tokens_per_second"] > 0 and line["ready"] + line["under_way"] <= 8
        assert line["faults/retried"] == line["faults/poisoned"] == line["faults/masked"] == 0
    assert not {"learner_idle", "ready", "seconds"} & set(lines[0])


def test_a_run_that_was_stopped_goes_on_bit_for_bit(begun, strict, tmp_path):
    _, weights, lines = strict

    with opened(begun, tmp_path, STAGE) as room, pytest.raises(Interrupted, match="after update 3 of 5"):
        run_reinforcement(dataclasses.replace(room, stop=AtLook(3)), STAGE)
    again, same = finish(begun, tmp_path)
    assert_same(weights, again)
    assert lines == same


def test_several_updates_of_a_batch_make_it_older_and_are_bounded_around_its_start(begun, tmp_path):
    stage = replace(STAGE, steps=3, updates=2, max_policy_lag=3, save_every=1)
    weights, lines = finish(begun, tmp_path / "whole", stage)
    lags = [[line[f"lag/{lag}"] for lag in range(4)] for line in lines]
    assert lags[0] == [2, 2, 0, 0] and lags[2][2] > 0
    assert all(first + third == second + fourth == 2 for first, second, third, fourth in lags)
    assert lines[0]["student/mismatch_max/0"] <= 1e-5 < lines[0]["student/kl"]
    assert lines[0]["student/ratio_max"] > 1.001 and abs(lines[0]["student/weight_max"] - 1) < 1e-5
    with opened(begun, tmp_path / "again", stage) as room, pytest.raises(Interrupted, match="after update 1 of 3"):
        room.stop.set()
        run_reinforcement(room, stage)
    again, same = finish(begun, tmp_path / "again", stage)
    assert_same(weights, again)
    assert lines == same


def test_a_run_that_is_over_is_not_trained_again(begun, strict):
    folder, weights, lines = strict
    again, same = finish(begun, folder)
    assert_same(weights, again)
    assert lines == same


def test_no_group_is_lost_or_learned_from_twice(strict):
    folder, _, _ = strict
    found = books(folder, STAGE)
    assert not found.lost and not found.doubled
    assert found.counts["consumed"] == 5 * 4


def test_its_groups_and_what_it_knew_of_its_prompts_are_read_back(strict):
    run = Run(strict[0])
    found = list(run.rollouts(STAGE.name))
    learned = [one for one in found if one.event is Event.CONSUMED]
    assert [one.at for one in learned] == sorted([0, 1, 2, 3, 4] * 4)
    assert [one.group.uid for one in learned] == sorted(one.group.uid for one in learned)
    tracker, audited = run.tracker(STAGE.name), run.audit(STAGE.name)
    assert tracker.ids == tuple(item.id for item in ASKED() if item.split == "train") and tracker.now == 5
    assert tracker.kinds is not None and len(set(tracker.kinds.tolist())) == 2
    assert {one.group.item for one in learned} <= {tracker.ids[index] for index in np.flatnonzero(tracker.visits)}
    assert not audited.lost and not audited.doubled and audited.counts["consumed"] == len(learned)


@pytest.mark.parametrize("order", [FirstInFirstOut(), EarliestDeadline()], ids=["strict", "by deadline"])
def test_without_lag_the_sampler_and_the_learner_say_the_same_of_every_token(begun, tmp_path, order):
    stage = replace(STAGE, steps=2, order=order, max_policy_lag=0, pipeline_depth=0)
    _, lines = finish(begun, tmp_path, stage)
    for line in lines:
        assert line["lag_max"] == 0
        assert abs(line["student/weight_max"] - 1) < 1e-5 and abs(line["student/weight"] - 1) < 1e-5
        assert line["student/mismatch/0"] <= line["student/mismatch_max/0"] <= 1e-5


def test_nor_do_they_differ_in_a_model_without_experts(begun, tmp_path):
    dense = replace(MODEL, pattern=tuple(replace(layer, moe=False) for layer in MODEL.pattern))
    learner = replace(STAGE.learner, model=dense, start=None)
    stage = replace(STAGE, steps=1, learner=learner, filtered=False)
    _, (line,) = finish(begun, tmp_path, stage)
    assert 0 < line["student/mismatch/0"] <= line["student/mismatch_max/0"] <= 1e-5


def test_without_lag_both_orders_give_the_same_weights(begun, tmp_path):
    stage = replace(STAGE, steps=3, max_policy_lag=0, pipeline_depth=0)
    one, _ = finish(begun, tmp_path / "strict", stage)
    other, _ = finish(begun, tmp_path / "deadline", replace(stage, order=EarliestDeadline(), latency=SLOW))
    assert_same(one, other)


def test_by_deadline_no_answer_is_older_than_it_may_be(begun, tmp_path):
    stage = replace(STAGE, order=EarliestDeadline(), max_policy_lag=2, latency=SLOW, steps=8)
    _, lines = finish(begun, tmp_path, stage)
    assert Counter(line["lag_max"] <= 2 for line in lines) == {True: 8}


def test_what_was_drawn_by_deadline_happens_again_by_its_journal(begun, tmp_path):
    stage = replace(STAGE, order=EarliestDeadline(), max_policy_lag=2, latency=SLOW, save_every=1)
    with opened(begun, tmp_path / "first", stage) as room, pytest.raises(Interrupted, match="after update 1 of 5"):
        room.stop.set()
        run_reinforcement(room, stage)
    weights, lines = finish(begun, tmp_path / "first", stage)
    again, same = finish(begun, tmp_path / "again", replace(stage, replay=str(tmp_path / "first"), latency=None))
    assert_same(weights, again)
    assert lines == same


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"questions": replace(ASKED, train=20)}, "is of questions '.*', and the stage that is to follow it has"),
        ({"stream": 1}, "is of seed .*, and the stage that is to follow it has"),
        ({"max_policy_lag": 2}, "is of limits .*'max_policy_lag': 1.* has .*'max_policy_lag': 2"),
        ({"steps": 4}, "is of steps 5, and the stage that is to follow it has 4"),
    ],
)
def test_a_journal_of_something_else_is_not_followed(begun, strict, tmp_path, changes, message):
    folder, _, _ = strict
    with pytest.raises(ValueError, match=message):
        finish(begun, tmp_path, replace(STAGE, replay=str(folder), **changes))


def test_a_reward_that_always_fails_stops_the_run_and_says_which(begun, tmp_path):
    broken = Rubric(name="broken", where=EVEN.where.replace("Even", "Broken"))
    with pytest.raises(RuntimeError, match=r"reward 'broken' failed \d+ of \d+ calls; the last time it .*is broken"):
        finish(begun, tmp_path, replace(STAGE, reward=broken, groups=16))


def test_an_update_that_is_not_finite_is_not_made_and_three_in_a_row_stop_the_run(begun, tmp_path):
    policy = replace(STAGE.gradient, advantage=Spoilt((2, 4, 5, 6)))
    with pytest.raises(FloatingPointError, match=r"stage rl: the last 3 updates of 'student' were not finite"):
        finish(begun, tmp_path, replace(STAGE, steps=9, policy=policy))
    lines = Run(tmp_path).metrics()
    assert [line["student/skipped"] for line in lines] == [0, 1, 0, 1, 2]
    assert [bool(np.isfinite(line["student/loss"])) for line in lines] == [True, False, True, False, False]


def test_difficulty_is_measured_of_a_run_and_kept_as_a_file(begun, tmp_path):
    exam, pool = Exam(attempts=4, tokens=8, slots=16), ASKED()
    table, marks = measure(begun, "begin", "student", pool, exam)
    table.save(tmp_path / "difficulty.json")
    again = Table.load(tmp_path / "difficulty.json")
    assert again.ids == tuple(item.id for item in pool) and (again.attempts == 4).all()
    np.testing.assert_array_equal(again.successes, marks.successes)
    same = exam(load_weights(begun, "begin", "student"), pool, Bytes())
    np.testing.assert_array_equal(again.successes, same.successes)
    with pytest.raises(ValueError, match="there are no questions to ask"):
        measure(begun, "begin", "student", pool.select(levels=(7,)), exam)


def test_a_teacher_that_is_the_learner_thinks_of_every_token_what_the_learner_thinks_and_one_it_leaves_pulls(
    begun, tmp_path
):
    stage = replace(STAGE, steps=3, teacher="begun", credit=0.5, max_policy_lag=0, pipeline_depth=0)
    _, lines = finish(begun, tmp_path, stage)
    assert lines[0]["student/teacher_hard"] == pytest.approx(lines[0]["student/hard"], abs=1e-5)
    assert abs(lines[2]["student/teacher_hard"] - lines[2]["student/hard"]) > 1e-5
    _, without = finish(begun, tmp_path / "without", replace(stage, teacher=None, credit=0.0))
    assert lines[0]["student/loss"] == pytest.approx(without[0]["student/loss"], abs=1e-6)
    assert lines[2]["student/loss"] != without[2]["student/loss"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "stage 'rl': steps is 0; it must be at least 1"),
        ({"samples": 1}, "samples is 1; it must be at least 2"),
        (
            {"accumulate": 3},
            "4 groups of 4 do not divide into updates=1 .* these into accumulate=3 micro-batches",
        ),
        ({"updates": 3, "max_policy_lag": 9}, "4 groups of 4 do not divide into updates=3 of whole groups"),
        ({"updates": 2}, "answers are up to 3 optimizer steps old, and max_policy_lag is 1; raise it, or make fewer"),
        ({"temperature": 0.0}, "an answer drawn without chance has no probability"),
        ({"teacher": "begun"}, "teacher='begun' with credit=0.0 and toward=None; name a teacher and give it a credit"),
        ({"credit": 1.0}, "teacher=None with credit=1.0 and toward=None; .* or leave all of them out"),
        ({"toward": Toward(weight=1.0)}, r"teacher=None with credit=0.0 and toward=Toward\(weight=1.0, .*\); name a"),
        ({"teacher": "begun", "credit": -1.0, "toward": Toward(weight=1.0)}, "teacher='begun' with credit=-1.0"),
        ({"pipeline_depth": 2}, "pipeline_depth 2 must lie within 0 and max_policy_lag 1"),
    ],
)
def test_stages_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(STAGE, **changes)


def test_questions_that_do_not_fit_a_row_are_refused_before_anything_is_drawn(begun, tmp_path):
    with pytest.raises(ValueError, match=r"a prompt of 7 tokens and an answer of 8 are 15, and there is room for 13"):
        finish(begun, tmp_path, replace(STAGE, length=12))
