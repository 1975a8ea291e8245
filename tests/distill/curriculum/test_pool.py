"""Pools know their prompts apart."""

from dataclasses import replace

import numpy as np
import pytest

from distill.curriculum.pool import Pool

POOL = Pool(ids=("a", "b", "c"), capabilities=("sum", "sort", "sum"), levels=np.array([0, 2, 1]))


def test_members_are_the_places_of_a_capability():
    assert {name: where.tolist() for name, where in POOL.members.items()} == {"sort": [1], "sum": [0, 2]}


def test_a_part_of_a_pool_keeps_what_belongs_together():
    part = POOL.where(np.array([False, True, True]))
    assert (part.ids, part.capabilities, part.levels.tolist()) == (("b", "c"), ("sort", "sum"), [2, 1])


def test_drawn_prompts_are_counted_by_capability_and_level():
    assert POOL.count(np.array([1, 0, 1])) == {"sort/2": 2, "sum/0": 1}


def test_the_fingerprint_is_of_prompts_and_content_and_not_of_their_order():
    turned = POOL.where(np.array([True, True, True]))
    turned = replace(turned, ids=("c", "a", "b"))
    assert turned.fingerprint == POOL.fingerprint and len(POOL.fingerprint) == 12
    assert replace(POOL, ids=("a", "b", "d")).fingerprint != POOL.fingerprint
    assert replace(POOL, content="v2").fingerprint != POOL.fingerprint


def test_nothing_left_is_refused_with_advice():
    with pytest.raises(
        ValueError, match="none of the pool's 3 prompts is left after filtering; lower a filter's share"
    ):
        POOL.where(np.zeros(3, bool))
    with pytest.raises(ValueError, match="a pool has no prompts; there must be one"):
        Pool(ids=(), capabilities=(), levels=np.array([], int))


def test_a_prompt_without_a_capability_is_refused():
    with pytest.raises(ValueError, match="a pool has 3 ids, 2 capabilities and 3 levels"):
        replace(POOL, capabilities=("sum", "sort"))


def test_ids_that_do_not_tell_prompts_apart_are_refused():
    with pytest.raises(ValueError, match="the prompt 'b' is there 2 times"):
        replace(POOL, ids=("a", "b", "b"))
    for bad in ("", "two\nlines", "\ud800"):
        with pytest.raises(ValueError, match="is no prompt's id; it must be a word that can be printed"):
            replace(POOL, ids=("a", "b", bad))


def test_what_was_measured_of_other_prompts_is_refused_by_name():
    POOL.check("the table", ("c", "b", "a"), POOL.fingerprint)
    with pytest.raises(ValueError, match=r"the table lacks this pool's prompt 'b' \(and 1 more\); measure this pool"):
        POOL.check("the table", ("a",), POOL.fingerprint)
    with pytest.raises(ValueError, match=r"the table knows of what is not in this pool, prompt 'z' \(and 0 more\)"):
        POOL.check("the table", ("a", "b", "c", "z"), POOL.fingerprint)
    with pytest.raises(ValueError, match=f"is of the pool 012, this one is {POOL.fingerprint}: ids are the same"):
        POOL.check("the table", ("a", "b", "c"), "012")


def test_prompts_of_one_capability_and_level_are_of_a_kind():
    made = Pool(ids=("a", "b", "c", "d"), capabilities=("x", "x", "y", "x"), levels=np.array([0, 1, 0, 0]))
    assert made.kinds.tolist() == [0, 1, 2, 0]
