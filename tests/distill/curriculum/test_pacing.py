"""In which order documents are read: by hand, and in numbers."""

import numpy as np
import pytest

from distill.curriculum.pacing import Pacing, check_pacing, schedule
from distill.curriculum.reducible import Reducible
from distill.curriculum.sampler import Learnability, Rising, Sliding, Uniform

COUNT = 60
TABLE = Reducible(
    ids=tuple(str(i) for i in range(COUNT)), losses=np.linspace(0.1, 1.0, COUNT), tokens=np.full(COUNT, 9),
    model="student", teacher="teacher", pool="pool",
)  # fmt: skip
SIZES = np.random.default_rng(0).integers(5, 50, COUNT).astype(float)
TOTAL = int(SIZES.sum())
FALLING = Sliding(begins=0.7, ends=0.0, width=0.3)
RULES = (Uniform(), Rising(), FALLING, Learnability(temperature=0.1), Sliding())


def order(rule, epochs=8, reserve=0, seed=0):
    return schedule(rule, TABLE, SIZES, epochs * TOTAL, reserve, seed)


def test_where_all_are_alike_every_epoch_is_a_shuffle_of_all():
    epochs = order(Uniform(), 3).reshape(3, COUNT)
    assert [sorted(epoch) for epoch in epochs.tolist()] == [list(range(COUNT))] * 3
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3
    assert epochs[0].tolist() != sorted(epochs[0])


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_every_rule_takes_as_many_tokens(rule):
    found = order(rule, 2)
    assert 2 * TOTAL <= SIZES[found].sum() < 2.1 * TOTAL


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_none_starves(rule):
    # In 20 epochs, a floor of 0.1 expects each to be read about twice.
    assert np.bincount(order(rule, 20), minlength=COUNT).min() >= 1


def test_none_is_read_more_than_once_above_or_below_what_is_expected():
    half = Sliding(begins=0.5, ends=0.5, width=0.5, floor=0.1)
    chances = np.where(np.arange(COUNT) < COUNT // 2, 0.1, 1.9) / COUNT
    expected = chances * 8 * TOTAL / (chances @ SIZES)
    assert np.abs(np.bincount(order(half), minlength=COUNT) - expected).max() < 1.2


def test_a_window_that_rises_reads_easy_ones_first_and_one_that_falls_last():
    rising, falling = ([part.mean() / COUNT for part in np.array_split(order(rule), 3)] for rule in (Rising(), FALLING))
    assert rising[0] < 0.4 < rising[1] < 0.6 < rising[2]
    assert falling[0] > 0.6 > falling[1] > 0.4 > falling[2]


def test_it_follows_from_the_seed_and_a_reserve_only_goes_on():
    one = order(Rising())
    np.testing.assert_array_equal(one, order(Rising()))
    np.testing.assert_array_equal(one, order(Rising(), reserve=500)[: len(one)])
    assert one.tolist() != order(Rising(), seed=1).tolist()


def test_a_window_has_rows():
    with pytest.raises(ValueError, match="window is 0; it must be at least 1 row"):
        Pacing(by="base", window=0)


def test_it_needs_somebody_to_measure_and_a_teacher_to_measure_against():
    check_pacing("learn", None, (), False)
    check_pacing("learn", Pacing(by="base"), ("base",), True)
    with pytest.raises(ValueError, match="stage 'learn': pacing goes by what a frozen teacher in memory says"):
        check_pacing("learn", Pacing(by="base"), ("base",), False)
    with pytest.raises(ValueError, match="paced by the loss of 'base', which is not given"):
        check_pacing("learn", Pacing(by="base"), ("other",), True)
