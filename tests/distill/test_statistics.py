"""Paired differences, checked by hand."""

import math

import pytest

from distill.statistics import paired


def test_the_mean_spread_and_interval_of_three_pairs():
    result = paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])  # differences 1, 2, 3; t(2) at 97.5 % is 4.302653
    assert result.mean == 2 and result.sd == 1 and result.n == 3 and result.wins == 0
    half = 4.302653 / math.sqrt(3)
    assert result.interval == pytest.approx((2 - half, 2 + half), abs=1e-6)


def test_pairing_removes_what_the_seeds_share():
    result = paired([10.0, 20.0, 30.0], [11.0, 21.0, 31.0])
    assert result.mean == -1 and result.sd == 0 and result.interval == (-1, -1) and result.wins == 3


def test_one_seed_has_no_interval_and_says_so():
    result = paired([1.0], [2.0])
    assert (result.mean, result.sd, result.interval, result.wins, result.n) == (-1, None, None, 1, 1)
    assert "one seed: no interval" in str(result)


def test_a_tie_is_no_win():
    assert paired([1.0, 1.0], [1.0, 2.0]).wins == 1


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="two lists of one length.*got 2 and 1"):
        paired([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="got 0 and 0"):
        paired([], [])


def test_a_value_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match=r"b\[1\] is nan; a run that diverged"):
        paired([1.0, 2.0], [1.0, math.nan])
