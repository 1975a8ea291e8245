"""The curriculum of reinforcement learning over time: what was asked, and what each task at each level earned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from distill.figures import HUES, MUTED, Rows
from distill.standing import rank

MANY = 12
"""tasks that get a panel of their own; of more, levels are shown alone"""


@dataclass(frozen=True, kw_only=True)
class Band:
    """What is drawn as one: a task at a level, or a level of every task."""

    task: str
    level: str
    cells: tuple[str, ...]
    color: str
    alpha: float
    """the harder, the stronger: of use on white and on black"""

    def asked(self, rows: Rows) -> Float[np.ndarray, "n"]:
        """Groups of it in each line."""
        return np.sum([_column(rows, f"asked/{cell}", 0.0) for cell in self.cells], axis=0)

    def earned(self, rows: Rows, half: int) -> Float[np.ndarray, "n"]:
        """Reward around each line, `half` lines on either side, each group counted once; NaN where there was none."""
        total, count = np.zeros(len(rows)), np.zeros(len(rows))
        for cell in self.cells:
            reward = _column(rows, f"reward/{cell}", np.nan)
            weight = np.where(np.isfinite(reward), _column(rows, f"asked/{cell}", 1.0), 0.0)
            total, count = total + np.where(weight > 0, reward, 0.0) * weight, count + weight
        total, count = _windows(total, half), _windows(count, half)
        return np.where(count > 0, total / np.maximum(count, 1e-9), np.nan)


def updates(metrics: Rows) -> dict[str, list[Mapping[str, Any]]]:
    """The lines of reinforcement learning, by stage."""
    stages: dict[str, list[Mapping[str, Any]]] = {}
    for row in metrics:
        if row["kind"] == "train" and "reward" in row:
            stages.setdefault(row["stage"], []).append(row)
    return stages


def curriculum(metrics: Rows) -> Figure | None:
    """Reward over updates, a panel per task and a line per level; under them the share of each in what was asked."""
    stages = {stage: (rows, bands(rows)) for stage, rows in updates(metrics).items() if bands(rows)}
    if not stages:
        return None
    heights = [[2.0] * -(-len(_tasks(every)) // 3) + [2.3] for _, every in stages.values()]
    figure, parts = stacked(list(stages), [sum(each) for each in heights])
    for part, (rows, every), each in zip(parts, stages.values(), heights, strict=True):
        tasks = _tasks(every)
        wide = 12 // min(len(tasks), 3)
        grid = part.add_gridspec(len(each), 12, height_ratios=each)
        for number, task in enumerate(tasks):
            row, column = divmod(number, 3)
            panel = part.add_subplot(grid[row, column * wide : (column + 1) * wide])
            _draw_earned(panel, rows, [band for band in every if band.task == task], task)
            panel.tick_params(labelleft=column == 0)
            panel.set_ylabel("" if column else "reward")
            if number == min(len(tasks), 3) - 1:
                _explain(panel, every)
        _draw_asked(part.add_subplot(grid[-1, :]), rows, every)
    return figure


def bands(rows: Rows) -> list[Band]:
    """The tasks and levels that lines speak of, by task, then level."""
    names = {key.partition("/")[2] for row in rows for key in row if key.startswith(("reward/", "asked/"))}
    cells = sorted((name.rpartition("/") for name in names), key=lambda one: (one[0], rank(one[2])))
    levels = sorted({level for _, _, level in cells}, key=rank)
    if len({task for task, _, _ in cells}) > MANY:
        groups = [("all tasks", level, ["".join(one) for one in cells if one[2] == level]) for level in levels]
    else:
        groups = [(task, level, [f"{task}/{level}"]) for task, _, level in cells]
    hues = {task: HUES[number % len(HUES)] for number, task in enumerate(dict.fromkeys(one[0] for one in groups), 1)}
    alphas = {level: 1.0 - 0.55 * place / max(len(levels) - 1, 1) for place, level in enumerate(reversed(levels))}
    return [
        Band(task=task, level=level, cells=tuple(members), color=hues[task], alpha=alphas[level])
        for task, level, members in groups
    ]


def stacked(stages: Sequence[str], heights: Sequence[float]) -> tuple[Figure, list[SubFigure]]:
    """A figure of a part for each stage, one above the other; their names above them where there are several."""
    many = len(stages) > 1
    figure = Figure(figsize=(9, sum(heights) + 0.3 * many * len(stages)))
    parts = list(figure.subfigures(len(stages), 1, squeeze=False, height_ratios=heights)[:, 0])
    for part, stage in zip(parts, stages, strict=True):
        part.set_facecolor("none")
        if many:
            part.suptitle(stage, x=0.008, ha="left", color=MUTED, fontsize=11, weight="bold")
    return figure, parts


def _draw_earned(panel: Axes, rows: Rows, levels: Sequence[Band], title: str) -> None:
    steps = np.array([row["step"] for row in rows])
    for band in levels:
        panel.plot(steps, band.earned(rows, _half(rows)), color=band.color, alpha=band.alpha)
    panel.set(title=title, ylim=(0, 1.02), yticks=[0, 0.5, 1])


def _explain(panel: Axes, every: Sequence[Band]) -> None:
    """What a level looks like, at the right of a panel."""
    shades = dict(sorted({(band.level, band.alpha) for band in every}, key=lambda one: one[1]))
    if len(shades) > 1:
        keys = [Line2D([], [], color=MUTED, alpha=alpha, label=f"level {level}") for level, alpha in shades.items()]
        panel.legend(handles=keys, loc="upper left", bbox_to_anchor=(1.02, 1.04))


def _draw_asked(panel: Axes, rows: Rows, every: Sequence[Band]) -> None:
    steps = np.array([row["step"] for row in rows])
    asked = np.stack([_windows(band.asked(rows), _half(rows)) for band in every])
    shares = asked / np.maximum(asked.sum(0), 1e-9)
    drawn = panel.stackplot(steps, shares, colors=[band.color for band in every], linewidth=0)
    for area, band in zip(drawn, every, strict=True):
        area.set_alpha(0.2 + 0.7 * band.alpha)
    panel.set(title="what was asked", xlabel="update", ylabel="share of groups")
    panel.set(ylim=(0, 1), xlim=(steps[0], max(steps[-1], steps[0] + 1)))
    panel.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    hues = {band.task: band.color for band in every}
    keys = [Patch(color=color, label=task) for task, color in reversed(hues.items())]
    panel.legend(handles=keys, loc="upper left", bbox_to_anchor=(1.005, 1.04), labelspacing=0.3, handlelength=1.1)


def _tasks(every: Sequence[Band]) -> list[str]:
    return list(dict.fromkeys(band.task for band in every))


def _half(rows: Rows) -> int:
    """Lines on either side of one that are drawn with it: a few groups of one kind are all noise."""
    return max(len(rows) // 20, 1) if len(rows) > 4 else 0


def _windows(values: Float[np.ndarray, "n"], half: int) -> Float[np.ndarray, "n"]:
    """The sum over `half` lines on either side, fewer at the ends."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    place = np.arange(len(values))
    return sums[np.minimum(place + half + 1, len(values))] - sums[np.maximum(place - half, 0)]


def _column(rows: Rows, key: str, absent: float) -> Float[np.ndarray, "n"]:
    return np.array([absent if row.get(key) is None else row[key] for row in rows], float)
