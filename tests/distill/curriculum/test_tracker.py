"""Trackers: what fades, what stays, what a checkpoint holds."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from distill.curriculum.estimate import Prior
from distill.curriculum.table import Table
from distill.curriculum.tracker import Tracker

IDS = ("a", "b", "c")


def ints(*values):
    return np.array(values, int)


def columns(tracker):
    return [x.tolist() for x in (tracker.successes, tracker.failures, tracker.visits, tracker.seen)] + [tracker.aim]


def test_nobody_knows_anything_at_first():
    blank = Tracker.blank(IDS)
    assert blank.difficulty().tolist() == [0.5] * 3 and blank.now == 0 and blank.live().all()


def test_it_begins_with_what_was_measured_of_its_prompts():
    table = Table(
        ids=("c", "b", "a", "z"),
        attempts=ints(8, 8, 16, 8),
        successes=ints(2, 0, 16, 8),
        model="m",
        pool="p",
        seeds=(0,),
        temperature=1.0,
        prior=Prior(1.0, 3.0),
    )
    tracker = Tracker.begin(IDS, table)
    assert tracker.difficulty() == pytest.approx([3 / 20, 11 / 12, 9 / 12])
    assert tracker.visits.tolist() == [0, 0, 0] and tracker.ids == IDS
    with pytest.raises(ValueError, match="the table has no prompt 'y'"):
        Tracker.begin(("a", "y"), table)


def test_outcomes_fade_when_their_prompt_is_observed_again_and_the_prior_does_not():
    tracker = replace(Tracker.blank(IDS), discount=0.5)
    tracker = tracker.observe(ints(0, 1), ints(2, 3), ints(4, 4), 0).observe(ints(1, 2), ints(1, 0), ints(4, 4), 5)
    assert tracker.successes.tolist() == [2, 0.5 * 3 + 1, 0] and tracker.failures.tolist() == [2, 0.5 * 1 + 3, 4]
    assert tracker.visits.tolist() == [1, 2, 1] and tracker.seen.tolist() == [0, 5, 5] and tracker.now == 6
    assert tracker.belief().mean() == pytest.approx([3 / 6, 3.5 / 8, 1 / 6])


def test_a_prompt_nobody_tried_is_believed_to_be_as_hard_as_its_kind_lately_was():
    tracker = replace(Tracker.blank(IDS), kinds=ints(0, 0, 1), memory=1.0)
    assert tracker.difficulty().tolist() == [0.5] * 3
    once = tracker.observe(ints(0), ints(6), ints(8), 0)
    share = (1 + 6) / (2 + 8)
    assert once.belief().mean() == pytest.approx([(2 * share + 6) / 10, share, 0.5])
    later = once.observe(ints(2), ints(0), ints(8), 1)  # a draw later what was seen of "a" counts half
    assert later.belief().mean()[1] == pytest.approx((1 + 3) / (2 + 4))
    assert later.belief().mean()[2] == pytest.approx(2 * 0.1 / 10)


def test_what_was_measured_before_training_tells_of_the_kind_too():
    table = Table(
        ids=("a", "b"), attempts=ints(8, 0), successes=ints(8, 0), model="m", pool="p", seeds=(0,), temperature=1.0
    )
    tracker = replace(Tracker.begin(("a", "b"), table), kinds=ints(0, 0))
    assert tracker.belief().mean()[1] == pytest.approx(9 / 10)


def test_after_long_training_a_belief_is_of_twenty_visits():
    tracker = Tracker.blank(("a",))
    for number in range(400):
        tracker = tracker.observe(ints(0), ints(2), ints(8), number)
    assert tracker.successes[0] == pytest.approx(2 / 0.05, rel=1e-6)  # 1 / (1 - 0.95) = 20 visits


def test_a_prompt_that_comes_twice_in_a_call_fades_once():
    tracker = Tracker.blank(IDS).observe(ints(0), ints(4), ints(4), 0)
    twice = tracker.observe(ints(0, 0), ints(1, 2), ints(4, 4), 1)
    assert columns(twice) == columns(tracker.observe(ints(0), ints(3), ints(8), 1))


def test_late_outcomes_do_not_make_a_prompt_look_unseen():
    tracker = Tracker.blank(IDS).observe(ints(0), ints(1), ints(4), 7).observe(ints(0), ints(1), ints(4), 3)
    assert tracker.seen.tolist() == [7, -1, -1]


def test_observing_makes_another_tracker():
    blank = Tracker.blank(IDS)
    blank.observe(ints(0), ints(1), ints(4), 0)
    assert columns(blank) == columns(Tracker.blank(IDS))


def test_never_solved_is_quarantined_and_one_success_ends_it():
    tracker = Tracker.blank(IDS)
    for number in range(2):
        assert tracker.live().all()
        tracker = tracker.observe(ints(0, 1, 2), ints(0, 1, 8), ints(9, 9, 8), number)
    assert tracker.live().tolist() == [False, True, True]
    assert tracker.observe(ints(0), ints(1), ints(8), 2).live().all()


events = some.lists(
    some.tuples(some.lists(some.tuples(some.integers(0, 2), some.integers(0, 8)), max_size=4), some.integers(0, 50)),
    max_size=12,
)


def play(tracker, happened):
    for outcomes, number in happened:
        pairs = np.array(outcomes, int)
        indices, successes = (pairs[:, 0], pairs[:, 1]) if outcomes else (ints(), ints())
        tracker = tracker.observe(indices, successes, np.full(len(outcomes), 8), number)
    return tracker


@settings(max_examples=60, deadline=None)
@given(before=events, after=events, aim=some.none() | some.floats(0, 1))
def test_restored_is_uninterrupted_bit_by_bit(before, after, aim):
    whole = replace(play(Tracker.blank(IDS), before), aim=aim)
    text = json.dumps(whole.state(), allow_nan=False)
    restored = Tracker.blank(IDS).restore(json.loads(text))
    assert columns(restored) == columns(whole)
    assert columns(play(restored, after)) == columns(play(whole, after))
    assert restored.seen.dtype == whole.seen.dtype and restored.successes.dtype == np.float64


@settings(max_examples=40, deadline=None)
@given(happened=events)
def test_a_belief_is_always_proper(happened):
    tracker = play(Tracker.blank(IDS), happened)
    learnability = tracker.belief().learnability()
    assert (learnability > 0).all() and (learnability < 0.25).all()
    assert (tracker.difficulty() > 0).all() and (tracker.difficulty() < 1).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema": 2}, "a tracker's state has schema 2, this version reads 1"),
        ({"prompts": "other"}, "is of the prompts other, this one of .*bring back the pool, its filter and its order"),
        ({"visits": [1, 2]}, "a tracker's visits must be 3 numbers, none below 0"),
        ({"visits": [1, 2, -3]}, "a tracker's visits must be 3 numbers, none below 0"),
        ({"seen": [1, 2, -2]}, "a tracker's seen must be 3 numbers, none below -1"),
        ({"failures": [0.0, 1.0, float("nan")]}, "a tracker's state: failures must be finite; found nan"),
        ({"aim": 1.5}, "a tracker's aim is 1.5; it is a difficulty, from 0 to 1"),
        ({"aim": "high"}, "a tracker's state: aim must be numbers"),
        ({"more": 1}, "a tracker's state must have the fields schema, prompts"),
    ],
)
def test_a_state_that_cannot_be_is_refused(change, says):
    state = Tracker.blank(IDS).state()
    with pytest.raises(ValueError, match=says):
        Tracker.blank(IDS).restore(state | change)


def test_the_order_of_prompts_is_part_of_the_state():
    with pytest.raises(ValueError, match="bring back the pool, its filter and its order"):
        Tracker.blank(("b", "a", "c")).restore(Tracker.blank(IDS).state())


def test_impossible_observations_are_refused():
    tracker = Tracker.blank(IDS)
    with pytest.raises(ValueError, match="indices go from 0 to 3, and the tracker has 3 prompts"):
        tracker.observe(ints(0, 3), ints(0, 0), ints(1, 1), 0)
    with pytest.raises(ValueError, match="indices go from -1 to 0"):
        tracker.observe(ints(0, -1), ints(0, 0), ints(1, 1), 0)
    with pytest.raises(ValueError, match="prompt 'c' has 5 successes in 4 attempts"):
        tracker.observe(ints(0, 2), ints(0, 5), ints(1, 4), 0)
    with pytest.raises(ValueError, match="prompt 'c' was observed in 0 attempts; leave it out"):
        tracker.observe(ints(0, 2), ints(0, 0), ints(1, 0), 0)
    with pytest.raises(ValueError, match="the number of a draw is -1; draws are counted from 0"):
        tracker.observe(ints(0), ints(0), ints(1), -1)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="a tracker's discount is 0.0; it must be above 0"):
        replace(Tracker.blank(IDS), discount=0.0)
    with pytest.raises(ValueError, match="a tracker's memory is 0.0 draws; it must be above 0"):
        replace(Tracker.blank(IDS), memory=0.0)
    with pytest.raises(ValueError, match="a tracker's discount is 1.5"):
        replace(Tracker.blank(IDS), discount=1.5)
    with pytest.raises(ValueError, match="a tracker's quarantine is 0.0 failures; it must be above 0"):
        replace(Tracker.blank(IDS), quarantine=0.0)
