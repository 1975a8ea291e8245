"""What the ablation is read by: pairs of one seed, rivals that are rules, and rows of two sources that become one."""

import json

import pytest

from experiments.weighting_results import FIELDS, Results, draw, matrix, take_up, verdicts

HARD, BEST, DEFAULT = (2.0, 2.2, 2.1), (1.9, 2.0, 2.0), (1.8, 2.1, 1.9)


def rows(**values):
    return [
        {"trial": "live-scout", "method": name.replace("_", "-"), "seed": seed, "cross_entropy": value, "accuracy": 0.5}
        for name, found in values.items()
        for seed, value in enumerate(found)
    ]


@pytest.fixture
def results():
    return Results.of(rows(hard=HARD, linear=BEST, evidence=DEFAULT, oracle=(1.0,) * 3, evidence_window=(1.1,) * 3))


def test_differences_are_of_one_seed(results):
    found = results.difference("live-scout", "evidence", "hard")
    assert found.mean == pytest.approx(-0.5 / 3) and (found.wins, found.n) == (3, 3)


def test_the_best_of_the_others_is_a_rule_and_no_form_of_the_default(results):
    assert results.best("live-scout") == "linear"
    assert "| live-scout | 3 | -0.167 [" in verdicts(results) and "| linear | -0.033 [" in verdicts(results)


def test_the_table_marks_the_best_rule_and_shows_thousandths(results):
    text = matrix(results, "scout").splitlines()
    assert text[0] == "| scout | live |"
    assert "| evidence | -167 |" in text and "| evidence-window | **-1000** |" in text and "| oracle | -1100 |" in text


def test_what_a_sweep_says_stands_before_what_was_there(tmp_path):
    old = [dict(row, cross_entropy=9.0) for row in rows(hard=HARD[:2])]
    new = [{"name": row["method"], "kl": None, **row} for row in rows(hard=HARD[1:2], soft=BEST[:1])]
    for row in new:
        row["seed"] = 1 if row["name"] == "hard" else 0
        del row["method"]
    (tmp_path / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in new))
    found = {(row["method"], int(row["seed"])): row["cross_entropy"] for row in take_up(tmp_path, old)}
    assert found == {("hard", 0): 9.0, ("hard", 1): 2.2, ("soft", 0): 1.9}
    assert all(set(row) == set(FIELDS) for row in take_up(tmp_path, []))


def test_it_can_be_drawn(results):
    shown = [panel for panel in draw(results).axes if panel.get_visible()]
    assert [panel.get_title(loc="left") or panel.get_title() for panel in shown] == ["live-scout"]
