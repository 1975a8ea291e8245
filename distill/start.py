"""What a learner starts from: a given model, or a learner of an earlier stage, of which it inherits what fits."""

from dataclasses import replace

from distill.given import Given, Trained
from distill.stage import Learner, Stage
from models.config import Config, tiny
from models.heritage import heritage


def check_start(
    learner: Learner, given: tuple[Given | Trained, ...], earlier: dict[str, Learner | Given | Trained]
) -> None:
    """Refuses a start that is not there before the learner's stage, or that it cannot be made of.

    `earlier` has the given models and the learners of earlier stages.
    """
    if learner.name in [one.name for one in given]:
        raise ValueError(f"a learner and a given model are both called {learner.name!r}; give one another name")
    if learner.start is None:
        if learner.keep is not None:
            raise ValueError(
                f"learner {learner.name!r} keeps layers {learner.keep} of nothing; name what it starts from"
            )
        return
    if learner.start not in earlier:
        raise ValueError(
            f"learner {learner.name!r} starts from {learner.start!r}, which is not given and no learner of an earlier "
            f"stage; there are {sorted(earlier)}"
        )
    try:
        heritage(earlier[learner.start].model, learner.model, learner.keep)
    except ValueError as error:
        raise ValueError(f"learner {learner.name!r} cannot start from {learner.start!r}: {error}") from error


def tiny_models(stages: tuple[Stage, ...], given: tuple[Given | Trained, ...]) -> dict[str, Config]:
    """A tiny form of every learner's model, by name.

    Who starts from a given model, or from a learner that does, keeps its size. Who starts from a learner, and who is
    started from, keep their layers and experts, so that one can still be made of the other.
    """
    learners = [learner for stage in stages for learner in stage.learners]
    whole = {one.name for one in given}
    for _ in stages:
        whole |= {learner.name for learner in learners if learner.start in whole}
    kin = {name for learner in learners if learner.start for name in (learner.name, learner.start)}

    def shrink(learner: Learner) -> Config:
        model = learner.model
        if learner.name in whole:
            return model
        return replace(tiny(model), layers=model.layers, experts=model.experts) if learner.name in kin else tiny(model)

    return {learner.name: shrink(learner) for learner in learners}
