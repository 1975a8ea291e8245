"""What learners can do after each stage: the marks of their exams, over cells and seeds, with intervals."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.statistics import Estimate, over_questions, over_seeds

Rows = Sequence[Mapping[str, Any]]

SHARES = ("pass@1", "pass@k", "greedy")
"""marks that are shares of questions"""
MARKS = (*SHARES, "tokens", "surprise")


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The marks of a learner after a stage, by the names of `MARKS`; those that no row has are left out."""

    stage: str
    name: str
    seeds: int
    overall: Mapping[str, Estimate]
    """the plain mean over cells"""
    cells: Mapping[str, Mapping[str, Estimate]]
    """of each `<task>/<level>`"""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A task at a level, and how it was asked."""

    name: str
    capability: str
    task: str
    level: str
    questions: int
    k: int | None


def standings(rows: Rows) -> list[Standing]:
    """Of every stage and learner that was examined, in the order of the rows (`results["models"]`).

    Intervals are by Student's t over seeds where there are several; with one, over questions (`over_questions`), and
    none for what is no share of questions.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("exam"):
            groups.setdefault((row["stage"], row["name"]), []).append(row["exam"])
    found = []
    for (stage, name), exams in groups.items():
        cells = [cell.name for cell in cells_of(exams)]
        found.append(
            Standing(
                stage=stage,
                name=name,
                seeds=len(exams),
                overall=_estimates(exams),
                cells={cell: _estimates([{cell: exam[cell]} for exam in exams if cell in exam]) for cell in cells},
            )
        )
    return found


def cells_of(exams: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """The cells of exams, by capability, task and level."""
    found: dict[str, Cell] = {}
    for exam in exams:
        for name, marks in exam.items():
            task, _, level = name.rpartition("/")
            found[name] = Cell(
                name=name,
                capability=str(marks.get("capability", "")),
                task=task,
                level=level,
                questions=int(marks.get("n", 0)),
                k=marks.get("k"),
            )
    return sorted(found.values(), key=lambda cell: (cell.capability, cell.task, rank(cell.level)))


def titles(found: Sequence[tuple[str, str]]) -> list[str]:
    """What to call learners after stages, given as (stage, learner): as briefly as keeps them apart."""
    if len({name for _, name in found}) == 1:
        return [stage for stage, _ in found]
    return [stage if stage == name else f"{stage}: {name}" for stage, name in found]


def rank(level: str) -> tuple[float, str]:
    """Where a level stands among others: by its number, if it is one."""
    return (float(level), "") if level.isdigit() else (math.inf, level)


def _estimates(exams: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    found = {}
    for mark in MARKS:
        known = [[cell for cell in exam.values() if _there(cell, mark)] for exam in exams]
        known = [cells for cells in known if cells]
        values = [statistics.fmean(cell[mark] for cell in cells) for cells in known]
        if len(values) > 1:
            found[mark] = over_seeds(values)
            low, high = found[mark].interval or (values[0], values[0])
            if mark in SHARES:  # no share is outside, and the interval covers no less for it
                found[mark] = Estimate(mean=found[mark].mean, interval=(max(low, 0.0), min(high, 1.0)))
        elif values and mark in SHARES and all(cell.get("n", 0) for cell in known[0]):
            found[mark] = over_questions([cell[mark] for cell in known[0]], [_coins(cell, mark) for cell in known[0]])
        elif values:
            found[mark] = Estimate(mean=values[0])
    return found


def _coins(cell: Mapping[str, Any], mark: str) -> float | int:
    """How many questions of one attempt would tell as much: from one for each to one for each attempt."""
    error, n, p = cell.get("error"), cell["n"], cell[mark]
    if mark != "pass@1" or not error:
        return n
    return min(max(p * (1 - p) / error**2, n), n * cell.get("attempts", 1))


def _there(cell: Mapping[str, Any], mark: str) -> bool:
    return cell.get(mark) is not None and math.isfinite(cell[mark])
