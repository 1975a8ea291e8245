"""Batches: what they follow from, and what they come to over a long run."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from distill.curriculum.draw import Curriculum
from distill.curriculum.pool import Pool
from distill.curriculum.quota import Quota
from distill.curriculum.sampler import Learnability, Prioritised, Rising, Target, Uniform
from distill.curriculum.table import Table
from distill.curriculum.tracker import Tracker


def pool(size, capabilities=("sum",)):
    ids = tuple(f"p{i}" for i in range(size))
    kinds = tuple(capabilities[i % len(capabilities)] for i in range(size))
    return Pool(ids=ids, capabilities=kinds, levels=np.zeros(size, int))


def measured(chances, attempts):
    ids = tuple(f"p{i}" for i in range(len(chances)))
    successes = np.round(np.array(chances) * attempts).astype(int)
    tried = np.full(len(ids), attempts)
    return Table(ids=ids, attempts=tried, successes=successes, model="m", pool="p", seeds=(0,), temperature=1.0)


def train(curriculum, tracker, chances, numbers, count):
    """A student that never learns, and the draws it was given."""
    drawn = []
    for number in numbers:
        indices = curriculum.draw(tracker, number, count, number / 1000)
        outcomes = np.random.default_rng([9, number]).binomial(8, np.array(chances)[indices])
        tracker = curriculum.observe(tracker, indices, outcomes, np.full(count, 8), number)
        drawn.append(indices)
    return tracker, drawn


def test_a_batch_follows_from_seed_number_and_tracker_alone():
    whole = Curriculum(pool=pool(50), sampler=Learnability(), seed=1)
    tracker = Tracker.begin(whole.pool.ids, measured(np.linspace(0.02, 0.98, 50), 50))
    first = whole.draw(tracker, 3, 8, 0.0)
    assert np.array_equal(first, replace(whole).draw(replace(tracker), 3, 8, 0.0))
    assert not np.array_equal(first, whole.draw(tracker, 4, 8, 0.0))
    assert not np.array_equal(first, replace(whole, seed=2).draw(tracker, 3, 8, 0.0))
    assert first.tolist() == [34, 37, 42, 16, 36, 35, 23, 44]  # another generator would break resumed runs


def test_a_resumed_run_draws_what_an_uninterrupted_one_draws():
    chances = np.linspace(0.0, 1.0, 20)
    whole = Curriculum(pool=pool(20), sampler=Target(), quota=Quota(shares={"sum": 1.0}))
    blank = Tracker.blank(whole.pool.ids)
    last, drawn = train(whole, blank, chances, range(20), 6)
    middle, before = train(whole, blank, chances, range(11), 6)
    restored = blank.restore(json.loads(json.dumps(middle.state())))
    end, after = train(whole, restored, chances, range(11, 20), 6)
    assert np.array_equal(np.concatenate(drawn), np.concatenate(before + after))
    assert json.dumps(end.state()) == json.dumps(last.state())


@settings(max_examples=60, deadline=None)
@given(some.integers(1, 30), some.integers(1, 70), some.integers(0, 10**6), some.booleans())
def test_no_prompt_comes_twice_unless_all_have_come(size, count, number, mixed):
    quota = Quota(shares={"sum": 2, "sort": 1}) if mixed else None
    whole = Curriculum(pool=pool(size, ("sum", "sort")), sampler=Uniform(), quota=quota)
    indices = whole.draw(Tracker.blank(whole.pool.ids), number, count, 0.0)
    times = np.bincount(indices, minlength=size)
    assert len(indices) == count and times.max() - times.min() <= 1


def test_draws_of_one_are_in_proportion_to_the_chances():
    whole = Curriculum(pool=pool(5), sampler=Learnability())
    tracker = Tracker.begin(whole.pool.ids, measured([0.1, 0.3, 0.5, 0.7, 0.95], 100))
    times = np.bincount([whole.draw(tracker, number, 1, 0.0)[0] for number in range(4_000)], minlength=5)
    expected = 4_000 * Learnability().weights(tracker, 0.0)
    assert np.sum((times - expected) ** 2 / expected) < 18.5  # chi squared of 4 degrees: above once in a thousand


def test_two_without_replacement_come_as_drawn_one_after_another():
    whole = Curriculum(pool=pool(3), sampler=Learnability())
    tracker = Tracker.begin(whole.pool.ids, measured([0.1, 0.5, 0.9], 10))
    p = Learnability().weights(tracker, 0.0)
    left_out = np.zeros(3)
    for first in range(3):
        for second in {0, 1, 2} - {first}:
            left_out[3 - first - second] += p[first] * p[second] / (1 - p[first])
    times = np.bincount([3 - whole.draw(tracker, number, 2, 0.0).sum() for number in range(4_000)], minlength=3)
    assert np.sum((times - 4_000 * left_out) ** 2 / (4_000 * left_out)) < 13.8  # 2 degrees


def test_a_batch_is_in_no_order():
    whole = Curriculum(pool=pool(20, ("sum", "sort")), sampler=Uniform(), quota=Quota(shares={"sum": 1, "sort": 1}))
    firsts = [whole.draw(Tracker.blank(whole.pool.ids), number, 10, 0.0)[0] % 2 for number in range(200)]
    assert 70 < sum(firsts) < 130


def test_a_batch_is_mixed_by_its_quota_and_says_who_is_short():
    three = Pool(ids=tuple("abcdefgh"), capabilities=("sum",) * 5 + ("sort",) * 2 + ("copy",), levels=np.zeros(8, int))
    whole = Curriculum(pool=three, sampler=Uniform(), quota=Quota(shares={"sum": 1, "sort": 1, "copy": 1}))
    indices = whole.draw(Tracker.blank(three.ids), 0, 6, 0.0)
    assert three.count(indices) == {"copy/0": 1, "sort/0": 2, "sum/0": 3}
    mix = whole.mix(0, 6)
    assert mix is not None and mix.short == {"copy": 1}
    assert replace(whole, quota=None).mix(0, 6) is None


def test_of_a_capability_prompts_come_in_proportion_to_their_chances():
    whole = Curriculum(pool=pool(6, ("sum", "sort")), sampler=Learnability(), quota=Quota(shares={"sum": 1, "sort": 1}))
    tracker = Tracker.begin(whole.pool.ids, measured([0.1, 0.5, 0.3, 0.9, 0.5, 0.5], 10))
    times = np.bincount(np.concatenate([whole.draw(tracker, i, 2, 0.0) for i in range(1500)]), minlength=6)
    p = Learnability().weights(tracker, 0.0)
    expected = 1500 * np.concatenate([p[[i]] / p[i % 2 :: 2].sum() for i in range(6)])
    assert np.sum((times - expected) ** 2 / expected) < 18.5  # 4 degrees


def test_remainders_go_on_from_batch_to_batch():
    whole = Curriculum(pool=pool(30, ("sum", "sort", "copy")), sampler=Uniform())
    whole = replace(whole, quota=Quota(shares={"sum": 1, "sort": 1, "copy": 1}))
    tracker = Tracker.blank(whole.pool.ids)
    drawn = np.concatenate([whole.draw(tracker, number, 4, 0.0) for number in range(6)])
    assert np.bincount(drawn % 3).tolist() == [8, 8, 8]


def test_learnable_prompts_are_drawn_at_their_expected_rate():
    chances = [0.97] * 90 + [0.5] * 10
    whole = Curriculum(pool=pool(100), sampler=Learnability(floor=0.1))
    tracker = Tracker.begin(whole.pool.ids, measured(chances, 1000))
    hits = sum(whole.draw(tracker, number, 1, 0.0)[0] >= 90 for number in range(4_000))
    # Beta(971, 31) and Beta(501, 501): E[p(1-p)] = 0.02995 and 0.24975; 0.9 * 0.24975 / 0.5193 + 0.01 = 0.4429
    assert hits / 4_000 == pytest.approx(0.4429, abs=3 * 0.008)  # three standard errors; uniform is 0.1


def test_a_student_that_knows_nothing_ahead_finds_the_learnable_prompts():
    chances = [0.97] * 180 + [0.5] * 20
    shares = {}
    for sampler in (Uniform(), Learnability()):
        whole = Curriculum(pool=pool(200), sampler=sampler)
        _, drawn = train(whole, Tracker.blank(whole.pool.ids), chances, range(300), 8)
        shares[sampler] = np.mean(np.concatenate(drawn[150:]) >= 180)
    assert shares[Uniform()] == pytest.approx(0.1, abs=0.03)
    assert shares[Learnability()] > 3 * shares[Uniform()]


@pytest.mark.parametrize("sampler", [Learnability(), Rising(), Target(), Prioritised()], ids=str)
def test_over_a_long_run_every_prompt_is_drawn_those_never_solved_too(sampler):
    chances = np.concatenate((np.zeros(10), np.linspace(0.05, 0.95, 20), np.ones(10)))
    whole = Curriculum(pool=pool(40), sampler=sampler)
    tracker, drawn = train(whole, Tracker.blank(whole.pool.ids), chances, range(1000), 4)
    late = np.bincount(np.concatenate(drawn[500:]), minlength=40)
    assert (late > 0).all() and not tracker.live()[:10].any()
    floor = sampler.floor * 4 * 500 / 40  # draws that the floor alone gives to each; more where others are exhausted
    assert late[:10].mean() > 0.6 * floor


def test_a_prompt_that_is_solved_after_all_comes_back_from_quarantine():
    chances = np.array([0.0] * 5 + [0.9] * 15)
    whole = Curriculum(pool=pool(20), sampler=Learnability())
    tracker, before = train(whole, Tracker.blank(whole.pool.ids), chances, range(200), 4)
    chances[:5] = 0.5
    _, after = train(whole, tracker, chances, range(200, 600), 4)
    rates = [np.mean(np.concatenate(part) < 5) for part in (before[100:], after[200:])]
    assert rates[0] < 0.06 and rates[1] > 0.35


def test_the_aim_brings_the_share_of_success_to_its_goal():
    chances = np.linspace(0.02, 0.98, 100)
    whole = Curriculum(pool=pool(100), sampler=Target(success=0.7, start=0.9))
    _, drawn = train(whole, Tracker.blank(whole.pool.ids), chances, range(400), 16)
    assert chances[np.concatenate(drawn[200:])].mean() == pytest.approx(0.7, abs=0.05)


def test_nothing_observed_moves_no_aim():
    whole = Curriculum(pool=pool(3), sampler=Target())
    none = np.array([], int)
    assert whole.observe(Tracker.blank(whole.pool.ids), none, none, none, 0).aim is None


def test_what_cannot_be_drawn_is_refused():
    whole = Curriculum(pool=pool(3), sampler=Uniform())
    with pytest.raises(ValueError, match=r"the tracker knows 1 prompts, \('x',\) first, and the pool has 3, \('p0',\)"):
        whole.draw(Tracker.blank(("x",)), 0, 1, 0.0)
    for number, count, progress in ((-1, 1, 0.0), (0, 0, 0.0), (0, 1, 1.5), (0, 1, float("nan"))):
        with pytest.raises(ValueError, match="number must be 0 or more, count 1 or more, progress within 0 and 1"):
            whole.draw(Tracker.blank(whole.pool.ids), number, count, progress)
    with pytest.raises(ValueError, match="a curriculum's seed is -1; it must be 0 or more"):
        replace(whole, seed=-1)
    with pytest.raises(ValueError, match="the pool has prompts of 'sum', and the quota knows"):
        Curriculum(pool=pool(3), sampler=Uniform(), quota=Quota(shares={"sort": 1}))
