"""What is said of an update: by hand, of three groups."""

import math
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest

from distill.rl.lines import check_mismatch, describe
from distill.rl.rollouts import Rollouts
from distill.rl.stopwatch import Stopwatch
from distill.tasks.item import Item


def asked(task: str, level: int) -> Item:
    """A question of a cell."""
    return Item(id=f"{task}/{level}", capability="strings", task=task, level=level, prompt=f"{task}{level}", answer="a")


def drawn(uid: int, lengths: list[int], rewards: list[float]) -> Rollouts:
    """A group of which only lengths and rewards matter."""
    n = len(lengths)
    return Rollouts(
        uid=uid,
        item=str(uid),
        version=3,
        prompt=np.array([1]),
        tokens=np.ones((n, max(lengths)), np.int32),
        logps=np.zeros((n, max(lengths)), np.float32),
        lengths=np.array(lengths),
        stopped=np.ones(n, bool),
        rewards=np.array(rewards, np.float32),
        outcomes=np.array(rewards) >= 1.0,
    )


HALF = drawn(0, [2, 6], [1.0, 0.0])
MOST = drawn(1, [3, 4, 8, 5], [1.0, 1.0, 0.0, math.nan])
NEVER = drawn(2, [6, 6], [0.0, 0.0])
USED = [(asked("sort", 1), HALF), (asked("sort", 1), MOST), (asked("reverse", 2), NEVER)]
LINE = describe([2, 0], USED, most=2)


def test_groups_that_were_learned_from_are_counted_by_age():
    assert [LINE[f"lag/{lag}"] for lag in range(3)] == [1, 0, 1]
    assert (LINE["lag"], LINE["lag_max"], LINE["groups"]) == (1, 2, 2)


def test_rewards_are_means_over_the_groups_of_a_cell_those_that_were_passed_over_too():
    assert (LINE["asked/sort/1"], LINE["asked/reverse/2"]) == (2, 1)
    assert LINE["reward/sort/1"] == np.mean([1 / 2, 2 / 3]) and LINE["reward/reverse/2"] == 0
    assert LINE["reward"] == np.mean([1 / 2, 2 / 3, 0]) and LINE["level"] == np.mean([1, 1, 2])


def test_a_group_in_which_all_are_equal_has_no_advantage():
    assert (LINE["zero_advantage"], LINE["all_wrong"], LINE["all_right"]) == (1 / 3, 1 / 3, 0)


def test_right_and_wrong_answers_have_their_lengths_and_one_that_nobody_judged_has_neither():
    assert LINE["length_right"] == np.mean([2, 3, 4]) and LINE["length_wrong"] == np.mean([6, 8, 6, 6])
    assert LINE["masked"] == 1 and LINE["length"] == 5


def test_of_nothing_there_is_no_mean():
    line = describe([], [], most=1)
    assert line["groups"] == line["lag/0"] == line["lag/1"] == 0
    assert all(math.isnan(line[name]) for name in ("reward", "lag", "level", "length_right", "zero_advantage"))
    unknown = replace(HALF, rewards=np.full(2, np.nan, np.float32))
    line = describe([], [(asked("sort", 1), unknown)], most=1)
    assert line["asked/sort/1"] == 1 and math.isnan(line["reward/sort/1"])


def test_a_sampler_that_runs_another_model_is_told_of():
    with pytest.warns(RuntimeWarning, match=r"stage 'rl', update 3: .* differ by 1.5e-03 nats .* in float32 .* 0.001"):
        check_mismatch("rl", 3, 1.5e-3, "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_mismatch("rl", 3, 1.5e-3, "bfloat16")
        check_mismatch("rl", 3, math.nan, "float32")


def test_a_stopwatch_counts_what_is_not_over_yet():
    watch = Stopwatch()
    with watch:
        time.sleep(0.01)
        assert watch.seconds >= 0.01
    stood = watch.seconds
    time.sleep(0.01)
    assert watch.seconds == stood >= 0.01
