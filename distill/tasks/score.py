"""Whether an answer is right: equal, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """What is thought of an answer."""

    right: bool
    """what training and gates go by"""
    raw: float
    """0 to 1, by whoever gives shares of a mark (`distill.tasks.gym`); NaN where that cannot be told"""


@dataclass(frozen=True)
class Strict:
    """1 for an answer that equals the right one in every character, 0 for any other; so it is a reward too.

    Before they are compared, both lose the characters of `strip` at both ends; within, and in case, they must be equal.
    There is no mark for an answer that holds the right one among others: a model finds that out.
    """

    strip: str = " \t\r\n"
    """white space that does not count at the ends; "": everything counts"""

    def __call__(self, question: Mapping[str, Any], answer: object) -> float:
        """1 if `answer` is the question's "answer", else 0, whatever it is: None, bytes, a million characters.

        Raises:
          ValueError: the question has no answer; that is no fault of who answers.
        """
        return float(self.judge(question, answer).right)

    def judge(self, question: Mapping[str, Any], answer: object) -> Verdict:
        """The same, as a verdict.

        Raises:
          ValueError: the question has no answer.
        """
        gold = self._normal(question["answer"]) if isinstance(question.get("answer"), str) else ""
        if not gold:
            raise ValueError(
                f"question {question.get('id', '')!r} has no answer to compare with; it must have text at 'answer'"
            )
        right = isinstance(answer, str) and self._normal(answer) == gold
        return Verdict(right, float(right))

    def _normal(self, text: str) -> str:
        # str.strip("") strips nothing; str.strip() would strip more than is said here.
        return text.strip(self.strip)
