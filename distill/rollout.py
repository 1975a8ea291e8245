"""Who completes a stage's prompts: the student itself or its teacher, and what is refused at the door."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # they are made of these
    from distill.stage import Stage
    from models.config import Config

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class OnPolicy:
    """Answers of a share of the rows are replaced by the student's own, drawn from its weights before the step.

    With a divergence from the teacher and no say of the labels this is generalised knowledge distillation (GKD, Agarwal
    et al. 2024, arXiv:2306.13649); no gradient flows through the drawing. A completion follows from the weights, the
    prompt, the row, the number of the step and the seed alone.
    """

    fraction: float = 1.0
    """share of the rows; over the steps to the nearest row"""
    temperature: float = 1.0
    """of the drawing; 0 takes the likeliest token"""
    tokens: int | None = None
    """of an answer, at most; None: as many as its row has room for"""

    def __post_init__(self) -> None:
        _check_drawing(self, self.fraction, self.temperature, self.tokens)

    @property
    def own(self) -> bool:
        """Whether every label is drawn from the student as it is."""
        return self.fraction == 1.0 and self.temperature == 1.0

    def choose(self, student: T, teacher: T) -> T:
        """Who writes: of two things of a kind, the writer's."""
        return student

    def check(self, stage: "Stage") -> None:
        """Refuses what cannot learn from its own words.

        Raises:
          ValueError: several learners, or a loss in which labels have a say.
        """
        if len(stage.learners) != 1:
            raise ValueError(
                f"stage {stage.name!r}: {[one.name for one in stage.learners]} would each have to read rows of its "
                "own, and learners of a stage share theirs; give each a stage (of one stream, for the same prompts)"
            )
        one = stage.learners[0]
        if one.loss.learns_labels:
            raise ValueError(
                f"stage {stage.name!r}: {one.name!r} would learn its own draws as if they were true; leave its loss to "
                "the teacher alone: Distill(alpha=Constant(1.0), gate=NoGate()), or SampledReverseKL()"
            )


@dataclass(frozen=True, kw_only=True)
class FromTeacher:
    """Answers of a share of the rows are replaced by the teacher's: sequence-level distillation.

    It is Kim and Rush 2016 (arXiv:1606.07947) with Distill(alpha=Constant(0.0)), the cross-entropy on what the teacher
    wrote; theirs is the likeliest answer (temperature 0), at 1 the gradient is that of the forward KL of whole answers.
    """

    fraction: float = 1.0
    """share of the rows; over the steps to the nearest row"""
    temperature: float = 1.0
    """of the drawing; 0 takes the likeliest token"""
    tokens: int | None = None
    """of an answer, at most; None: as many as its row has room for"""

    def __post_init__(self) -> None:
        _check_drawing(self, self.fraction, self.temperature, self.tokens)

    @property
    def own(self) -> bool:
        """None of the labels is the student's."""
        return False

    def choose(self, student: T, teacher: T) -> T:
        """Who writes: of two things of a kind, the writer's."""
        return teacher

    def check(self, stage: "Stage") -> None:
        """Any learners may read what the teacher wrote."""


def check_rollout(stage: "Stage", teacher: "Config | None") -> None:
    """Refuses a stage whose completions nobody could write, or would teach nothing.

    Args:
      teacher: what its teacher is.

    Raises:
      ValueError: as it says.
    """
    where, rollout = f"stage {stage.name!r}", stage.rollout
    for one in stage.learners:
        if one.loss.on_policy and not (rollout is not None and rollout.own):
            raise ValueError(
                f"{where}: the loss of {one.name!r} is right for its own draws at temperature 1 alone, and rollout is "
                f"{rollout}; set rollout=OnPolicy(), with fraction and temperature 1"
            )
    if rollout is None:
        return
    if stage.teacher is None or stage.beside or stage.store or stage.teacher_on:
        raise ValueError(
            f"{where}: completions need a teacher that is there and finished, to judge or to write them; it has "
            f"teacher={stage.teacher!r}, store={stage.store!r} and teacher_on={stage.teacher_on}: name a learner of an "
            "earlier stage or a given model, on the learners' own mesh (what it is to judge is not known ahead)"
        )
    rollout.check(stage)
    writer = rollout.choose(stage.learners[0].model, teacher)
    if writer is not None and stage.length >= writer.max_positions:
        raise ValueError(
            f"{where}: a prompt and its completion may have {stage.length + 1} tokens, and who writes it has "
            f"{writer.max_positions} positions; set --stages.N.length {writer.max_positions - 1} or less"
        )


def _check_drawing(asker: object, fraction: float, temperature: float, tokens: int | None) -> None:
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"{asker}: fraction must lie within 0 and 1; it is the share of the rows that are completed")
    if not 0.0 <= temperature < math.inf:
        raise ValueError(f"{asker}: temperature must be 0 (the likeliest token) or more; 1 draws as the model says")
    if tokens is not None and tokens < 1:
        raise ValueError(f"{asker}: tokens must be at least 1; None is as many as a row has room for")
