"""Chances by sampler, by hand; nothing starves."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from distill.curriculum.sampler import Hardness, Learnability, Prioritised, Rising, Sampler, Sliding, Target, Uniform
from distill.curriculum.table import Table
from distill.curriculum.tracker import Tracker

SAMPLERS = (
    Uniform(),
    Learnability(),
    Learnability(temperature=0.01, floor=0.02),
    Rising(width=0.2),
    Sliding(begins=0.8, ends=0.1, width=0.2),
    Target(width=0.01),
    Prioritised(),
    Prioritised(score=Hardness(), staleness=0.0, beta=0.02),
)


def table(successes, attempts):
    ids = tuple(f"p{i}" for i in range(len(successes)))
    tried = np.full(len(ids), attempts)
    counts = np.array(successes, int)
    return Table(ids=ids, attempts=tried, successes=counts, model="m", pool="p", seeds=(0,), temperature=1.0)


def tracker(successes, attempts):
    measured = table(successes, attempts)
    return Tracker.begin(measured.ids, measured)


def floor_of(sampler):
    return 1.0 if isinstance(sampler, Uniform) else sampler.floor


@settings(max_examples=150, deadline=None)
@given(
    some.sampled_from(SAMPLERS),
    some.lists(some.integers(0, 40), min_size=1, max_size=12),
    some.lists(some.tuples(some.integers(0, 11), some.integers(0, 8)), max_size=6),
    some.none() | some.floats(0, 1),
    some.floats(0, 1),
)
def test_chances_add_to_1_and_none_is_below_the_floor(sampler, successes, outcomes, aim, progress):
    known = replace(tracker(successes, 40), aim=aim)
    for number, (place, won) in enumerate(outcomes):
        known = known.observe(np.array([place % len(successes)]), np.array([won]), np.array([8]), number)
    weights = sampler.weights(known, progress)
    assert weights.shape == (len(successes),) and weights.sum() == pytest.approx(1, abs=1e-12)
    assert weights.min() >= floor_of(sampler) / len(successes) * (1 - 1e-12)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_chances_follow_prompts_into_another_order(sampler):
    measured = table([0, 3, 3, 8, 5, 8, 1, 0], 40)
    turned = tuple(reversed(measured.ids))
    here, there = (sampler.weights(Tracker.begin(ids, measured), 0.4) for ids in (measured.ids, turned))
    assert here == pytest.approx(there[::-1])


@pytest.mark.parametrize("sampler", SAMPLERS[1:], ids=str)
def test_what_was_never_solved_keeps_the_floor_alone(sampler):
    for progress in (0.0, 0.5, 1.0):
        weights = sampler.weights(tracker([0, 8, 20, 12, 0, 39], 40), progress)
        assert weights[[0, 4]] == pytest.approx([sampler.floor / 6] * 2)
        assert weights[[1, 2, 3, 5]].sum() == pytest.approx(1 - sampler.floor / 3)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_where_nothing_was_ever_solved_all_are_alike(sampler):
    assert sampler.weights(tracker([0, 0, 0, 0], 40), 0.7).tolist() == [0.25] * 4


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_where_nothing_is_known_all_are_alike(sampler):
    weights = sampler.weights(Tracker.blank(("a", "b", "c", "d")), 0.3)
    assert weights == pytest.approx([0.25] * 4)


def test_learnability_is_in_proportion_to_the_expected_variance():
    # Beta(1, 3), Beta(2, 2) and Beta(3, 1), of 2 attempts: 3/20, 4/20, 3/20
    weights = Learnability(floor=0.1).weights(tracker([0, 1, 2], 2), 0.0)
    assert weights == pytest.approx([0.9 * 0.3 + 0.1 / 3, 0.9 * 0.4 + 0.1 / 3, 0.9 * 0.3 + 0.1 / 3])


def test_a_low_temperature_is_greedy_and_a_high_one_even():
    known = tracker([0, 1, 2], 2)
    assert Learnability(temperature=0.001).weights(known, 0.0) == pytest.approx([0.1 / 3, 0.9 + 0.1 / 3, 0.1 / 3])
    assert Learnability(temperature=math.inf).weights(known, 0.0) == pytest.approx([1 / 3] * 3)
    root = Learnability(temperature=2.0, floor=0.1).weights(known, 0.0)
    assert (root[1] - 0.1 / 3) / (root[0] - 0.1 / 3) == pytest.approx((4 / 3) ** 0.5)


def expected_share(attempts=1000):
    """Of the draws that go to the learnable tenth: 90 % have p = 0.97, 10 % p = 0.5, as `attempts` say."""
    spread = []
    for percent in (97, 50):
        a, b = Fraction(percent * attempts, 100) + 1, Fraction((100 - percent) * attempts, 100) + 1
        spread.append(a * b / ((a + b) * (a + b + 1)))
    return Fraction(9, 10) * spread[1] / (9 * spread[0] + spread[1]) + Fraction(1, 10) * Fraction(1, 10)


def test_kinds_may_be_drawn_alike_however_many_prompts_they_have():
    known = replace(tracker([1] * 10, 2), kinds=np.array([0] * 8 + [1] * 2))
    weights = Learnability(even=True, floor=0.1).weights(known, 0.0)
    assert weights[:8].sum() == pytest.approx(0.9 / 2 + 0.08) and weights[8:].sum() == pytest.approx(0.9 / 2 + 0.02)
    gone = replace(known, failures=np.array([99.0] * 4 + [1.0] * 6), successes=np.array([0.0] * 4 + [1.0] * 6))
    assert gone.live().tolist() == [False] * 4 + [True] * 6
    assert Learnability(even=True, floor=0.1).weights(gone, 0.0)[:4] == pytest.approx([0.01] * 4)
    with pytest.raises(ValueError, match="the tracker has no kinds to draw alike; set by_kind, or even to False"):
        Learnability(even=True).weights(tracker([1], 2), 0.0)


def test_learnable_prompts_in_a_pool_of_easy_ones_are_drawn_four_and_a_half_times_as_often():
    # 0.97 * 0.03 = 0.0291, nine times: 0.2619; 0.5 * 0.5 = 0.25, once. 0.9 * 0.25 / 0.5119 + 0.1 * 0.1 = 0.4495.
    assert float(expected_share(10**9)) == pytest.approx(0.4495, abs=1e-4)
    weights = Learnability(floor=0.1).weights(tracker([970] * 90 + [500] * 10, 1000), 0.0)
    assert weights[90:].sum() == pytest.approx(float(expected_share(1000)))
    assert weights[90] == pytest.approx(4.5 / 100, rel=0.05)


def test_the_window_rises_with_progress():
    known = tracker([8, 6, 4, 2], 8)  # easy to hard
    rising = Rising(width=0.5, floor=0.2)
    assert rising.weights(known, 0.0) == pytest.approx([0.45, 0.45, 0.05, 0.05])
    assert rising.weights(known, 1.0) == pytest.approx([0.05, 0.05, 0.45, 0.45])
    assert rising.weights(known, 0.25) == pytest.approx([0.25, 0.45, 0.25, 0.05])  # from 1/8 to 5/8
    assert Rising(width=1.0).weights(known, 0.3) == pytest.approx([0.25] * 4)


def test_a_window_slides_from_where_it_begins_to_where_it_ends():
    known = tracker([8, 6, 4, 2], 8)  # easy to hard
    falling = Sliding(begins=0.5, ends=0.0, width=0.5, floor=0.2)
    assert falling.weights(known, 0.0) == pytest.approx([0.05, 0.05, 0.45, 0.45])
    assert falling.weights(known, 1.0) == pytest.approx([0.45, 0.45, 0.05, 0.05])
    up = Sliding(begins=0.0, ends=0.7, width=0.3).weights(known, 0.4)
    assert up == pytest.approx(Rising(width=0.3).weights(known, 0.4))
    with pytest.raises(ValueError, match=r"begins must be 0 to 0.5, so that the window has its width"):
        Sliding(begins=0.6, width=0.5)


def test_equally_hard_prompts_share_the_window():
    known = tracker([2, 2, 2, 1], 2)
    rising = Rising(width=0.5, floor=0.2)
    assert rising.weights(known, 0.0) == pytest.approx([0.8 / 3 + 0.05] * 3 + [0.05])
    assert rising.weights(known, 1.0) == pytest.approx([0.8 / 6 + 0.05] * 3 + [0.8 / 2 + 0.05])  # a quarter each


def test_the_mean_difficulty_of_what_is_drawn_rises_all_the_way():
    known = tracker(np.arange(1, 40), 40)
    means = [Rising().weights(known, at) @ known.difficulty() for at in np.linspace(0, 1, 30)]
    assert (np.diff(means) > 0).all()


def test_target_draws_what_is_near_its_aim():
    known = replace(tracker([0, 1, 2], 2), aim=0.5)  # difficulties 3/4, 1/2, 1/4
    curve = np.exp(-0.5 * np.array([2.5, 0, 2.5]) ** 2)
    assert Target(floor=0.1).weights(known, 0.0) == pytest.approx(0.9 * curve / curve.sum() + 0.1 / 3)
    far = Target(width=1e-3, floor=0.1).weights(replace(known, aim=0.9), 0.0)
    assert far == pytest.approx([0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3])  # the nearest, however far


def test_the_aim_rises_with_success_and_stays_within_difficulty():
    target, known = Target(start=0.2, step=0.1, sharpness=2.0), Tracker.blank(("a",))
    assert target.aim(known, 0.5) == 0.2
    assert target.aim(known, 1.0) == pytest.approx(0.2 + 0.1 * math.tanh(1.0))
    assert target.aim(replace(known, aim=0.4), 0.25) == pytest.approx(0.4 + 0.1 * math.tanh(-0.5))
    assert target.aim(replace(known, aim=0.99), 1.0) == 1.0 and target.aim(replace(known, aim=0.01), 0.0) == 0.0
    assert Learnability().aim(replace(known, aim=0.3), 1.0) == 0.3


def test_prioritised_is_by_rank_and_by_age():
    known = tracker([3, 1, 2, 2], 4)  # variances: 1 and 0 alike, below 2 and 3
    known = replace(known, seen=np.array([9, 7, 3, -1]))  # now 10: ages 1, 3, 7, 11
    by_rank = np.array([3**-2 + 4**-2, 3**-2 + 4**-2, 1 + 2**-2, 1 + 2**-2]) / 2
    mixed = 0.7 * by_rank / by_rank.sum() + 0.3 * np.array([1, 3, 7, 11]) / 22
    found = Prioritised(staleness=0.3, beta=0.5, floor=0.2).weights(known, 0.0)
    assert found == pytest.approx(0.8 * mixed + 0.2 / 4)


def test_the_score_is_a_value():
    known = tracker([3, 1, 2], 4)
    assert np.argmax(Prioritised(score=Hardness(), staleness=0.0).weights(known, 0.0)) == 1
    assert np.argmax(Prioritised(staleness=0.0).weights(known, 0.0)) == 2


def test_all_are_samplers():
    assert all(isinstance(one, Sampler) for one in SAMPLERS)


@pytest.mark.parametrize(
    ("kind", "fields", "says"),
    [
        (Learnability, {"floor": 0.0}, "floor must be above 0 and at most 1"),
        (Learnability, {"floor": 1.1}, "floor must be above 0 and at most 1"),
        (Learnability, {"temperature": 0.0}, "temperature must be above 0"),
        (Rising, {"width": 0.0}, "width must be above 0"),
        (Rising, {"floor": 0.0}, "floor must be above 0"),
        (Target, {"floor": 0.0}, "floor must be above 0"),
        (Target, {"width": 2.0}, "width must be above 0 and at most 1"),
        (Target, {"step": 0.0}, "step must be above 0"),
        (Target, {"sharpness": 0.0}, "sharpness must be above 0"),
        (Target, {"success": 1.5}, "success must lie within 0 and 1"),
        (Target, {"start": -0.5}, "start must lie within 0 and 1"),
        (Prioritised, {"floor": float("nan")}, "floor must be above 0"),
        (Prioritised, {"staleness": 1.5}, "staleness must lie within 0 and 1"),
        (Prioritised, {"beta": 0.0}, "beta be above 0"),
    ],
)
def test_knobs_out_of_range_are_refused(kind, fields, says):
    with pytest.raises(ValueError, match=f"{kind.__name__}.*{says}"):
        kind(**fields)
