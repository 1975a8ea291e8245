"""The examination of an experiment: held-out questions that its learners are asked, and what is told of the answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from distill.curriculum.estimate import pass_at_k
from distill.state import Weights
from distill.tasks.exam import Exam, Marks
from distill.tasks.item import Item
from distill.tasks.small import Small
from distill.tasks.source import Questions
from models.execution import Execution
from models.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Examination:
    """Held-out questions, and how they are asked.

    Raises:
      ValueError: a count is less than it can be.
    """

    questions: Questions = field(default_factory=lambda: Questions(Small()))
    exam: Exam = field(default_factory=Exam)
    who: tuple[str, ...] | None = None
    """names of the learners that are asked; None: all"""
    k: int = 8
    """of pass@k: at most the exam's attempts"""
    few: int = 0
    """questions of a cell that are asked with every checkpoint, once each; 0: none"""
    shown: int = 2
    """questions of a cell whose likeliest answers are kept, to be read"""

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.exam.attempts:
            raise ValueError(
                f"Examination: pass@k at k={self.k} needs as many attempts, and the exam makes {self.exam.attempts}; "
                "k must be at least 1: set exam.attempts or k"
            )
        for name in ("few", "shown"):
            if vars(self)[name] < 0:
                raise ValueError(f"Examination: {name} is {vars(self)[name]}; it must be 0 or more")

    def __call__(self, weights: Weights, tokenizer: Tokenizer, execution: Execution) -> dict[str, Any]:
        """exam: what `told` says of each cell (a task at a level); samples: questions with the likeliest answers."""
        marks = self.exam(weights, self.questions.items("held_out"), tokenizer, execution)
        cells = marks.cells()
        samples = [
            {"cell": name, "prompt": item.text, "right": item.answer, "said": said}
            for name, cell in cells.items()
            for item, said in list(zip(cell.items, cell.said, strict=True))[: self.shown]
        ]
        return {"exam": {name: told(cell, self.k) for name, cell in cells.items()}, "samples": samples}

    def glanced(self, weights: Weights, tokenizer: Tokenizer, execution: Execution) -> dict[str, float]:
        """Share of right answers by cell, each of a few questions answered once, and their mean."""
        once = replace(self.exam, attempts=1)
        cells = once(weights, few(self.questions.items("held_out"), self.few), tokenizer, execution).cells()
        found = {f"exam/{name}": float(cell.successes.mean()) for name, cell in cells.items()}
        return found | {"exam": float(np.mean(list(found.values())))}

    def asks(self, learner: str) -> bool:
        """Whether a learner of this name is asked."""
        return self.who is None or learner in self.who

    def tiny(self) -> "Examination":
        """Fewer attempts."""
        return replace(self, exam=replace(self.exam, attempts=2), k=min(self.k, 2), few=min(self.few, 2))


def check_contrasts(
    contrasts: Sequence[tuple[str, str]], examination: Examination | None, learners: Sequence[str]
) -> None:
    """Refuses to compare, or to examine, learners that are not there, or to compare those that nobody examines.

    Raises:
      ValueError: as it says.
    """
    compared = {name for pair in contrasts for name in pair}
    who = (*learners,) if examination is None or examination.who is None else examination.who
    strange, unasked = sorted({*compared, *who} - {*learners}), sorted(compared - {*who})
    hindrances = {
        f"there is no learner {strange}": strange,
        "there is none": compared and examination is None,
        f"{unasked} are not among those that are asked, {[*who]}": unasked,
    }
    if found := [reason for reason, holds in hindrances.items() if holds]:
        raise ValueError(
            f"contrasts={contrasts} compare the answers of learners in an examination, and {found[0]}; the learners "
            f"are {sorted(learners)}"
        )


def told(cell: Marks, k: int) -> dict[str, Any]:
    """What results.json has of a cell: n questions, pass@1 with its standard error over them, pass@k, greedy, the mean
    length of an answer in tokens, and its surprise in nats a token.
    """
    shares = cell.successes / cell.attempts
    return {
        "capability": cell.items[0].capability,
        "n": len(cell.items),
        "attempts": int(cell.attempts[0]),
        "pass@1": float(shares.mean()),
        "error": float(shares.std(ddof=1) / np.sqrt(len(shares))) if len(shares) > 1 else None,
        "k": k,
        "pass@k": float(pass_at_k(cell.attempts, cell.successes, k).mean()),
        "greedy": float(cell.greedy.mean()),
        "tokens": float(cell.tokens.mean()),
        "surprise": float(cell.surprise.mean()),
    }


def few(items: Sequence[Item], count: int) -> list[Item]:
    """The first so many items of every task and level, in order."""
    seen: dict[tuple[str, int], int] = {}
    chosen = []
    for item in items:
        cell = (item.task, item.level)
        seen[cell] = seen.get(cell, 0) + 1
        if seen[cell] <= count:
            chosen.append(item)
    return chosen
