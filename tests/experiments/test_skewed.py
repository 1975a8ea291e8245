"""The pool of skewed.py, and when a share is reached."""

import math
from collections import Counter

import pytest

from distill.run import Run
from distill.tasks.small import Small
from experiments import skewed
from experiments.skewed import Skewed, course, reached, tables


def test_nine_questions_in_ten_are_of_the_easiest_level_and_all_levels_are_held_out_alike():
    small = Small(tasks=("reverse", "sort"), train=90, held_out=8)
    pool = Skewed(small)()
    found = Counter((item.level, item.split) for item in pool)
    assert found == {(0, "train"): 180, (1, "train"): 10, (2, "train"): 10, **{(n, "held_out"): 16 for n in range(3)}}
    assert {item.id for item in pool} <= {item.id for item in small()}


def test_a_share_is_reached_by_the_mean_of_three_looks_on_a_line_between_two():
    looks = [(100.0 * place, share) for place, share in enumerate([0.0, 0.0, 0.0, 0.3, 0.6, 0.6, 0.6])]
    assert reached(looks, 0.2) == pytest.approx(200 + 100 * 0.1 / 0.2)
    assert reached(looks, 0.61) == math.inf
    falls = [(100.0 * place, share) for place, share in enumerate([0.5, 0.5, 0.5, 0.3, 0.3, 0.3, 0.5, 0.5, 0.5])]
    assert reached(falls, 0.45) == 100.0, "it was there at the first of them"


def test_answers_that_are_under_way_are_not_counted(tmp_path):
    with_lines(tmp_path, [("train", 10, 4, None), ("exam", None, None, 0.5), ("train", 20, 5, None)])
    assert course(Run(tmp_path), "arm", samples=8) == [(48.0, 0.5)]


def with_lines(folder, lines, stage="arm"):
    """metrics.jsonl of these kinds, groups admitted and in flight, and shares."""
    from distill.metrics import Metrics

    with Metrics(folder) as metrics:
        for number, (kind, admitted, flying, exam) in enumerate(lines):
            values = {"exam": exam} if kind == "exam" else {"admitted": admitted, "in_flight": flying}
            metrics.write(stage, number, kind=kind, **values)


def test_where_uniform_never_gains_as_much_the_ratio_is_a_bound_by_what_it_drew_until_its_last_mean(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(skewed, "ARMS", {"skewed": ("uniform", "even")})
    monkeypatch.setattr(skewed, "start", lambda run: 0.4)
    flat = [line for n in range(4) for line in (("train", 10 * (n + 1), 0, None), ("exam", None, None, 0.4))]
    rising = [line for n in range(4) for line in (("train", 5 * (n + 1), 0, None), ("exam", None, None, 0.5))]
    with_lines(tmp_path, flat, "uniform-skewed")
    with_lines(tmp_path, rising, "even-skewed")
    uniform, even, *means = tables({3: Run(tmp_path)}, 0.05, samples=1)
    assert uniform.startswith("seed 3 skewed    uniform") and "after    inf answers" in uniform
    assert "after     10 answers, at most 0.33 of uniform" in even
    assert means == ["skewed uniform          did not gain 0.05 in every seed", "skewed even             0.333 "]
