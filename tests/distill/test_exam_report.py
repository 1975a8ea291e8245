import re

import pytest

from distill import exam_report, figures_exam, figures_rl
from distill.figures import hues
from distill.launch import contrast
from distill.report import print_table, write_report
from tests.distill.examined import marks, pace, pairs, result, update
from tests.distill.test_report import METRICS, RESULTS, TIMINGS, run_folder

SAID = [{"prompt": "<b>7+5=", "right": "12", "said": "12"}, {"prompt": "6+7=", "right": "13", "said": "<i>"}]
ROWS = [
    result("sft", {"sort/0": marks(0.5), "add/0": marks(0.25)}, samples=[one | {"said": "5"} for one in SAID]),
    result("rl", {"sort/0": marks(0.75), "add/0": marks(0.5)}, samples=SAID),
]
DIFFERENCE = {"first": "rl", "second": "sft", "difference": 0.25, "interval": None, "wins": 1, "n": 1}
AFTER = RESULTS | {"models": ROWS, "paired": [], "contrasts": [DIFFERENCE]}
LINES = [
    *METRICS,
    *(update(step) for step in (1, 2, 3)),
    *(pairs(step) for step in (1, 2, 3)),
    {"stage": "dpo", "step": 3, "kind": "stopped", "updates": 2},
    *({"stage": "rl", "step": step, "kind": "exam", "learner": "scout", "exam": step / 4} for step in (1, 2)),
]
HUE = hues(["scout"])


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    import json

    folder = run_folder(tmp_path_factory.mktemp("after") / "herd", results=AFTER, metrics=LINES)
    times = [*TIMINGS, *(pace(step) for step in (1, 2, 3))]
    (folder / "timings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in times))
    return write_report(folder)


def test_every_figure_of_post_training_is_drawn(page):
    assert set(exam_report.FIGURES) <= {path.stem for path in page.parent.glob("figures/*.png")}


def test_training_and_speed_show_only_stages_of_text(page):
    text = page.read_text()
    drawings = {label: part for label, part in re.findall(r'aria-label="(\w+)">(.*?)</svg>', text, re.DOTALL)}
    assert "distil" in drawings["Training"] and ">rl<" not in drawings["Training"]
    assert ">rl<" not in drawings["Speed"]


def test_the_stage_table_as_text():
    assert exam_report.text_tables(AFTER).splitlines() == [
        "exam   stage          pass@1, %            pass@8, %          greedy, %  answer, tokens  entropy, nats",
        "-" * 102,
        "scout  sft    37.5 [31.4, 44.2]    75.0 [69.8, 79.8]  37.5 [31.4, 44.2]            4.50          0.250",
        "scout  rl     62.5 [55.8, 68.6]  100.0 [97.4, 100.0]  62.5 [55.8, 68.6]            4.50          0.250",
        "100 questions a cell, 2 cells. One seed: 95 % intervals in brackets are over the questions (Wilson's in each"
        " cell,",
        "put together), and do not say what another seed would give.",
        "",
        "pass@1, paired by seed  points   95 % interval  above zero",
        "-" * 58,
        "rl − sft                 +25.0  one seed: none      1 of 1",
    ]


def test_it_is_printed_under_the_results(capsys):
    print_table(AFTER)
    assert capsys.readouterr().out.endswith(f"\n\n{exam_report.text_tables(AFTER)}\n")


def test_with_several_seeds_it_says_so():
    rows = [result("sft", {"sort/0": marks(0.5 + seed / 10)}, seed) for seed in (0, 1, 2)]
    text = exam_report.text_tables({"models": rows})
    assert "60.0 [35.2, 84.8]" in text and text.endswith("Student's t over 3 seeds.")


def test_where_seeds_differ_in_number_it_says_which_intervals_are_which():
    rows = [*(result("sft", {"sort/0": marks(0.5)}, seed) for seed in (0, 1)), result("rl", {"sort/0": marks(0.5)})]
    assert "where a learner has one seed, over its questions" in exam_report.text_tables({"models": rows})
    assert "Student's t over 2–3 seeds" in exam_report.text_tables(
        {"models": [*rows, *(result("rl", {"sort/0": marks(0.5)}, seed) for seed in (1, 2))]}
    )


def test_who_answers_more_in_every_seed_is_above_zero_in_all_of_them():
    shares = {"tuned": 0.5, "rewarded": 0.6}
    rows = [result(name, {"sort/0": marks(shares[name])}, seed, name=name) for seed in (0, 1) for name in shares]
    told = exam_report.text_tables({"models": rows, "contrasts": [contrast(rows, "rewarded", "tuned")]})
    assert "interval  above zero" in told and told.endswith("2 of 2")


def test_a_run_that_was_not_examined_has_no_stage_table():
    assert exam_report.text_tables(RESULTS) == exam_report.stage_section(RESULTS, HUE) == ""


def test_every_cell_is_on_the_page_with_its_capability(page):
    assert "strings: add/0" in page.read_text()


def test_samples_are_beside_each_other_and_escaped(page):
    text = page.read_text()
    assert "&lt;b&gt;7+5=" in text and "<b>" not in text and "<i>" not in text
    assert '<td class="text">12</td><td class="text wrong">5</td><td class="text">12</td>' in text
    assert '<td class="text wrong">&lt;i&gt;</td>' in text


def test_the_exam_figure_has_a_panel_for_the_mean_and_one_for_each_cell():
    figure = figures_exam.draw([], ROWS, HUE)["exam"]
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert titles == ["mean over cells", "add, level 0", "sort, level 0"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["sft", "rl"]


def test_many_cells_are_drawn_as_their_mean_alone():
    figure = figures_exam.exam([result("sft", {f"sort/{level}": marks(0.5) for level in range(31)})], HUE)
    assert figure is not None and len(figure.axes) == 1


def test_the_bars_of_lags_are_shares_over_all_updates():
    figure = figures_rl.lag([update(1), update(2, **{"lag/0": 3.0, "lag/1": 1.0})])
    assert figure is not None and len(figure.axes) == 1
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0.5, 0.5, 0.0]


def test_lines_without_what_a_figure_shows_draw_none():
    bare = {"stage": "rl", "step": 1, "kind": "train", "reward": 0.5}
    slow = {"stage": "rl", "step": 1, "seconds": 1.0}
    assert set(figures_rl.draw([bare, bare | {"step": 2}], [slow], HUE)) == {"policy"}
    assert figures_rl.draw(METRICS, TIMINGS, HUE) == {}


def test_what_was_not_measured_is_not_drawn():
    figure = figures_rl.policy([update(1), update(2, length=float("nan")), update(3)], HUE)
    assert figure is not None
    assert list(figure.axes[1].lines[0].get_xdata()) == [1, 3]
