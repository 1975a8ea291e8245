"""The trials of a sweep: what each came to, and beside each other, paired by seed."""

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from distill.experiment import Experiment
from distill.metrics import read
from distill.run import load_run
from distill.statistics import Paired, paired


@dataclass(frozen=True)
class Trial:
    """An experiment in a folder of its own."""

    experiment: Experiment
    folder: Path
    seed: int

    @property
    def title(self) -> str:
        """Its name and seed."""
        return f"{self.experiment.name} (seed {self.seed})"

    @property
    def log(self) -> Path:
        """What its process prints."""
        return self.folder.with_suffix(".log")

    @property
    def finished(self) -> bool:
        """Whether its results are there."""
        return (self.folder / "results.json").exists()

    def seen(self) -> bool:
        """Whether it is finished, as the file system says when its folder is listed: an absent file is remembered."""
        return self.folder.exists() and "results.json" in os.listdir(self.folder)

    def place(self) -> str:
        """How far it is."""
        lines = read(self.folder / "timings.jsonl") if (self.folder / "timings.jsonl").exists() else []
        return f"{lines[-1]['stage']} {lines[-1]['step']}" if lines else "starting"

    def last_words(self) -> str:
        """Its last error, or the last line of its log."""
        text = self.log.read_text(errors="replace").strip() if self.log.exists() else ""
        found = text.rpartition("\nerror: ")[2] if "\nerror: " in text else text.rpartition("\n")[2]
        return " ".join(found.split())[:300] or "it said nothing"


def collect(trials: Sequence[Trial], folder: Path) -> list[dict[str, Any]]:
    """A row for every learner of every stage of every finished trial; also in trials.jsonl, for pandas."""
    rows = []
    for trial in trials:
        if trial.finished:
            found = load_run(trial.folder).results["models"]
            rows += [{"trial": trial.experiment.name, **row, "seed": trial.seed} for row in found]
    beside = folder / ".trials.jsonl"
    beside.write_text("".join(json.dumps(row) + "\n" for row in rows))
    beside.replace(folder / "trials.jsonl")
    return rows


@dataclass(frozen=True)
class Line:
    """A learner of a trial over its seeds."""

    title: str
    values: dict[int, float]
    """held-out cross-entropy by seed"""
    accuracy: float
    difference: Paired | None
    """from the trial to compare with, on the seeds both have"""


def summarise(rows: Sequence[dict[str, Any]], against: str | None) -> list[Line]:
    """A line for each learner of each trial, the best first, paired by seed.

    With the learner of the same name and stage of the trial `against` (the first, if None), or with the learner
    `against` of the same trial and stage.

    Raises:
        ValueError: there is no trial or learner called `against`.
    """
    names = list(dict.fromkeys(row["trial"] for row in rows))
    learners = list(dict.fromkeys(row["name"] for row in rows))
    if against is not None and against not in names + learners:
        raise ValueError(f"--against {against!r} is not among the finished trials {names} or their learners {learners}")
    base = against or (names[0] if names else "")
    groups: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["trial"], row["stage"], row["name"]), {})[row["seed"]] = row
    lines = []
    for (trial, stage, name), found in groups.items():
        values = {seed: row["cross_entropy"] for seed, row in found.items()}
        twin = (trial, stage, base) if base in learners else (base, stage, name)
        other = {seed: row["cross_entropy"] for seed, row in groups.get(twin, {}).items()}
        common = sorted(values.keys() & other.keys())
        both = [values[seed] for seed in common], [other[seed] for seed in common]
        difference = paired(*both) if common and twin != (trial, stage, name) else None
        accuracy = statistics.fmean(row["accuracy"] for row in found.values())
        lines.append(Line(f"{trial}: {stage} {name}", values, accuracy, difference))
    return sorted(lines, key=lambda line: statistics.fmean(line.values.values()))


def table(lines: Sequence[Line]) -> str:
    """The lines as text."""
    width = max([len(line.title) for line in lines], default=0)
    text = f"{'':{width}}  cross-entropy     accuracy  paired difference [95 %]\n"
    for line in lines:
        values = list(line.values.values())
        spread = f"{statistics.stdev(values):.4f}" if len(values) > 1 else "      "
        mean = f"{statistics.fmean(values):.4f} ± {spread}"
        text += f"{line.title:{width}}  {mean:16}  {line.accuracy:8.2%}  {line.difference or ''}\n"
    return text


def draw(lines: Sequence[Line]) -> Any:
    """The paired differences with their intervals, the best on top; those without one show where their mean lies.

    What lies far outside the others is drawn at the edge, as an arrow: the table has its number.
    """
    import matplotlib
    from matplotlib.figure import Figure

    from distill.figures import HUES, INK, STYLE

    shown = [line for line in lines if line.difference is not None] or list(lines)
    edge = _edge([line.difference for line in shown if line.difference is not None])
    with matplotlib.rc_context({**STYLE, "axes.grid.axis": "x"}):
        figure = Figure(figsize=(7.5, 0.9 + 0.32 * len(shown)))
        panel = figure.subplots()
        for height, line in enumerate(reversed(shown)):
            if line.difference is None:
                panel.plot(statistics.fmean(line.values.values()), height, "o", color=HUES[1])
                continue
            mark_difference(panel, height, line.difference, edge, HUES[0], HUES[1])
        if shown and shown[0].difference is not None:
            panel.axvline(0.0, color=INK, linewidth=0.8)
        panel.set_yticks(range(len(shown)), [line.title for line in reversed(shown)])
        panel.set_ylim(-0.5, len(shown) - 0.5)
        panel.set_xlabel("held-out cross-entropy, nats: paired difference with 95 % interval")
    return figure


def mark_difference(panel: Any, height: int, found: Paired, edge: float, line: str, dot: str) -> None:
    """An interval and its mean; an arrow at the edge where the mean lies beyond it."""
    low, high = (max(-edge, min(edge, end)) for end in found.interval or (found.mean, found.mean))
    mean = max(-edge, min(edge, found.mean))
    panel.plot([low, high], [height, height], color=line, linewidth=3)
    panel.plot(mean, height, "o" if mean == found.mean else "<>"[found.mean > 0], color=dot)


def _edge(found: Sequence[Paired]) -> float:
    """Four times as far as half of the differences reach."""
    reach = [max(map(abs, one.interval or (one.mean,))) for one in found]
    return max(4.0 * statistics.median(reach), 1e-6) if reach else 0.0


def write_page(rows: Sequence[dict[str, Any]], folder: Path, against: str | None = None) -> str:
    """Writes the table, the figure and sweep.html; returns the table."""
    from distill.figures import save

    lines = summarise(rows, against)
    text = table(lines)
    if lines:
        (folder / "figures").mkdir(exist_ok=True)
        save(draw(lines), folder / "figures" / "sweep.png")
    page = f"<!doctype html><meta charset=utf-8><title>{escape(folder.name)}</title><pre>{escape(text)}</pre>"
    (folder / "sweep.html").write_text(page + '<img src="figures/sweep.png" style="max-width: 100%">\n')
    return f"{text}\npage: {folder / 'sweep.html'}"
