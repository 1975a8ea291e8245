"""Estimates from attempts, against counting all cases."""

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from distill.curriculum.estimate import Belief, Prior, learnability, pass_at_k


def ints(*values):
    return np.array(values, np.int64)


def floats(*values):
    return np.array(values, np.float64)


def test_pass_at_2_of_two_successes_in_four_attempts_is_five_sixths():
    assert pass_at_k(ints(4), ints(2), 2) == pytest.approx([5 / 6])  # of six pairs one has no success


def test_pass_at_k_is_the_share_of_all_choices_of_k_attempts_that_have_a_success():
    for n, c, k in ((5, 0, 3), (5, 1, 3), (6, 4, 2), (6, 4, 3), (7, 7, 1)):
        outcomes = [1] * c + [0] * (n - c)
        share = np.mean([any(chosen) for chosen in combinations(outcomes, k)])
        assert pass_at_k(ints(n), ints(c), k) == pytest.approx([share])


def test_pass_at_1_is_the_success_rate():
    assert pass_at_k(ints(8, 16, 3), ints(2, 16, 0), 1) == pytest.approx([0.25, 1.0, 0.0])


def test_pass_at_k_is_exactly_1_when_fewer_than_k_attempts_failed():
    assert pass_at_k(ints(8, 8), ints(6, 5), 3).tolist() == [1.0, 1 - 1 / 56]


@settings(max_examples=50, deadline=None)
@given(some.integers(1, 400), some.data())
def test_pass_at_k_is_the_quotient_of_binomials(n, data):
    c, k = data.draw(some.integers(0, n)), data.draw(some.integers(1, n))
    exact = 1 - Fraction(comb(n - c, k), comb(n, k))
    assert pass_at_k(ints(n), ints(c), k)[0] == pytest.approx(float(exact), abs=1e-12)


def test_pass_at_k_and_learnability_are_unbiased():
    n, k, p = 6, 3, 0.3
    chance = floats(*(comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)))
    attempts, successes = np.full(n + 1, n), np.arange(n + 1)
    assert chance @ pass_at_k(attempts, successes, k) == pytest.approx(1 - (1 - p) ** k)
    assert chance @ learnability(attempts, successes) == pytest.approx(p * (1 - p))
    with_replacement = 1 - (1 - successes / n) ** k
    assert chance @ with_replacement < 1 - (1 - p) ** k - 0.05


def test_learnability_is_the_share_of_ordered_pairs_that_end_differently_one_way():
    assert learnability(ints(4, 4, 4), ints(2, 0, 4)) == pytest.approx([4 / 12, 0, 0])


def test_k_above_the_attempts_is_refused():
    with pytest.raises(
        ValueError, match="pass@5 of prompt 1 does not follow from its 4 attempts; measure with at least 5"
    ):
        pass_at_k(ints(8, 4), ints(1, 1), 5)
    with pytest.raises(ValueError, match="pass@0: k must be at least 1"):
        pass_at_k(ints(8), ints(1), 0)


def test_one_attempt_has_no_variance():
    with pytest.raises(ValueError, match="prompt 0 has 1 attempts, and a variance needs 2"):
        learnability(ints(1), ints(1))


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="prompt 1 has 9 successes in 8 attempts"):
        pass_at_k(ints(8, 8), ints(8, 9), 1)
    with pytest.raises(ValueError, match="prompt 0 has -1 successes"):
        learnability(ints(8), ints(-1))


def test_laplaces_rule_of_succession():
    belief = Prior().after(ints(0, 3, 8), ints(0, 1, 0))
    assert belief.mean() == pytest.approx([1 / 2, 4 / 6, 9 / 10])


def test_a_beliefs_learnability_is_the_integral_of_the_variance_over_it():
    a, b = 3.5, 1.25
    p = (np.arange(200_000) + 0.5) / 200_000
    density = p ** (a - 1) * (1 - p) ** (b - 1)
    integral = np.sum(density * p * (1 - p)) / np.sum(density)
    assert Belief(floats(a), floats(b)).learnability() == pytest.approx([integral], rel=1e-4)


def test_the_interval_of_an_even_belief_leaves_out_as_much_on_either_side():
    low, high = Belief(floats(1, 2), floats(1, 1)).interval(0.9)  # of Beta(2, 1) the distribution is p^2
    assert low == pytest.approx([0.05, 0.05**0.5]) and high == pytest.approx([0.95, 0.95**0.5])
    with pytest.raises(ValueError, match="an interval of mass 1.0 must lie between 0 and 1"):
        Belief(floats(1), floats(1)).interval(1.0)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_prior_without_mass_is_refused(bad):
    with pytest.raises(ValueError, match="both must be above 0 and finite"):
        Prior(1.0, bad)
