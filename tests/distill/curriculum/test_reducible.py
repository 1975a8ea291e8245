"""Tables of reducible losses."""

from dataclasses import replace

import numpy as np
import pytest

from distill.curriculum.filter import DropEasiest, DropSolved, DropUnsolved
from distill.curriculum.measured import Measured
from distill.curriculum.pool import Pool
from distill.curriculum.reducible import Reducible
from distill.curriculum.sampler import Hardness
from distill.curriculum.table import Table
from distill.curriculum.tracker import Tracker

POOL = Pool(ids=("a", "b", "c", "d"), capabilities=("code",) * 4, levels=np.zeros(4, int))
TABLE = Reducible(
    ids=POOL.ids,
    losses=np.array([0.7, -0.2, 0.1, 0.0]),
    tokens=np.array([5, 6, 7, 8]),
    model="student",
    teacher="teacher",
    pool=POOL.fingerprint,
)


def test_it_is_a_measurement():
    assert isinstance(TABLE, Measured)


def test_difficulty_is_the_rank_of_what_can_be_reduced():
    assert TABLE.difficulty().tolist() == [0.875, 0.25, 0.625, 0.25]  # the student is ahead, or level: alike


def test_the_easiest_are_those_that_have_nothing_to_reduce():
    assert DropEasiest(share=0.5)(TABLE).tolist() == [True, False, True, False]


def test_a_tracker_begins_with_its_order_and_soon_goes_by_outcomes():
    tracker = Tracker.begin(POOL.ids, TABLE)
    assert np.argsort(tracker.difficulty(), kind="stable").tolist() == [1, 3, 2, 0]
    assert tracker.difficulty()[0] == pytest.approx((1 + 2 * 0.875) / 4)  # as two attempts, and a prior of two
    assert np.array_equal(Hardness()(tracker.belief()), tracker.difficulty())
    after = tracker.observe(np.array([0]), np.array([8]), np.array([8]), 0)
    assert after.difficulty()[0] < after.difficulty().min(initial=1, where=[False, True, True, True])


def test_who_has_not_tried_knows_nothing_of_solved():
    for one in (DropSolved(), DropUnsolved()):
        with pytest.raises(ValueError, match="reducible losses do not say what is solved; use DropEasiest"):
            one(TABLE)


def test_it_is_read_as_it_was_written(tmp_path):
    TABLE.save(tmp_path / "losses.json")
    found = Reducible.load(tmp_path / "losses.json")
    assert found.ids == TABLE.ids and (found.model, found.teacher, found.pool) == ("student", "teacher", TABLE.pool)
    assert np.array_equal(found.losses, TABLE.losses) and np.array_equal(found.tokens, TABLE.tokens)


def test_a_table_of_another_kind_is_refused(tmp_path):
    TABLE.save(tmp_path / "losses.json")
    with pytest.raises(
        ValueError, match="it holds a 'table of reducible losses'; name a file that holds a table of att"
    ):
        Table.load(tmp_path / "losses.json")


def test_rows_by_mask_and_by_name():
    part = TABLE.where(np.array([True, False, True, False]))
    assert part.ids == ("a", "c") and part.losses.tolist() == [0.7, 0.1] and part.tokens.tolist() == [5, 7]
    assert TABLE.over(("d", "a")).losses.tolist() == [0.0, 0.7] and TABLE.over(("d", "a")).tokens.tolist() == [8, 5]


def test_another_pool_student_or_teacher_is_refused():
    TABLE.check(POOL, "student", "teacher")
    with pytest.raises(ValueError, match="the table is of the model student, this one is other"):
        TABLE.check(POOL, "other", "teacher")
    with pytest.raises(ValueError, match="the table is of the teacher teacher, this one is other"):
        TABLE.check(POOL, "student", "other")
    with pytest.raises(ValueError, match="lacks this pool's prompt 'd'"):
        TABLE.over(("a", "b", "c")).check(POOL, "student", "teacher")


def test_impossible_rows_are_refused():
    with pytest.raises(ValueError, match="prompt 'b' has a reducible loss of nan over 6 tokens"):
        replace(TABLE, losses=np.array([0.7, np.nan, 0.1, 0.0]))
    with pytest.raises(ValueError, match="prompt 'a' has a reducible loss of 0.7 over 0 tokens"):
        replace(TABLE, tokens=np.array([0, 6, 7, 8]))
    with pytest.raises(ValueError, match="the prompt 'a' is there 2 times"):
        replace(TABLE, ids=("a", "b", "c", "a"))
    with pytest.raises(ValueError, match="a table has 3 ids, 4 losses and 4 tokens"):
        replace(TABLE, ids=("a", "b", "c"))
