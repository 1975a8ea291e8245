"""What is told of an examination: marks that one can count."""

from dataclasses import replace

import numpy as np
import pytest

from distill.state import Weights
from distill.tasks.exam import Exam, Marks
from distill.tasks.examination import Examination, few, told
from distill.tasks.small import Small
from distill.tasks.source import Questions
from models.execution import Execution
from models.tokenizer import Bytes

ASKED = Small(tasks=("reverse", "sort"), levels=(0, 1), train=4, held_out=3)
NOBODY = Weights(None, None)
ITEMS = tuple(ASKED().select(split="held_out"))


def marked(items, successes, attempts=4):
    """Marks of so many successes."""
    count = len(items)
    return Marks(
        items=tuple(items), attempts=np.full(count, attempts), successes=np.array(successes),
        greedy=np.arange(count) % 2, tokens=np.full(count, 3.0), surprise=np.full(count, 0.5), said=("x",) * count,
    )  # fmt: skip


@pytest.fixture
def asked(monkeypatch):
    """The exams that were held: how often what was asked; every question is answered right once."""
    found = []

    def hold(self, weights, items, tokenizer, execution=None):
        found.append((self.attempts, tuple(items)))
        return marked(items, np.ones(len(items), int), self.attempts)

    monkeypatch.setattr(Exam, "__call__", hold)
    return found


def test_a_cell_is_told_by_its_shares():
    found = told(marked(ITEMS[:3], [4, 2, 0]), k=2)
    assert found["pass@1"] == pytest.approx(0.5)
    assert found["error"] == pytest.approx(0.5 / 3**0.5)  # the standard deviation of 1, 1/2 and 0 is 1/2
    assert found["pass@k"] == pytest.approx((1 + 5 / 6 + 0) / 3)  # of 6 pairs of attempts, one has none of two right
    assert found["greedy"] == pytest.approx(1 / 3)
    assert (found["n"], found["attempts"], found["k"], found["tokens"], found["surprise"]) == (3, 4, 2, 3.0, 0.5)


def test_one_question_has_no_standard_error():
    assert told(marked(ITEMS[:1], [2]), k=1)["error"] is None


def test_a_few_are_the_first_of_every_cell():
    chosen = few(ITEMS, 2)
    assert [(one.task, one.level) for one in chosen] == [
        (task, level) for task in ("reverse", "sort") for level in (0, 1) for _ in range(2)
    ]
    assert chosen[:2] == list(ITEMS[:2])


def test_with_a_checkpoint_a_few_are_asked_once(asked):
    found = Examination(questions=Questions(ASKED), few=2).glanced(NOBODY, Bytes(), Execution())
    assert asked == [(1, tuple(few(ITEMS, 2)))]
    assert found == dict.fromkeys(("exam", *(f"exam/{task}/{n}" for task in ("reverse", "sort") for n in (0, 1))), 1.0)


def test_samples_are_the_first_of_every_cell_with_what_was_said(asked):
    found = Examination(questions=Questions(ASKED), shown=1)(NOBODY, Bytes(), Execution())
    assert asked == [(16, ITEMS)]
    assert [one["cell"] for one in found["samples"]] == list(found["exam"]) == sorted(found["exam"])
    first = ITEMS[0]
    assert found["samples"][0] == {"cell": "reverse/0", "prompt": first.text, "right": first.answer, "said": "x"}


def test_those_who_are_named_are_asked_and_all_where_nobody_is():
    one = Examination()
    assert one.asks("scout") and replace(one, who=("scout",)).asks("scout")
    assert not replace(one, who=("maverick",)).asks("scout")


def test_its_tiny_form_attempts_less():
    tiny = Examination(k=8, few=5).tiny()
    assert (tiny.exam.attempts, tiny.k, tiny.few) == (2, 2, 2)
