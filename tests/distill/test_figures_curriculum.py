import numpy as np

from distill.figures_curriculum import Band, bands, curriculum
from tests.distill.examined import update


def band(*cells: str) -> Band:
    return Band(task="sort", level="0", cells=cells, color="red", alpha=1.0)


def test_a_reward_counts_as_often_as_it_was_asked():
    rows = [
        {"step": 1, "reward/sort/0": 1.0, "asked/sort/0": 1.0},
        {"step": 2, "reward/sort/0": 0.0, "asked/sort/0": 3.0},
    ]
    np.testing.assert_allclose(band("sort/0").earned(rows, 1), [0.25, 0.25])


def test_a_cell_that_was_not_asked_has_no_reward():
    rows = [
        {"step": 1, "asked/sort/0": 2.0, "reward/sort/0": 0.5},
        {"step": 2},
        {"step": 3, "reward/sort/0": float("nan")},
    ]
    np.testing.assert_allclose(band("sort/0").earned(rows, 0), [0.5, np.nan, np.nan])
    np.testing.assert_allclose(band("sort/0").asked(rows), [2.0, 0.0, 0.0])


def test_cells_of_a_band_are_put_together():
    rows = [{"step": 1, "asked/a/0": 1.0, "reward/a/0": 1.0, "asked/b/0": 3.0, "reward/b/0": 0.0}]
    np.testing.assert_allclose(band("a/0", "b/0").earned(rows, 0), [0.25])


def test_a_band_is_a_task_at_a_level():
    assert [(one.task, one.level) for one in bands([update(1)])] == [("sort", "0"), ("sort", "1")]


def test_levels_have_one_shade_in_all_tasks_and_tasks_one_colour():
    found = bands([{f"asked/{cell}": 1.0 for cell in ("a/0", "a/1", "b/1")}])
    assert found[1].alpha == found[2].alpha > found[0].alpha
    assert found[0].color == found[1].color != found[2].color


def test_of_many_tasks_levels_are_shown():
    found = bands([{f"asked/t{task}/{level}": 1.0 for task in range(13) for level in (0, 1)}])
    assert [(one.task, one.level, len(one.cells)) for one in found] == [("all tasks", "0", 13), ("all tasks", "1", 13)]


def test_shares_of_what_was_asked_fill_the_panel():
    figure = curriculum([update(step) for step in (1, 2)])
    assert figure is not None
    earned, asked = figure.subfigs[0].axes
    assert [list(line.get_ydata()) for line in earned.lines] == [[1.0, 1.0], [0.25, 0.25]]
    tops = [area.get_paths()[0].vertices[:, 1].max() for area in asked.collections]
    np.testing.assert_allclose(tops, [0.25, 1.0])


def test_every_stage_has_a_part_under_its_name():
    figure = curriculum([update(step, stage) for stage in ("rl", "more") for step in (1, 2)])
    assert figure is not None
    assert [part.get_suptitle() for part in figure.subfigs] == ["rl", "more"]
