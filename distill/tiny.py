"""The tiny form of stages and of who learns in them: what `--tiny` runs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from distill.given import Given, Trained
from distill.stage import Learner, Stage, Staged
from models.config import Config, tiny

PACED = 100
"""documents of a stage that are measured, at most"""


def tiny_models(stages: Sequence[Staged], given: tuple[Given | Trained, ...]) -> dict[str, Config]:
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


def tiny_stage(stage: Stage, models: Mapping[str, Config]) -> Stage:
    """Its tiny form: few steps, and for each learner the model of its name."""
    learners = tuple(
        replace(
            learner,
            model=models[learner.name],
            # Tiny models have other layers, widths and experts than those that were to be compared.
            features=learner.features and replace(learner.features, pairs=None, project=True),
            routing=None,
        )
        for learner in stage.learners
    )
    length = min(stage.length, 64, *(learner.model.max_positions for learner in learners))
    steps = min(stage.steps, 12)
    documents = stage.documents
    if stage.pacing is not None:  # each is measured before the first step
        documents = min(documents or PACED, PACED)
    return replace(
        stage,
        learners=learners,
        steps=steps,
        rows=4,
        length=length,
        documents=documents,
        accumulate=min(stage.accumulate, 2),
        readers=1,
        log_every=2,
        save_every=4,
        teacher_on=None,
    )
