"""The figure of exams: what learners answer after each stage, task by task and level by level."""

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from distill.figures import INK, MUTED, STYLE, Rows
from distill.standing import cells_of, rank, standings, titles
from distill.statistics import Estimate

MANY = 30
"""cells that get a panel of their own; of more, the mean alone is drawn"""


def draw(metrics: Rows, models: Rows, hue: Mapping[str, str]) -> dict[str, Figure]:
    """The figures by their names, if anybody was examined; models are `results["models"]`."""
    with matplotlib.rc_context(STYLE):
        figures = {"exam": exam(models, hue), "glance": glance(metrics, hue)}
    return {name: figure for name, figure in figures.items() if figure is not None}


def exam(models: Rows, hue: Mapping[str, str]) -> Figure | None:
    """pass@1 with its interval after every stage, greedy and pass@k beside it; the mean, then a panel per cell."""
    found = standings(models)
    if not found:
        return None
    cells = cells_of([row["exam"] for row in models if row.get("exam")])
    k = {cell.k for cell in cells}
    cells = cells if len(cells) <= MANY else []
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    levels = sorted({cell.level for cell in cells}, key=rank)
    who = titles([(one.stage, one.name) for one in found])
    colors = [hue[one.name] for one in found]
    heights = [1.1 + 0.2 * len(found), *[0.45 + 0.17 * len(found)] * len(tasks)]
    figure = Figure(figsize=(9, sum(heights) + 0.4))
    grid = figure.add_gridspec(1 + len(tasks), max(len(levels), 1), height_ratios=heights)
    mean = figure.add_subplot(grid[0, :])
    _draw(mean, [one.overall for one in found], colors, who)
    mean.set_title("mean over cells")
    _explain(mean, f"pass@{k.pop()}" if len(k) == 1 else "pass@k")
    for cell in cells:
        row, column = tasks.index(cell.task), levels.index(cell.level)
        panel = figure.add_subplot(grid[1 + row, column])
        _draw(panel, [one.cells.get(cell.name, {}) for one in found], colors, who if column == 0 else None)
        panel.set_title(f"{cell.task}, level {cell.level}", fontsize=9)
        panel.tick_params(labelbottom=row == len(tasks) - 1)
    return figure


def glance(metrics: Rows, hue: Mapping[str, str]) -> Figure | None:
    """The share of right answers to a few questions over the steps of each stage, a panel per stage."""
    lines: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in metrics:
        if row["kind"] == "exam" and row.get("exam") is not None:
            lines.setdefault(row["stage"], {}).setdefault(row["learner"], []).append((row["step"], row["exam"]))
    if not lines:
        return None
    columns = min(len(lines), 3)
    rows = -(-len(lines) // columns)
    figure = Figure(figsize=(9, 2.5 * rows))
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for panel, (stage, learners) in zip(panels, lines.items(), strict=False):
        for name, points in learners.items():
            panel.plot(*zip(*points, strict=True), color=hue[name], marker="o", markersize=3.5, label=name)
        panel.set(title=stage, xlabel="step")
        panel.legend(loc="best")
    for panel in panels[len(lines) :]:
        panel.remove()
    panels[0].set(ylabel="share of questions", ylim=(0, 1.02))
    panels[0].yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    return figure


def _draw(
    panel: Axes, marks: Sequence[Mapping[str, Estimate]], colors: Sequence[str], who: Sequence[str] | None
) -> None:
    """A row for each stage, from the top; names at the left if there is room for them."""
    for height, (one, color) in enumerate(zip(marks, colors, strict=True)):
        if "pass@k" in one:
            panel.plot(one["pass@k"].mean, height, "o", color=color, markersize=4.5, fillstyle="none", clip_on=False)
        if "greedy" in one:
            panel.plot(one["greedy"].mean, height, "|", color=INK, markersize=8, markeredgewidth=1.3, clip_on=False)
        if "pass@1" in one:
            low, high = one["pass@1"].interval or (one["pass@1"].mean,) * 2
            panel.plot([low, high], [height, height], color=color, linewidth=2.4, alpha=0.55, clip_on=False)
            panel.plot(one["pass@1"].mean, height, "o", color=color, markersize=5, clip_on=False)
    panel.set(xlim=(0, 1), ylim=(len(marks) - 0.4, -0.6))
    panel.set_yticks(range(len(marks)), who or [""] * len(marks))
    panel.set_xticks([0, 0.25, 0.5, 0.75, 1])
    panel.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    panel.grid(axis="x")
    panel.tick_params(labelsize=8.5)


def _explain(panel: Axes, k: str) -> None:
    """What the marks are, above the panel at the right."""
    signs = [
        Line2D([], [], color=MUTED, marker="o", markersize=5, linewidth=2.4, label="pass@1, 95 %"),
        Line2D([], [], color=INK, marker="|", markersize=8, markeredgewidth=1.3, linewidth=0, label="greedy"),
        Line2D([], [], color=MUTED, marker="o", markersize=4.5, fillstyle="none", linewidth=0, label=k),
    ]
    panel.legend(handles=signs, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.2)
