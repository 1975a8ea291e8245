"""The figures of a run, from the rows of its files: one palette, one typeface, one idea a figure."""

import io
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]

INK, MUTED, LINE = "#24292f", "#6e7781", "#d8dee4"
# Tell apart with any colour vision, on white and on near-black: slate, blue, orange, green, rose, violet.
HUES = ("#7d8796", "#3d7fc4", "#dd7f36", "#3c9a78", "#c65b7c", "#8a6cc2")
STYLE: dict[Any, Any] = {
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "font.size": 9.5,
    "text.color": INK,
    "axes.facecolor": "none",
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 1.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "herd",
    "text.parse_math": False,
}


def hues(names: Sequence[str]) -> dict[str, str]:
    """A colour for every model, in the order of their first appearance; the same in every figure and table."""
    return {name: HUES[i % len(HUES)] for i, name in enumerate(dict.fromkeys(names))}


def draw(metrics: Rows, timings: Rows, models: Rows, hue: Mapping[str, str]) -> dict[str, Figure]:
    """Every figure that the rows have something for, by name; the arguments are the run's, line by line."""
    with matplotlib.rc_context(STYLE):
        figures = {
            "training": training(metrics, hue),
            "weight": weight(metrics, hue),
            "agreement": agreement(metrics, hue),
            "experts": experts(models, hue),
            "speed": speed(timings),
        }
    return {name: figure for name, figure in figures.items() if figure is not None}


