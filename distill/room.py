"""What the stages of a run share, and the models they ask for."""

import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from distill.ceiling import Ceiling
from distill.cluster import Notice
from distill.experiment import Experiment
from distill.hold import Hold, held
from distill.mesh import Mesh, executed
from distill.metrics import Metrics
from distill.profile import Profile, Trace, traced
from distill.run import Run
from distill.stage import Learner, Staged
from distill.state import State, Weights, adopt, create
from distill.teacher import LiveTeacher, Silent
from distill.trained import identity, read_weights
from models.config import Config
from models.execution import Execution


@dataclass(frozen=True)
class Room:
    """What the stages of a run share."""

    experiment: Experiment
    run: Run
    metrics: Metrics
    ceiling: Ceiling
    stop: Notice
    quiet: bool = False
    profile: Profile | None = None
    """the optimizer steps of each stage that are traced"""
    held: dict[tuple[str, Hold, Mesh], Weights] = field(default_factory=dict)
    """the given models that a stage listens to, shared with the stages that follow it and listen to the same"""

    @property
    def execution(self) -> Execution:
        """How models are run on the learners' mesh."""
        return executed(self.experiment.execution, self.experiment.mesh.build())

    def weights(self, stage: Staged, name: str, mesh: Mesh | None = None) -> Weights:
        """The learner `name` as `stage` left it, on the learners' mesh or another."""
        return read_weights(self.run, stage.name, name, mesh or self.experiment.mesh, step=stage.steps)

    def silence(self) -> Silent:
        """No teacher: nothing is held for one."""
        self.held.clear()
        return Silent()

    def teachers(self, names: tuple[str, ...], hold: Hold, mesh: Mesh | None = None) -> tuple[LiveTeacher, ...]:
        """The learners of these names as their stages left them, or the given models, to listen to."""
        mesh = mesh or self.experiment.mesh
        for key in self.held.keys() - {(name, hold, mesh) for name in names}:
            del self.held[key]
        execution = executed(hold.execution(self.experiment.execution), mesh.build())
        return tuple(LiveTeacher(self.teacher_weights(name, hold, mesh), execution) for name in names)

    def teacher_weights(self, name: str, hold: Hold, mesh: Mesh) -> Weights:
        """The weights of the learner `name` as its stage left it, or of the given model, as they are held."""
        experiment = self.experiment
        given, key = experiment.given_of(name), (name, hold, mesh)
        if key in self.held:
            return self.held[key]
        found = Weights(*given.teacher(mesh)) if given else self.weights(experiment.stage_of(name), name, mesh)
        found = Weights(held(found.model, hold, mesh.build()), found.bias)
        if given:
            self.held[key] = found
        return found

    def identity(self, name: str) -> str:
        """Fingerprint of the teacher of this name, by which a store knows it; its weights are not read."""
        given = self.experiment.given_of(name)
        if given is not None:
            return given.fingerprint
        stage = self.experiment.stage_of(name)
        return identity(self.run.path, stage.name, name, stage.steps)

    def examine(self, learner: str, weights: Weights) -> dict[str, Any]:
        """What becomes of the experiment's examination, as fields of a row of results; none where it is not asked."""
        examination = self.experiment.examination
        if examination is None or not examination.asks(learner):
            return {}
        return examination(weights, self.experiment.tokenizer, self.experiment.execution)

    def glance(self, stage: Staged, number: int, learner: str, weights: Weights) -> None:
        """A line of metrics with the share of right answers to a few of its questions, by cell, where it has such."""
        experiment, examination = self.experiment, self.experiment.examination
        if examination is not None and examination.few and examination.asks(learner):
            found = examination.glanced(weights, experiment.tokenizer, experiment.execution)
            self.metrics.write(stage.name, number, kind="exam", learner=learner, **found)

    def traced(self, stage: Staged) -> AbstractContextManager[Trace]:
        """Traces what is asked for of a stage; to be called before every step, see `distill.profile`."""
        return traced(self.profile, self.run.path / "profiles" / stage.name)

    def say(self, line: str) -> None:
        """Something that people would want to see while it runs."""
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)

    def newborn(self, learner: Learner, steps: int, averaged: bool = False, inside: Config | None = None) -> State:
        """A learner's state before its first step: drawn by the seed, or made of the weights that it starts from.

        Args:
          learner: whose state.
          steps: optimizer steps of its stage.
          averaged, inside: as for `create`.
        """
        experiment, mesh = self.experiment, self.experiment.mesh.build()
        if learner.start is None:
            return create(learner, steps, mesh, experiment.seed, averaged, inside)
        given = experiment.given_of(learner.start)
        if given is None:
            model = self.weights(experiment.stage_of(learner.start), learner.start).model
        else:
            model = given.start(experiment.mesh)
        return adopt(learner, steps, mesh, experiment.seed, model, averaged, inside)
