"""What the stages of a run share, and the models they ask for."""

import threading
from dataclasses import dataclass, field

from distill.ceiling import Ceiling
from distill.experiment import Experiment
from distill.hold import AsItIs, Hold, held
from distill.mesh import Mesh
from distill.metrics import Metrics
from distill.run import Run
from distill.stage import Learner, Stage
from distill.state import State, Weights, adopt, create
from distill.teacher import LiveTeacher, Silent
from distill.trained import identity, read_weights


@dataclass(frozen=True)
class Room:
    """What the stages of a run share."""

    experiment: Experiment
    run: Run
    metrics: Metrics
    ceiling: Ceiling
    stop: threading.Event
    quiet: bool = False
    held: dict[tuple[str, Hold, Mesh], Weights] = field(default_factory=dict)
    """the given model that stages listen to: one at a time, shared by those that follow each other"""

    def weights(self, stage: Stage, name: str, mesh: Mesh | None = None) -> Weights:
        """The learner `name` as `stage` left it, on the learners' mesh or another."""
        return read_weights(self.run, stage.name, name, mesh or self.experiment.mesh, step=stage.steps)

    def silence(self) -> Silent:
        """No teacher: nothing is held for one."""
        self.held.clear()
        return Silent()

    def teacher(self, name: str, hold: Hold = AsItIs(), mesh: Mesh | None = None) -> LiveTeacher:  # noqa: B008 (frozen)
        """The learner `name` as its stage left it, or the given model, to listen to."""
        return LiveTeacher(self.teacher_weights(name, hold, mesh), hold.execution(self.experiment.execution))

    def teacher_weights(self, name: str, hold: Hold = AsItIs(), mesh: Mesh | None = None) -> Weights:  # noqa: B008
        """The weights of the learner `name` as its stage left it, or of the given model, as they are held."""
        experiment, mesh = self.experiment, mesh or self.experiment.mesh
        given, key = experiment.given_of(name), (name, hold, mesh)
        if key in self.held:
            return self.held[key]
        self.held.clear()
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

    def newborn(self, learner: Learner, stage: Stage) -> State:
        """A learner's state before its first step: drawn by the seed, or made of the weights that it starts from."""
        experiment, mesh = self.experiment, self.experiment.mesh.build()
        averaged, inside = stage.averages(learner), experiment.inside(stage, learner)
        if learner.start is None:
            return create(learner, stage.steps, mesh, experiment.seed, averaged, inside)
        given = experiment.given_of(learner.start)
        if given is None:
            model = self.weights(experiment.stage_of(learner.start), learner.start).model
        else:
            model = given.start(experiment.mesh)
        return adopt(learner, stage.steps, mesh, experiment.seed, model, averaged, inside)
