"""Figures of reinforcement learning and of preferences, from the lines of a run: what was earned, asked, waited for."""

from collections.abc import Callable, Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from distill.figures import HUES, INK, MUTED, STYLE, Rows, series, smooth
from distill.figures_curriculum import curriculum, stacked, updates

Line = tuple[np.ndarray, np.ndarray]
DOTTED = (0, (1, 1.4))


def draw(metrics: Rows, timings: Rows, hue: Mapping[str, str]) -> dict[str, Figure]:
    """Every figure that the rows have something for, by name; the arguments are the run's."""
    with matplotlib.rc_context(STYLE):
        figures = {
            "curriculum": curriculum(metrics),
            "policy": policy(metrics, hue),
            "lag": lag(metrics),
            "pace": pace(timings),
            "preference": preference(metrics, hue),
        }
    return {name: figure for name, figure in figures.items() if figure is not None}


def policy(metrics: Rows, hue: Mapping[str, str]) -> Figure | None:
    """Entropy, length of answers, and the share of groups that teach nothing, a row of panels per stage."""
    stages = updates(metrics)
    if not stages:
        return None
    figure, parts = stacked(list(stages), [2.5] * len(stages))
    entropy = series(metrics, "entropy")
    for part, (stage, rows) in zip(parts, stages.items(), strict=True):
        first, second, third = part.subplots(1, 3)
        for (where, name), line in entropy.items():
            if where == stage:
                first.plot(*smooth(*_known(*line)), color=hue[name])
        second.plot(*smooth(*_points(rows, "length")), color=HUES[3])
        for key, style, label in (("all_right", "-", "all right"), ("all_wrong", DOTTED, "all wrong")):
            third.plot(*smooth(*_points(rows, key)), color=HUES[5], linestyle=style, label=label)
        third.yaxis.set_major_formatter(_percent)
        first.set(title="entropy", ylabel="nats a token")
        second.set(title="length of an answer", ylabel="tokens")
        third.set(title="groups of one outcome", ylabel="share of groups")
        for panel in (first, second, third):
            _count(panel, "update")
            panel.set_ylim(0, 1.1 * _top(panel))
        _legend(third)
    return figure


