import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distill import figures
from distill.report import FIGURES, count, print_table, write_report


def model(name: str, stage: str, seed: int = 0, **values) -> dict:
    row = {"seed": seed, "stage": stage, "name": name, "cross_entropy": 2.0, "accuracy": 0.5, "kl": 0.25}
    row |= {"agreement": 0.75, "parameters": 2_000_000, "active": 500_000, "tokens": 128_000, "seconds": 61.2}
    return row | {"expert_load": [[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]]} | values


TEACHER = model("behemoth", "teach", kl=None, agreement=None)
PAIRED = {
    "name": "scout",
    "first": "distil",
    "second": "alone",
    "difference": -0.08,
    "interval": None,
    "wins": 1,
    "n": 1,
}
RESULTS = {
    "corpus": "0123456789ab",
    "date": "2026-01-31",
    "seeds": [0],
    "models": [TEACHER, model("scout", "distil"), model("scout", "alone")],
    "paired": [PAIRED],
}


def line(stage: str, step: int, **values) -> dict:
    return {"stage": stage, "step": step, "kind": "train"} | {f"scout/{key}": value for key, value in values.items()}


METRICS = [
    *(
        line("distil", i, hard=3 / (i + 1), soft=1.0, teacher_hard=0.5, alpha=0.9, agreement=0.5, accuracy=0.4)
        for i in range(4)
    ),
    *(line("alone", i, hard=3 / (i + 1), alpha=0.0, accuracy=0.4) for i in range(4)),
]
TIMINGS = [{"stage": "distil", "step": i, "seconds": 1.5, "tokens_per_second": 100.0, "mfu": None} for i in range(4)]


def run_folder(folder: Path, name: str = "herd", results: dict = RESULTS, metrics: list = METRICS) -> Path:
    folder.mkdir(exist_ok=True)
    place = {
        "python": "3.11.0",
        "packages": {"jax": "0.10.2", "grain": None},
        "commit": "f00d",
        "devices": ["cpu", "cpu", 1],
    }
    (folder / "config.json").write_text(json.dumps({"schema": 1, "class": "Experiment", "name": name}))
    (folder / "environment.json").write_text(json.dumps([place]))
    (folder / "results.json").write_text(json.dumps(results))
    for file, rows in (("metrics.jsonl", metrics), ("timings.jsonl", TIMINGS)):
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return write_report(run_folder(tmp_path_factory.mktemp("runs") / "herd"))


def test_the_page_and_a_png_of_every_figure_are_written(page):
    assert page.name == "report.html"
    assert {path.stem for path in page.parent.glob("figures/*.png")} == set(FIGURES)
    assert page.read_text().count("<svg ") == 5


def test_the_page_loads_nothing(page):
    text = page.read_text()
    loads = re.sub(r'xmlns(:xlink)?="[^"]*"', "", text)  # the name of a format, which no browser fetches
    assert not re.search(r"https?:|//[a-z]|<script|<link|<img|@import|@font-face", loads)
    assert set(re.findall(r"url\((.)", text)) <= {"#"}


def test_names_are_escaped(tmp_path):
    bad = "<script>alert('$x$')</script>"
    results = RESULTS | {"models": [model(bad, bad)], "paired": [PAIRED | {"name": bad}], "date": bad, "corpus": bad}
    metrics = [
        {"stage": bad, "step": i, "kind": "train", f"{bad}/hard": 1.0, f"{bad}/agreement": 0.5} for i in range(3)
    ]
    text = write_report(run_folder(tmp_path, name=bad, results=results, metrics=metrics)).read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_the_header_says_what_it_takes_to_run_it_again(page):
    for fact in ("<h1>herd</h1>", "2026-01-31", "0123456789ab", "f00d", "python 3.11.0, jax 0.10.2<"):
        assert fact in page.read_text()


def test_figures_take_their_neutral_colours_from_the_page(page):
    drawings = page.read_text().split("<svg ")[1:]
    for color in (figures.INK, figures.MUTED, figures.LINE):
        assert not any(color in drawing for drawing in drawings)
    assert all("var(--ink)" in drawing for drawing in drawings)


def test_the_same_run_gives_the_same_page(page, tmp_path):
    assert write_report(run_folder(tmp_path / "again")).read_bytes() == page.read_bytes()


def test_a_run_without_a_teacher_has_no_figures_of_one(tmp_path):
    metrics = [line("alone", i, hard=1.0, alpha=0.0, accuracy=0.1) for i in range(3)]
    results = RESULTS | {"models": [model("scout", "alone", kl=None, agreement=None)], "paired": []}
    text = write_report(run_folder(tmp_path, results=results, metrics=metrics)).read_text()
    assert text.count("<svg ") == 3
    assert "<th>agreement</th>" not in text
    assert "paired by seed" not in text