def save(figure: Figure, path: Path | io.BytesIO, dpi: int = 200) -> None:
    """Write a PNG on white, at 200 dots per inch twice the size of the page's figure."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, dpi=dpi, facecolor="white", metadata={"Software": None})


def svg(figure: Figure, label: str) -> str:
    """The figure as an inline SVG that takes its neutral colours from the page: at home in light and in dark.

    `label` is what a screen reader says; it must be escaped already.
    """
    text = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(text, format="svg", facecolor="none", metadata={"Date": None, "Creator": None})
    drawing = text.getvalue()[text.getvalue().index("<svg") :]
    for color, variable in ((INK, "var(--ink)"), (MUTED, "var(--muted)"), (LINE, "var(--line)")):
        drawing = drawing.replace(color, variable)
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    return re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-label="{label}">', drawing, count=1)


def training(metrics: Rows, hue: Mapping[str, str]) -> Figure | None:
    """Cross-entropy, and under a teacher the divergence from it, on training and held-out text; a panel per stage."""
    metrics = [row for row in metrics if "reward" not in row]  # there, hard is of what a learner drew itself
    hard, soft, teacher = (series(metrics, key) for key in ("hard", "soft", "teacher_hard"))
    held_out = series(metrics, "cross_entropy", "held_out")
    stages = list(dict.fromkeys(stage for stage, _ in hard))
    if not stages:
        return None
    figure, panels = _wrapped(len(stages), height=3.3)
    for panel, stage in zip(panels, stages, strict=True):
        taught = [line for (where, _), line in teacher.items() if where == stage]
        if taught:
            panel.plot(*smooth(*taught[0]), color=MUTED, linewidth=1.2, label="teacher")
        for (where, name), (steps, values) in hard.items():
            if where == stage:
                _line(panel, steps, values, hue[name], label=name)
                if (stage, name) in soft:
                    panel.plot(*smooth(*soft[stage, name]), color=hue[name], linewidth=1.2, linestyle=(0, (1, 1.4)))
        for (where, name), (steps, values) in held_out.items():
            if where == stage:
                panel.plot(steps, values, linestyle="", marker="o", markersize=4, color=hue[name])
        if any(where == stage for where, _ in held_out):
            panel.plot([], [], linestyle="", marker="o", markersize=4, color=MUTED, label="held out")
        if any(where == stage for where, _ in soft):
            panel.plot([], [], color=MUTED, linewidth=1.2, linestyle=(0, (1, 1.4)), label="divergence from teacher")
        panel.set(title=stage, xlabel="optimizer step")
        panel.legend(loc="upper right")
    panels[0].set_ylabel("nats per token")
    panels[0].set_ylim(bottom=0)
    return figure


def weight(metrics: Rows, hue: Mapping[str, str]) -> Figure | None:
    """How the loss is divided between the teacher's distribution and the text, over time; a panel per student."""
    soft = {key: line for key, line in series(metrics, "alpha").items() if key in series(metrics, "agreement")}
    if not soft:
        return None
    figure, panels = _wrapped(len(soft), height=2.5)
    for panel, ((stage, name), (steps, values)) in zip(panels, soft.items(), strict=True):
        steps, values = smooth(steps, values)
        panel.fill_between(steps, 0, values, color=hue[name], alpha=0.35, linewidth=0)
        panel.plot(steps, values, color=hue[name])
        middle, height = steps[len(steps) // 2], values[len(values) // 2]
        panel.annotate("teacher (soft)", (middle, height / 2), ha="center", va="center", color=INK)
        if height < 0.8:  # else there is no room above the line
            panel.annotate("text (hard)", (middle, (1 + height) / 2), ha="center", va="center", color=MUTED)
        panel.set(title=f"{name}, {stage}", xlabel="optimizer step", ylim=(0, 1), xlim=(steps[0], steps[-1] or 1))
    panels[0].set_ylabel("weight in the loss")
    return figure


def agreement(metrics: Rows, hue: Mapping[str, str]) -> Figure | None:
    """How often a student's first choice is the teacher's, and how often it is the text's own next token."""
    agree, right = series(metrics, "agreement"), series(metrics, "accuracy")
    if not agree:
        return None
    figure, (panel,) = _panels(1, height=3.0)
    for (stage, name), (steps, values) in agree.items():
        _line(panel, steps, values, hue[name], label=f"{name} agrees with its teacher")
        if (stage, name) in right:
            line = smooth(*right[stage, name])
            panel.plot(*line, color=hue[name], linewidth=1.2, linestyle=(0, (4, 2)), label=f"{name} is right")
    panel.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    panel.set(xlabel="optimizer step", ylabel="share of tokens")
    panel.set_ylim(bottom=0)
    panel.legend(loc="lower right", ncols=2)
    return figure


def experts(models: Rows, hue: Mapping[str, str]) -> Figure | None:
    """How evenly tokens spread over the experts on held-out text: shares sorted within a layer, in even shares."""
    rows = [row for row in models if row["expert_load"] and row["seed"] == models[0]["seed"]]
    if not rows:
        return None
    figure, panels = _panels(min(len(rows), 3), height=2.8 * -(-len(rows) // 3), rows=-(-len(rows) // 3), share=True)
    for panel in panels[len(rows) :]:
        panel.remove()
    for panel, row in zip(panels, rows, strict=False):
        load = np.asarray(row["expert_load"], np.float64) * len(row["expert_load"][0])
        ranked = -np.sort(-load, axis=-1)
        rank = np.arange(1, load.shape[-1] + 1)
        panel.bar(rank, ranked.mean(0), width=0.8, color=hue[row["name"]], alpha=0.45)
        panel.plot(rank, ranked.T, color=hue[row["name"]], linewidth=0.8, alpha=0.8)
        panel.axhline(1, color=MUTED, linewidth=1, linestyle=(0, (4, 2)))
        layer, expert = np.unravel_index(load.argmin(), load.shape)
        panel.plot(rank[-1], load.min(), marker="o", markersize=5, color=INK, clip_on=False)
        panel.set_title(f"{row['name']}, {row['stage']}", pad=22)
        least = f"least used: {load.min():.2f} (MoE layer {layer}, expert {expert})"
        panel.annotate(least, (0, 1.04), xycoords="axes fraction", color=MUTED, fontsize=8.5).set_in_layout(False)
        panel.set(xlabel=f"{len(rank)} experts, sorted", xticks=[])
    for panel in panels[::3]:
        panel.set_ylabel("tokens, in even shares")
    panels[0].set_ylim(bottom=0)
    return figure


def speed(timings: Rows) -> Figure | None:
    """Tokens per second over the run's wall-clock time, stage after stage; below, the share of the ceiling (MFU)."""
    timings = [row for row in timings if "tokens_per_second" in row]
    if not timings:
        return None
    measures = [("tokens_per_second", "tokens per second")]
    if any(np.isfinite(row["mfu"]) for row in timings):
        measures.append(("mfu", "MFU"))
    clock = np.array(list(accumulate(row["seconds"] for row in timings))) / 60
    stages = np.array([row["stage"] for row in timings])
    figure, panels = _panels(1, height=2.6 if len(measures) == 1 else 3.8, rows=len(measures))
    for panel, (key, title) in zip(panels, measures, strict=True):
        values = np.array([row[key] for row in timings])
        for stage in dict.fromkeys(stages):
            here = stages == stage
            panel.axvline(clock[here][0], color=LINE, linewidth=0.7)
            panel.plot(clock[here], values[here], color=HUES[3], marker="o", markersize=2.5, linewidth=1.2)
            if panel is panels[0]:
                middle = (clock[here][0] + clock[here][-1]) / 2
                panel.annotate(stage, (middle, 1.03), xycoords=("data", "axes fraction"), ha="center", weight="bold")
        panel.set_ylabel(title)
        panel.set_ylim(bottom=0)
    panels[0].yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if len(panels) > 1:
        panels[1].yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    panels[-1].set_xlabel("minutes of training")
    return figure


def series(metrics: Rows, key: str, kind: str = "train") -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """`<model>/<key>` of the lines of a kind as steps and values, by stage and model, in the order of the file."""
    points: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in metrics:
        for field, value in row.items():
            name, slash, what = field.rpartition("/")
            if slash and what == key and row["kind"] == kind:
                points.setdefault((row["stage"], name), []).append((row["step"], value))
    return {where: (np.array([p[0] for p in line]), np.array([p[1] for p in line])) for where, line in points.items()}


def smooth(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean over a window of a twentieth of the line, narrower at both ends; short lines stay as they are."""
    half = len(values) // 40
    return steps, np.array([values[max(i - half, 0) : i + half + 1].mean() for i in range(len(values))])


def _line(panel: Axes, steps: np.ndarray, values: np.ndarray, color: str, label: str) -> None:
    """A smooth line over a faint one of what was measured."""
    panel.plot(steps, values, color=color, linewidth=0.8, alpha=0.3)
    panel.plot(*smooth(steps, values), color=color, label=label)


def _panels(columns: int, height: float, rows: int = 1, share: bool = False) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(9, height))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share, sharex="col" if columns == 1 else False)
    return figure, list(grid.flat)


def _wrapped(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """So many panels of one scale, at most four beside each other."""
    columns = min(count, 4)
    rows = -(-count // columns)
    figure, panels = _panels(columns, height * rows, rows, share=True)
    for empty in panels[count:]:
        empty.remove()
    return figure, panels[:count]
