"""Mixes by share: each batch nearly, all batches together exactly."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from distill.curriculum.quota import Quota


def room(quota):
    return dict.fromkeys(quota.shares, 10**6)


def test_whole_shares_are_met_in_every_batch():
    quota = Quota(shares={"a": 0.5, "b": 0.3, "c": 0.2})
    for batch in range(5):
        mix = quota.mix(10 * batch, 10, room(quota))
        assert mix.counts == {"a": 5, "b": 3, "c": 2} and not mix.short


def test_the_largest_remainder_gets_what_is_over():
    quota = Quota(shares={"a": 0.5, "b": 0.3, "c": 0.2})
    assert quota.mix(0, 7, room(quota)).counts == {"a": 4, "b": 2, "c": 1}  # of 3.5, 2.1 and 1.4


def test_remainders_go_round():
    quota = Quota(shares={"a": 1, "b": 1, "c": 1})
    mixes = [quota.mix(4 * batch, 4, room(quota)).counts for batch in range(3)]
    assert mixes == [{"a": 2, "b": 1, "c": 1}, {"a": 1, "b": 2, "c": 1}, {"a": 1, "b": 1, "c": 2}]


shares = some.dictionaries(some.sampled_from("abcde"), some.integers(0, 20), min_size=1).filter(
    lambda s: any(s.values())
)


@settings(max_examples=40, deadline=None)
@given(shares, some.integers(1, 40), some.integers(0, 20))
def test_over_a_cycle_of_batches_every_share_is_met_exactly(parts, size, first):
    quota, total = Quota(shares=parts), sum(parts.values())
    given = Counter()
    for batch in range(total):  # so many batches are `size` cycles
        mix = quota.mix(size * (first + batch), size, room(quota))
        assert sum(mix.counts.values()) == size and not mix.short
        given.update(mix.counts)
    assert given == {name: size * part for name, part in parts.items()}


@settings(max_examples=40, deadline=None)
@given(shares, some.integers(1, 300))
def test_nobody_is_ever_ahead_of_its_share_by_one(parts, size):
    counts, total = Quota(shares=parts).mix(0, size, dict.fromkeys(parts, size)).counts, sum(parts.values())
    assert all(counts[name] - Fraction(size * part, total) < 1 for name, part in parts.items())


def test_a_floor_is_what_each_has_at_least():
    quota = Quota(shares={"a": 1, "b": 0, "c": 3}, floor=0.1)  # 0.1 + 0.7 * (1/4, 0, 3/4)
    assert quota.mix(0, 40, room(quota)).counts == {"a": 11, "b": 4, "c": 25}


def test_shares_are_in_any_unit():
    one, other = Quota(shares={"a": 2, "b": 1}), Quota(shares={"a": 2 / 3, "b": 1 / 3})
    assert all(one.mix(7 * i, 7, room(one)) == other.mix(7 * i, 7, room(one)) for i in range(9))


def test_others_fill_in_for_who_has_too_few_and_it_is_said():
    quota = Quota(shares={"a": 2, "b": 1, "c": 1})
    mix = quota.mix(0, 8, {"a": 1, "b": 9, "c": 9})
    assert mix.counts == {"a": 1, "b": 4, "c": 3} and mix.short == {"a": 3}
    mix = quota.mix(0, 8, {"a": 9, "b": 9})
    assert mix.counts == {"a": 5, "b": 3, "c": 0} and mix.short == {"c": 2}


def test_who_has_no_share_fills_in_last():
    quota = Quota(shares={"a": 1, "b": 1, "c": 0})
    assert quota.mix(0, 8, {"a": 3, "b": 4, "c": 9}).counts == {"a": 3, "b": 4, "c": 1}


@settings(max_examples=60, deadline=None)
@given(shares, some.data())
def test_a_mix_never_has_more_than_there_are(parts, data):
    have = {name: data.draw(some.integers(0, 9)) for name in parts}
    size = data.draw(some.integers(0, sum(have.values())))
    mix = Quota(shares=parts).mix(data.draw(some.integers(0, 10**9)), size, have)
    assert sum(mix.counts.values()) == size and all(mix.counts[name] <= have[name] for name in parts)
    assert all(mix.counts[name] == have[name] for name in mix.short)


def test_more_than_there_is_is_refused():
    with pytest.raises(ValueError, match="a batch of 5 prompts cannot be drawn from 4 without repeating one"):
        Quota(shares={"a": 1}).mix(0, 5, {"a": 4})


def test_prompts_of_a_capability_without_a_share_are_refused():
    with pytest.raises(ValueError, match=r"the pool has prompts of 'b', and the quota knows \['a'\]; give it a share"):
        Quota(shares={"a": 1}).mix(0, 1, {"a": 4, "b": 4})


@pytest.mark.parametrize(
    ("shares", "floor", "says"),
    [
        ({}, 0.0, "name capabilities with shares of 0 or more"),
        ({"a": -1.0}, 0.0, "name capabilities with shares of 0 or more"),
        ({"a": float("nan")}, 0.0, "name capabilities with shares of 0 or more"),
        ({"a": float("inf")}, 0.0, "name capabilities with shares of 0 or more"),
        ({"a": 0.0, "b": 0.0}, 0.0, "are all 0; one at least must be more"),
        ({"a": 1.0, "b": 1.0}, 0.6, "floor is 0.6 for each of 2 capabilities; it must lie within 0 and 0.5"),
        ({"a": 1.0, "b": 1.0}, -0.1, "floor is -0.1"),
        ({"a": 1.0, "b": 1e-9}, 0.0, "are too uneven: below one in 20000 a share is none"),
        ({"a": 1 / 9973, "b": 1 / 9967, "c": 1.0}, 0.0, "come out even after .* prompts only, and 100000 is the most"),
    ],
)
def test_shares_that_cannot_be_are_refused(shares, floor, says):
    with pytest.raises(ValueError, match=says):
        Quota(shares=shares, floor=floor)
