"""What the stages of a run share, and the models they ask for."""

import threading
from dataclasses import dataclass, field

from distill.ceiling import Ceiling
from distill.experiment import Experiment
from distill.metrics import Metrics
from distill.run import Run
from distill.stage import Learner, Stage
from distill.state import State, Weights, adopt, create
from distill.teacher import LiveTeacher, Silent, Teacher
from distill.trained import read_weights


@dataclass(frozen=True)
class Room:
    """What the stages of a run share."""

    experiment: Experiment
    run: Run
    metrics: Metrics
    ceiling: Ceiling
    stop: threading.Event
    quiet: bool = False
    held: dict[str, Weights] = field(default_factory=dict)
    """the given model that stages listen to: one at a time, shared by those that follow each other"""

    def weights(self, stage: Stage, name: str) -> Weights:
        """The learner `name` as `stage` left it."""
        return read_weights(self.run, stage.name, name, self.experiment.mesh, step=stage.steps)

    def teacher(self, name: str | None) -> Teacher:
        """The learner `name` as its stage left it, or the given model, to listen to; silence for None."""
        experiment = self.experiment
        if name not in self.held:
            self.held.clear()
        if name is None:
            return Silent()
        return LiveTeacher(self.teacher_weights(name), experiment.execution)

    def teacher_weights(self, name: str) -> Weights:
        """The weights of the learner `name` as its stage left it, or of the given model."""
        experiment = self.experiment
        given = experiment.given_of(name)
        if given is None:
            return self.weights(experiment.stage_of(name), name)
        if name not in self.held:
            self.held[name] = Weights(*given.teacher(experiment.mesh))
        return self.held[name]

    def newborn(self, learner: Learner, steps: int, averaged: bool = False) -> State:
        """A learner's state before its first step: drawn by the seed, or made of the weights that it starts from."""
        experiment, mesh = self.experiment, self.experiment.mesh.build()
        if learner.start is None:
            return create(learner, steps, mesh, experiment.seed, averaged)
        given = experiment.given_of(learner.start)
        if given is None:
            model = self.weights(experiment.stage_of(learner.start), learner.start).model
        else:
            model = given.start(experiment.mesh)
        return adopt(learner, steps, mesh, model, experiment.seed, averaged)
