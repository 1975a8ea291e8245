"""Filters drop exactly what they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from distill.curriculum.filter import Chain, DropEasiest, DropSolved, DropUnsolved, Filter, RandomShare, keep
from distill.curriculum.pool import Pool
from distill.curriculum.table import Table


def table(successes, attempts=8):
    ids = tuple(f"p{i}" for i in range(len(successes)))
    counts = np.array(successes, int)
    tried = np.full(len(ids), attempts) if isinstance(attempts, int) else np.array(attempts)
    return Table(ids=ids, attempts=tried, successes=counts, model="m", pool="p", seeds=(0,), temperature=1.0)


def test_the_easier_half_goes():
    assert DropEasiest(share=0.5)(table([8, 1, 5, 0])).tolist() == [False, True, False, True]


def test_nineteen_of_twenty_go_and_the_hardest_stays():
    stays = DropEasiest(share=0.95)(table([3] * 13 + [2] + [3] * 6))
    assert stays.sum() == 1 and stays[13]


@settings(max_examples=60, deadline=None)
@given(some.lists(some.integers(0, 3), min_size=1, max_size=40), some.floats(0, 0.99), some.integers(0, 99))
def test_exactly_the_share_goes_and_nothing_that_stays_is_easier_than_what_goes(successes, share, seed):
    found, control = DropEasiest(share=share, seed=seed), RandomShare(share=share, seed=seed)
    measured = table(successes, 3)
    stays = found(measured)
    assert (~stays).sum() == round(share * len(successes)) == (~control(measured)).sum()
    difficulty = measured.difficulty()
    assert difficulty[stays].min(initial=1) >= difficulty[~stays].max(initial=0)


def test_of_equally_easy_ones_lots_by_id_say_who_goes():
    alike = table([4] * 200)
    one, other = DropEasiest(share=0.5, seed=1)(alike), DropEasiest(share=0.5, seed=2)(alike)
    assert 35 < (one & other).sum() < 65  # half of a half: 50; all 100 if the seed said nothing
    turned = alike.over(alike.ids[::-1])
    assert np.array_equal(DropEasiest(share=0.5, seed=1)(turned), one[::-1])
    assert not np.array_equal(RandomShare(share=0.5, seed=1)(alike), one)  # lots of another purpose


def test_always_and_never_solved_ones_go():
    measured = table([8, 0, 4, 2, 0], [8, 8, 8, 2, 2])
    assert DropSolved(attempts=8)(measured).tolist() == [False, True, True, True, True]
    assert DropUnsolved(attempts=8)(measured).tolist() == [True, False, True, True, True]


def test_in_a_chain_each_sees_what_is_left():
    chain = Chain((DropSolved(), DropUnsolved(), DropEasiest(share=0.5)))
    assert isinstance(chain, Filter)
    assert chain(table([8, 8, 8, 0, 7, 1])).tolist() == [False, False, False, False, False, True]
    assert Chain(())(table([8, 0])).tolist() == [True, True]


def test_a_pool_is_filtered_by_name_whatever_the_order_of_the_table():
    measured = table([8, 1, 5, 0])
    pool = Pool(ids=("p3", "p0", "p1"), capabilities=("sum",) * 3, levels=np.array([3, 0, 1]))
    assert keep(pool, measured, DropSolved()).ids == ("p3", "p1")
    with pytest.raises(ValueError, match="none of the pool's 3 prompts is left after filtering"):
        keep(pool, table([8, 8, 8, 8]), DropSolved())
    with pytest.raises(ValueError, match="the table has no prompt 'p3'"):
        keep(pool, table([8, 8]), DropSolved())


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
@pytest.mark.parametrize("kind", [DropEasiest, RandomShare])
def test_a_share_that_leaves_nothing_is_refused(kind, share):
    with pytest.raises(ValueError, match=f"{kind.__name__}.*share must be from 0 to below 1"):
        kind(share=share)


@pytest.mark.parametrize("kind", [DropSolved, DropUnsolved])
def test_no_attempts_say_nothing(kind):
    with pytest.raises(ValueError, match=f"{kind.__name__}.*attempts must be at least 1"):
        kind(attempts=0)
