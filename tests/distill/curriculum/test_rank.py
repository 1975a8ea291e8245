"""Ranks with ties, by hand."""

import hashlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as some

from distill.curriculum.rank import lots, places, ranks, shared

VALUES = np.array([3.0, 5.0, 3.0, 1.0])


def test_equal_values_hold_their_places_together():
    first, end = places(VALUES)
    assert first.tolist() == [1, 3, 1, 0] and end.tolist() == [3, 4, 3, 1]


def test_a_rank_is_the_middle_of_the_places():
    assert ranks(VALUES).tolist() == [0.5, 0.875, 0.5, 0.125]


@settings(max_examples=50, deadline=None)
@given(some.lists(some.integers(0, 5), min_size=1, max_size=30))
def test_ranks_are_a_half_on_average_and_keep_the_order(values):
    found = ranks(np.array(values, np.float64))
    assert abs(found.mean() - 0.5) < 1e-12 and found.min() > 0 and found.max() < 1
    assert all(
        (a < b) == (x < y) for a, x in zip(values, found, strict=True) for b, y in zip(values, found, strict=True)
    )


def test_what_places_give_is_shared_by_those_who_hold_them():
    first, _ = places(VALUES)
    assert shared(first, np.array([8.0, 4.0, 2.0, 1.0])).tolist() == [3.0, 1.0, 3.0, 8.0]


def test_a_lot_follows_from_purpose_seed_and_id():
    assert lots(("a", "b"), 7, "ties")[1] == int(hashlib.sha256(b"ties:7:b").hexdigest()[:16], 16)
