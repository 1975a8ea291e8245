"""What the ablation is read by: pairs of one seed, rivals that are rules, and rows of two sources that become one."""

import json

import pytest

from experiments.weighting_results import FIELDS, Results, draw, matrix, setup, summary, take_up, verdicts

HARD, BEST, DEFAULT = (2.0, 2.2, 2.1), (1.9, 2.0, 2.0), (1.8, 2.1, 1.9)


def rows(**values):
    return [
        {"trial": "live-scout", "method": name.replace("_", "-"), "seed": seed, "cross_entropy": value}
        | {"accuracy": 0.5, "setup": "a"}
        for name, found in values.items()
        for seed, value in enumerate(found)
    ]


@pytest.fixture
def results():
    return Results.of(rows(hard=HARD, linear=BEST, evidence=DEFAULT, oracle=(1.0,) * 3, evidence_window=(1.1,) * 3))


def test_differences_are_of_one_seed(results):
    found = results.difference("live-scout", "evidence", "hard")
    assert found.mean == pytest.approx(-0.5 / 3) and (found.wins, found.n) == (3, 3)


def test_the_best_of_the_others_is_a_rule_and_both_with_and_without_forms_of_the_default_are_told(results):
    assert [results.best("live-scout", family) for family in (False, True)] == ["linear", "evidence-window"]
    (line,) = (line for line in verdicts(results).splitlines() if line.startswith("| live-scout"))
    cells = [cell.strip().split(" [")[0] for cell in line.split("|")[1:-1]]
    assert cells == ["live-scout", "3", "-0.167", "linear", "-0.033", "evidence-window", "+0.833", "+0.933"]


def test_the_summary_says_a_rules_mean_and_where_it_is_farthest_behind():
    one = rows(hard=HARD, linear=BEST, evidence=DEFAULT)
    two = [row | {"trial": "weak-scout"} for row in rows(hard=HARD, linear=HARD, evidence=DEFAULT, oracle=BEST)]
    text = summary(Results.of([*one, *two])).splitlines()
    assert text[0].startswith("| 2 trials |")
    assert text[2:] == [
        "| evidence | -167 | +0 (weak-scout) |",
        "| linear | -67 | +167 (weak-scout) |",
        "| hard | +0 | +167 (weak-scout) |",
    ]


def test_trials_of_few_students_are_no_panels_and_follow_the_others():
    found = rows(hard=HARD, linear=BEST, evidence=DEFAULT, soft=HARD, gap=HARD)
    few = [row | {"trial": "live-forms-scout"} for row in rows(hard=HARD, evidence=DEFAULT)]
    other = [row | {"trial": "reliable-maverick"} for row in found]
    results = Results.of([*few, *other, *found, *(row | {"trial": "reliable-scout"} for row in found)])
    assert list(results.values) == ["reliable-scout", "live-scout", "live-forms-scout", "reliable-maverick"]
    assert results.full() == ["reliable-scout", "live-scout", "reliable-maverick"]


def test_the_table_marks_the_best_rule_and_shows_thousandths(results):
    text = matrix(results, ["live-scout"]).splitlines()
    assert text[0] == "| | live-scout |"
    assert "| evidence | -167 |" in text and "| evidence-window | **-1000** |" in text and "| oracle | -1100 |" in text


def test_what_a_sweep_says_of_a_seed_stands_in_place_of_what_was_there(tmp_path):
    old = rows(hard=HARD[:2], gone=HARD[:2])
    folder = tmp_path / "seed1" / "live-scout"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"seed": 1, "given": [1], "name": "live-scout"}))
    (folder / "results.json").write_text(json.dumps({"corpus": "abc"}))
    new = {"trial": "live-scout", "name": "hard", "seed": 1, "cross_entropy": 9.0, "accuracy": 0.1, "kl": None}
    (tmp_path / "trials.jsonl").write_text(json.dumps(new) + "\n")
    found = take_up(tmp_path, old)
    assert {(row["method"], int(row["seed"])): row["cross_entropy"] for row in found} == {
        ("hard", 0): 2.0,
        ("hard", 1): 9.0,
        ("gone", 0): 2.0,
    }
    assert all(set(row) == set(FIELDS) for row in take_up(tmp_path, []))
    with pytest.raises(ValueError, match=r"rows of \['live-scout'\] come from different configurations"):
        Results.of(found)


def test_a_setup_is_what_was_run_whatever_the_seed(tmp_path):
    hashes = []
    for seed, width in ((0, 64), (1, 64), (1, 48)):
        (tmp_path / "config.json").write_text(json.dumps({"seed": seed, "given": [f"runs/seed{seed}"], "width": width}))
        (tmp_path / "results.json").write_text(json.dumps({"corpus": "abc"}))
        hashes.append(setup(tmp_path))
    assert hashes[0] == hashes[1] != hashes[2]
    (tmp_path / "config.json").write_text(json.dumps({"seed": 1, "given": [], "width": 48, "new": [], "other": None}))
    assert setup(tmp_path) == hashes[2]  # what a later version can do beside is off


def test_a_run_that_diverged_is_no_pair_and_an_empty_table_is_refused():
    found = Results.of(rows(hard=HARD, evidence=(1.8, float("nan"), 1.9))).difference("live-scout", "evidence", "hard")
    assert found.n == 2
    with pytest.raises(ValueError, match="has no rows; run the sweep"):
        Results.of([])


def test_it_can_be_drawn(results):
    shown = [panel for panel in draw(results).axes if panel.get_visible()]
    assert [panel.get_title(loc="left") or panel.get_title() for panel in shown] == ["live-scout"]