def lag(metrics: Rows) -> Figure | None:
    """How many updates old a group was when it was learned from: the share of groups at each lag, a panel per stage."""
    found = {stage: _lags(rows) for stage, rows in updates(metrics).items()}
    found = {stage: counts for stage, counts in found.items() if sum(counts.values())}
    if not found:
        return None
    columns = max(min(len(found), 3), 2)
    figure = Figure(figsize=(9, 2.5 * -(-len(found) // columns)))
    panels = list(figure.subplots(-(-len(found) // columns), columns, squeeze=False).flat)
    for panel, (stage, counts) in zip(panels, found.items(), strict=False):
        total, top = sum(counts.values()), max(*counts, 2)
        shares = [counts.get(number, 0) / total for number in range(top + 1)]
        bars = panel.bar(range(top + 1), shares, width=0.7, color=HUES[1])
        labels = ["<1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %" for share in shares]
        panel.bar_label(bars, labels, padding=2, color=INK, fontsize=9)
        mean = sum(number * count for number, count in counts.items()) / total
        panel.set(title=f"{stage}: {mean:.2f} on average", xlabel="updates old", ylabel="share of groups")
        panel.set(xticks=range(top + 1), ylim=(0, max(shares) * 1.18))
        panel.yaxis.set_major_formatter(_percent)
    for panel in panels[len(found) :]:
        panel.remove()
    return figure


PACE: tuple[tuple[str, Callable[[float, int], str], tuple[tuple[str, str, str], ...]], ...] = (
    (
        "share of time idle",
        lambda value, _: f"{100 * value:.0f} %",
        (("learner_idle", HUES[1], "learner"), ("actor_idle", HUES[2], "sampler")),
    ),
    (
        "tokens per second",
        lambda value, _: f"{value:,.0f}",
        (("learner_tokens_per_second", HUES[1], "learner"), ("actor_tokens_per_second", HUES[2], "sampler")),
    ),
    ("groups", lambda value, _: f"{value:.0f}", (("ready", HUES[1], "ready"), ("under_way", HUES[2], "under way"))),
)
"""panels of `pace`: title, how its numbers read, and key, colour and label of each line"""


def pace(timings: Rows) -> Figure | None:
    """Who waits, how fast sampler and learner are, and what is on its way, over updates; a row of panels per stage."""
    stages: dict[str, list[Mapping[str, Any]]] = {}
    for row in timings:
        if any(key in row for _, _, lines in PACE for key, _, _ in lines):
            stages.setdefault(row["stage"], []).append(row)
    if not stages:
        return None
    kinds = [one for one in PACE if any(key in row for rows in stages.values() for row in rows for key, _, _ in one[2])]
    figure, parts = stacked(list(stages), [2.5] * len(stages))
    for part, rows in zip(parts, stages.values(), strict=True):
        for panel, (title, form, lines) in zip(part.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
            for key, color, label in lines:
                _traced(panel, _points(rows, key), color, label)
            _count(panel, "update")
            panel.set(title=title, ylim=(0, _top(panel)))
            panel.yaxis.set_major_formatter(form)
            _legend(panel)
    return figure


def preference(metrics: Rows, hue: Mapping[str, str]) -> Figure | None:
    """What preferences did: the margin, both completions against the reference, and how often the order is right."""
    margin, up, down, right = (series(metrics, key) for key in ("margin", "chosen", "rejected", "accuracy"))
    stages = [stage for stage in dict.fromkeys(stage for stage, _ in margin) if any(where == stage for where, _ in up)]
    if not stages:
        return None
    figure, parts = stacked(stages, [2.5] * len(stages))
    for part, stage in zip(parts, stages, strict=True):
        first, second, third = part.subplots(1, 3)
        for where, line in margin.items():
            if where[0] == stage:
                color = hue[where[1]]
                _traced(first, line, color)
                for found, style, label in ((up, "-", "chosen"), (down, DOTTED, "rejected")):
                    if where in found:
                        second.plot(*smooth(*_known(*found[where])), color=color, linestyle=style, label=label)
                if where in right:
                    _traced(third, right[where], color)
        first.axhline(0, color=MUTED, linewidth=0.8)
        second.axhline(0, color=MUTED, linewidth=0.8)
        first.set(title="margin", ylabel="nats a token")
        second.set(title="above the reference", ylabel="nats a token")
        for row in metrics:
            if row["stage"] == stage and row["kind"] == "stopped" and "updates" in row:
                second.axvline(row["updates"], color=MUTED, linewidth=1, linestyle=(0, (4, 2)), label="kept")
        second.legend(loc="best")
        third.set(title="chosen is preferred", ylabel="share of pairs", ylim=(0, 1.02))
        third.yaxis.set_major_formatter(_percent)
        for panel in (first, second, third):
            _count(panel, "optimizer step")
    return figure


def _count(panel: Axes, what: str) -> None:
    """Along the foot, in whole numbers."""
    panel.set_xlabel(what)
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _top(panel: Axes) -> float:
    """The highest value of a panel; 1 where it has none above 0."""
    top = float(panel.dataLim.y1)
    return top if 0 < top < np.inf else 1.0


def _legend(panel: Axes) -> None:
    """At the top, above the lines."""
    panel.set_ylim(0, panel.get_ylim()[1] * 1.25)
    panel.legend(loc="upper left", ncols=2, columnspacing=1.2)


def _percent(value: float, _: int) -> str:
    return f"{100 * value:.0f} %"


def _lags(rows: Rows) -> dict[int, float]:
    counts: dict[int, float] = {}
    for row in rows:
        for key, value in row.items():
            if key.startswith("lag/") and np.isfinite(value):
                counts[int(key[4:])] = counts.get(int(key[4:]), 0.0) + value
    return counts


def _points(rows: Rows, key: str) -> Line:
    """Steps and values of a key, where it is known."""
    there = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    return _known(np.array([step for step, _ in there]), np.array([value for _, value in there], float))


def _known(steps: np.ndarray, values: np.ndarray) -> Line:
    there = np.isfinite(values)
    return steps[there], values[there]


def _traced(panel: Axes, line: Line, color: str, label: str | None = None) -> None:
    """A smooth line over a faint one of what was measured."""
    steps, values = _known(*line)
    panel.plot(steps, values, color=color, linewidth=0.8, alpha=0.3)
    panel.plot(*smooth(steps, values), color=color, label=label)
