import math

import pytest

from distill.standing import cells_of, rank, standings, titles
from distill.statistics import over_questions, over_seeds
from tests.distill.examined import marks, result


def test_one_cell_has_the_interval_of_wilson():
    """As 95 of 100 has by R's prop.test(95, 100, correct = FALSE)."""
    assert over_questions([0.95], [100]).interval == pytest.approx((0.88825, 0.97846), abs=1e-5)


def test_a_cell_without_a_right_answer_has_an_interval_all_the_same():
    low, high = over_questions([0.0], [96]).interval or (0, 0)
    z2 = 1.959964**2
    assert low == pytest.approx(0.0, abs=1e-12) and high == pytest.approx(z2 / (96 + z2), rel=1e-5)


def test_the_mean_of_four_like_cells_is_known_twice_as_well_as_one():
    low, high = over_questions([0.3], [50]).interval or (0, 0)
    found = over_questions([0.3] * 4, [50] * 4)
    assert found.mean == pytest.approx(0.3)
    assert found.interval == pytest.approx((0.3 - (0.3 - low) / 2, 0.3 + (high - 0.3) / 2))


def test_the_interval_over_questions_holds_the_truth_as_often_as_it_says():
    import numpy as np

    rng, truth = np.random.default_rng(0), np.array([0.9, 0.5, 0.05])
    drawn = rng.binomial(96, truth, (1000, 3)) / 96
    ends = np.array([over_questions(list(shares), [96] * 3).interval for shares in drawn])
    assert 0.93 < ((ends[:, 0] <= truth.mean()) & (truth.mean() <= ends[:, 1])).mean() < 0.97


@pytest.mark.parametrize(
    ("shares", "questions", "wrong"),
    [([], [], "of the same cells; got 0 and 0"), ([0.5], [1, 2], "got 1 and 2"), ([0.5, 1.5], [3, 3], "cell 1 has")],
)  # fmt: skip
def test_shares_that_are_none_are_refused(shares, questions, wrong):
    with pytest.raises(ValueError, match=wrong):
        over_questions(shares, questions)


def test_over_seeds_it_is_students_t():
    found = over_seeds([1.0, 2.0, 3.0])
    assert found.mean == 2.0 and found.interval == pytest.approx((2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), rel=1e-5)
    assert over_seeds([1.0]).interval is None


def test_a_learner_stands_at_the_mean_of_its_cells():
    (found,) = standings([result("sft", {"sort/0": marks(0.9), "sort/1": marks(0.5)})])
    assert (found.stage, found.name, found.seeds) == ("sft", "scout", 1)
    assert found.overall["pass@1"].mean == pytest.approx(0.7)
    assert found.cells["sort/1"]["pass@1"].mean == 0.5


def test_with_one_seed_intervals_are_over_questions_and_lengths_have_none():
    (found,) = standings([result("sft", {"sort/0": marks(0.95)})])
    assert found.overall["pass@1"] == over_questions([0.95], [100])
    assert found.overall["tokens"].interval is None


def test_where_the_spread_over_questions_is_known_the_interval_is_as_wide_as_it_says():
    (found,) = standings([result("sft", {"sort/0": marks(0.5, error=0.025)})])
    assert found.overall["pass@1"] == over_questions([0.5], [400])  # 0.5 * 0.5 / 0.025 ** 2
    assert found.overall["greedy"] == over_questions([0.5], [100])


@pytest.mark.parametrize(("error", "coins"), [(0.0, 100), (None, 100), (0.2, 100), (0.001, 1600)])
def test_questions_tell_as_much_as_one_attempt_at_each_and_at_most_all_attempts(error, coins):
    (found,) = standings([result("sft", {"sort/0": marks(0.5, error=error)})])
    assert found.overall["pass@1"] == over_questions([0.5], [coins])


def test_learners_are_called_by_what_keeps_them_apart():
    assert titles([("sft", "scout"), ("rl", "scout")]) == ["sft", "rl"]
    assert titles([("sft", "sft"), ("rl", "scout")]) == ["sft", "rl: scout"]


def test_with_several_seeds_intervals_are_over_seeds():
    (found,) = standings([result("sft", {"sort/0": marks(value)}, seed) for seed, value in enumerate((0.4, 0.5, 0.6))])
    assert found.overall["pass@1"] == over_seeds([0.4, 0.5, 0.6])
    assert found.overall["tokens"].interval == (4.5, 4.5)


def test_no_share_is_above_one():
    (found,) = standings([result("sft", {"sort/0": marks(value)}, seed) for seed, value in enumerate((0.5, 1.0))])
    assert found.overall["pass@1"].interval == (0.0, 1.0)


def test_stages_are_in_the_order_of_the_rows_and_those_without_an_exam_are_left_out():
    rows = [result("teach", None), result("sft", {"sort/0": marks(0.1)}), result("rl", {"sort/0": marks(0.2)})]
    assert [one.stage for one in standings(rows)] == ["sft", "rl"]


def test_marks_that_are_missing_or_none_are_left_out():
    bad = marks(0.5, greedy=math.nan)
    del bad["pass@k"]
    (found,) = standings([result("sft", {"sort/0": bad})])
    assert set(found.overall) == {"pass@1", "tokens", "surprise"}


def test_cells_are_in_the_order_of_capabilities_and_levels():
    exam = {f"sort/{level}": marks(0.5, capability="order") for level in (10, 9)} | {"add/0": marks(0.5)}
    assert [cell.name for cell in cells_of([exam])] == ["sort/9", "sort/10", "add/0"]
    assert sorted(["b", "10", "9"], key=rank) == ["9", "10", "b"]
