"""Which questions a stage learns from: those that a filter leaves of what a model of the run was asked."""

from collections.abc import Container
from dataclasses import dataclass

from distill.curriculum.filter import DropEasiest, DropSolved, DropUnsolved, Filter, RandomShare


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A model is asked every question of a stage that is to be learned from; a filter says which of them stay.

    The table of what it answered is kept in the run's folder, as `difficulty/<stage>.json`.
    """

    by: str
    """who is asked: a learner of an earlier stage, or a given model"""
    rule: DropEasiest | DropSolved | DropUnsolved | RandomShare | Filter = DropEasiest(share=0.5)
    attempts: int = 16
    """at each question"""
    tokens: int = 12
    """of an answer, at most"""
    seed: int = 0
    """of the answers"""

    def __post_init__(self) -> None:
        for name in ("attempts", "tokens"):
            if vars(self)[name] < 1:
                raise ValueError(f"Selection: {name} is {vars(self)[name]}; it must be at least 1")


def check_selection(stage: str, selection: Selection | None, earlier: Container[str]) -> None:
    """Refuses a selection by somebody who is not there before the stage.

    Raises:
      ValueError: as it says.
    """
    if selection is not None and selection.by not in earlier:
        raise ValueError(
            f"stage {stage!r}: its questions are selected by {selection.by!r}, which is not given and no learner of an "
            "earlier stage; name one"
        )