def test_a_run_without_post_training_has_none_of_it(page):
    for words in ("Questions answered", "Before and after", "td.wrong"):
        assert words not in page.read_text()


def test_an_unfinished_run_is_refused(tmp_path):
    (run_folder(tmp_path) / "results.json").unlink()
    with pytest.raises(ValueError, match=r"no results.json yet: start the run again"):
        write_report(tmp_path)


def test_the_table_lists_models_then_differences(capsys):
    print_table(RESULTS)
    assert capsys.readouterr().out.splitlines() == [
        "model     stage   cross-entropy  accuracy      KL  agreement  parameters  active  tokens  seconds",
        "-" * 97,
        "behemoth  teach          2.0000    50.00%       –          –          2M    500k    128k       61",
        "scout     distil         2.0000    50.00%  0.2500     75.00%          2M    500k    128k       61",
        "scout     alone          2.0000    50.00%  0.2500     75.00%          2M    500k    128k       61",
        "",
        "cross-entropy, paired by seed     nats   95 % interval  below zero",
        "-" * 66,
        "scout: distil − alone          −0.0800  one seed: none      1 of 1",
    ]  # fmt: skip


def test_several_seeds_become_a_mean_and_a_standard_deviation(capsys):
    models = [model("scout", "distil", seed, cross_entropy=2.0 + seed) for seed in (0, 1, 2)]
    paired = [PAIRED | {"interval": [-0.1, 0.06], "wins": 2, "n": 3}]
    print_table(RESULTS | {"seeds": [0, 1, 2], "models": models, "paired": paired})
    out = capsys.readouterr().out
    assert "3.0000 ± 1.0000" in out
    assert "[−0.1000, +0.0600]      2 of 3" in out


def test_a_figure_that_is_not_finite_is_a_dash(capsys):
    print_table(RESULTS | {"models": [model("scout", "distil", cross_entropy=float("nan"))], "paired": []})
    assert capsys.readouterr().out.splitlines()[-1].split()[2] == "–"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (950, "950"),
        (999.6, "1k"),
        (12_345, "12.3k"),
        (999_600, "1M"),
        (1_660_000, "1.66M"),
        (402e9, "402G"),
        (2e12, "2T"),
    ],
)
def test_large_numbers_have_three_digits(number, text):
    assert count(number) == text


def test_a_series_is_found_by_stage_and_model():
    steps, values = figures.series(METRICS, "hard")["alone", "scout"]
    np.testing.assert_array_equal(steps, [0, 1, 2, 3])
    np.testing.assert_array_equal(values, [3, 1.5, 1, 0.75])


def test_lines_of_another_kind_are_not_in_a_series():
    assert figures.series([METRICS[0] | {"kind": "held_out"}], "hard") == {}


def test_smoothing_keeps_a_short_line_and_a_straight_one():
    steps = np.arange(200)
    np.testing.assert_array_equal(figures.smooth(steps[:9], steps[:9] ** 2.0)[1], steps[:9] ** 2.0)
    np.testing.assert_allclose(figures.smooth(steps, 3.0 * steps)[1][5:-5], 3.0 * steps[5:-5])


def test_smoothing_is_the_mean_of_a_twentieth():
    impulse = np.zeros(200)
    impulse[100] = 11.0
    np.testing.assert_allclose(figures.smooth(np.arange(200), impulse)[1][94:107], [0, *[1.0] * 11, 0])


def test_a_model_has_one_colour():
    assert figures.hues(["behemoth", "scout", "maverick", "scout"]) == dict(
        zip(["behemoth", "scout", "maverick"], figures.HUES, strict=False)
    )


def test_the_expert_figure_names_the_least_used_expert():
    figure = figures.experts([model("scout", "distil")], {"scout": figures.HUES[1]})
    assert figure is not None
    (panel,) = figure.axes
    assert [text.get_text() for text in panel.texts] == ["least used: 0.40 (MoE layer 1, expert 0)"]


def test_the_bars_are_the_mean_of_the_sorted_loads():
    figure = figures.experts([model("scout", "distil")], {"scout": figures.HUES[1]})
    assert figure is not None
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(heights, [4 * 0.45, 4 * 0.275, 4 * 0.1625, 4 * 0.1125])


def test_the_clock_runs_on_from_stage_to_stage():
    timings = [
        TIMINGS[0] | {"stage": stage, "mfu": float("nan"), "seconds": 30.0} for stage in ("teach", "teach", "distil")
    ]
    figure = figures.speed(timings)
    assert figure is not None
    lines = [one for one in figure.axes[0].lines if one.get_marker() == "o"]
    assert [list(one.get_xdata()) for one in lines] == [[0.5, 1.0], [1.5]]


def test_the_report_needs_matplotlib_only_when_it_is_written():
    code = "import sys, distill.report; assert not any(name.startswith('matplotlib') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
