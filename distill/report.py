"""The report of a run: what it was, what came out, and its figures, on one page that needs nothing beside it."""

import io
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path, PurePath
from typing import Any

from distill import exam_report
from distill.place import Place, write_text
from distill.run import Run, load_run
from distill.tables import align, named, signed


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the table of results: the field of a model's result that it shows, and how."""

    title: str
    unit: str
    field: str
    show: Callable[[float], str]
    varies: bool = True
    """whether the spread over seeds is shown"""


FIGURES = {
    "training": (
        "Training",
        "Cross-entropy on the training batches, stage by stage; dots: on held-out text. Dotted: the divergence of a "
        "student from its teacher.",
    ),
    "weight": (
        "Teacher and text",
        "What each student learns from: the share of its loss that is the teacher's distribution, over time.",
    ),
    "agreement": (
        "Agreement",
        "How often the first choice of a student is that of its teacher, and how often it is the text's next token.",
    ),
    "experts": (
        "Expert load",
        "Tokens per expert on held-out text, as a multiple of an even share (dashed). Bars: the mean over layers; "
        "lines: each layer; the dot: the least-used expert of all.",
    ),
    "speed": (
        "Speed",
        "Tokens per second while training, and the share of what square matrix products reach here (MFU).",
    ),
}


def write_report(folder: PurePath | str) -> Place:
    """Write figures/*.png and the self-contained report.html of a finished run; the path of the page.

    Raises:
        ValueError: the folder is not that of a finished run, or a file of it is broken.
    """
    from distill import figures, figures_exam, figures_rl

    run = load_run(folder)
    results = run.results
    models = results["models"]
    hue = figures.hues([row["name"] for row in models])
    drawn = figures_exam.draw(run.metrics(), models, hue) | figures.draw(run.metrics(), run.timings(), models, hue)
    drawn |= figures_rl.draw(run.metrics(), run.timings(), hue)
    run.figures.mkdir(exist_ok=True)
    sections = []
    for name, figure in drawn.items():
        title, caption = (FIGURES | exam_report.FIGURES)[name]
        figures.save(figure, page := io.BytesIO())
        (run.figures / f"{name}.png").write_bytes(page.getvalue())
        sections.append(f"<h2>{title}</h2><p>{caption}</p><figure>{figures.svg(figure, title)}</figure>")
    page = run.path / "report.html"
    write_text(page, _page(run, results, hue, "\n".join(sections)))
    return page


def print_table(results: Mapping[str, Any]) -> None:
    """Print the results, the paired differences and what exams say, as text; cross-entropy and KL in nats a token."""
    columns = _columns(results)
    head = [["model", "stage", *(column.title for column in columns)]]
    cells = [
        [name, stage, *(_text(column, rows) for column in columns)] for (stage, name), rows in _models(results).items()
    ]
    print(align(head + cells, words=2))
    if results["paired"]:
        head = [["cross-entropy, paired by seed", "nats", "95 % interval", "below zero"]]
        print("\n" + align(head + [_paired(row) for row in results["paired"]], words=1))
    told = exam_report.text_tables(results)
    if told:
        print("\n" + told)


def count(number: float | int) -> str:
    """A large number in three digits: 950, 12.3k, 1.66M, 402G."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{letter}" if number < 999.5 * size else f"{number / size:.0f}{letter}"
    return f"{number:.0f}"


COLUMNS = (
    Column(title="cross-entropy", unit="nats", field="cross_entropy", show="{:.4f}".format),
    Column(title="accuracy", unit="", field="accuracy", show="{:.2%}".format),
    Column(title="KL", unit="nats", field="kl", show="{:.4f}".format),
    Column(title="agreement", unit="", field="agreement", show="{:.2%}".format),
    Column(title="parameters", unit="", field="parameters", show=count, varies=False),
    Column(title="active", unit="", field="active", show=count, varies=False),
    Column(title="tokens", unit="", field="tokens", show=count, varies=False),
    Column(title="seconds", unit="", field="seconds", show="{:,.0f}".format, varies=False),
)


def _columns(results: Mapping[str, Any]) -> list[Column]:
    """The columns in which some model has a value."""
    return [column for column in COLUMNS if any(row[column.field] is not None for row in results["models"])]


def _models(results: Mapping[str, Any]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """The results of every model over the seeds, by stage and name, in the order of the stages."""
    models: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in results["models"]:
        models.setdefault((row["stage"], row["name"]), []).append(row)
    return models


def _cell(column: Column, rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The mean over seeds, and its sample standard deviation where there are several."""
    values = [row[column.field] for row in rows if row[column.field] is not None]
    if not values or not all(math.isfinite(value) for value in values):
        return "–", ""
    spread = column.show(statistics.stdev(values)) if column.varies and len(values) > 1 else ""
    return column.show(statistics.fmean(values)), spread


def _text(column: Column, rows: Sequence[Mapping[str, Any]]) -> str:
    return " ± ".join(part for part in _cell(column, rows) if part)


def _paired(row: Mapping[str, Any]) -> list[str]:
    interval = "one seed: none" if row["interval"] is None else "[{:+.4f}, {:+.4f}]".format(*row["interval"])
    return [
        f"{row['name']}: {row['first']} − {row['second']}",
        signed(f"{row['difference']:+.4f}"),
        signed(interval),
        f"{row['wins']} of {row['n']}",
    ]


def _page(run: Run, results: Mapping[str, Any], hue: Mapping[str, str], figures: str) -> str:
    answers, samples = exam_report.stage_section(results, hue), exam_report.sample_section(results)
    sheets = ("report.css", "exam.css") if answers or samples else ("report.css",)
    style = "".join(Path(__file__).with_name(sheet).read_text(encoding="utf-8") for sheet in sheets)
    name = escape(run.config["name"])
    config = escape(json.dumps(run.config, indent=2, ensure_ascii=False))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<style>
{style}</style>
</head>
<body><main>
<h1>{name}</h1>
{_facts(results, run.environment[-1])}
<h2>Results</h2>
{_results_table(results, hue)}
{_paired_table(results, hue)}
{answers}{figures}
{samples}<details><summary>Configuration</summary><pre>{config}</pre></details>
</main></body>
</html>
"""


def _facts(results: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """What one needs to run it again, as a list of terms."""
    facts = {
        "date": results["date"],
        "corpus": results["corpus"],
        "seeds": ", ".join(str(seed) for seed in results["seeds"]),
        "commit": environment["commit"] or "not in a repository",
        "versions": ", ".join(
            f"{name} {version}"
            for name, version in {"python": environment["python"], **environment["packages"]}.items()
            if version is not None
        ),
        "devices": ", ".join(str(part) for part in environment["devices"]),
    }
    return f"<dl>{''.join(f'<dt>{key}</dt><dd>{escape(str(value))}</dd>' for key, value in facts.items())}</dl>"


def _results_table(results: Mapping[str, Any], hue: Mapping[str, str]) -> str:
    columns = _columns(results)
    head = "".join(f"<th>{column.title}{f'<br>{column.unit}' if column.unit else ''}</th>" for column in columns)
    body = []
    for (stage, name), rows in _models(results).items():
        cells = "".join(f"<td>{_html(*_cell(column, rows))}</td>" for column in columns)
        body.append(f'<tr>{named(name, hue, name)}<td class="word">{escape(stage)}</td>{cells}</tr>')
    seeds = len(results["seeds"])
    note = f"Mean ± standard deviation over {seeds} seeds. " if seeds > 1 else ""
    return f"""<p>On held-out text, per token. {note}KL: from the teacher to the model.
Active: the parameters that one token uses.</p>
<div class="wide"><table><thead><tr><th>model</th><th class="word">stage</th>{head}</tr></thead>
<tbody>{"".join(body)}</tbody></table></div>"""


def _paired_table(results: Mapping[str, Any], hue: Mapping[str, str]) -> str:
    if not results["paired"]:
        return ""
    body = "".join(
        f"<tr>{named(row['name'], hue, _paired(row)[0])}"
        f"{''.join(f'<td>{escape(cell)}</td>' for cell in _paired(row)[1:])}</tr>"
        for row in results["paired"]
    )
    return f"""<h2>The difference, paired by seed</h2>
<p>Held-out cross-entropy of a model after one stage minus that after another, from the same initial weights. Below
zero, the first is better.</p>
<div class="wide"><table class="narrow">
<thead><tr><th>model</th><th>difference<br>nats</th><th>95 % interval</th><th>below zero</th></tr></thead>
<tbody>{body}</tbody></table></div>"""


def _html(value: str, spread: str) -> str:
    return escape(value) + (f' <span class="spread">± {escape(spread)}</span>' if spread else "")
