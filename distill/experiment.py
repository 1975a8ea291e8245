"""An experiment: a corpus, a mesh and a tuple of stages. The experiment is its own configuration."""

import dataclasses
from dataclasses import dataclass, field

from distill.checkpoint import Retention
from distill.data.source import Herd, Source
from distill.given import Given, Trained
from distill.mesh import Mesh
from distill.preference.stage import Preference, check_journal
from distill.rl.stage import Reinforcement
from distill.stage import Learner, Stage, Staged
from distill.start import check_start
from distill.tasks.examination import Examination, check_contrasts
from distill.tiny import tiny_models
from models.bpe import BPE
from models.config import Config
from models.execution import Execution
from models.tokenizer import Bytes


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One question. `name` is its run folder's; `stages` run in order; every number follows from `seed`."""

    name: str
    stages: tuple[Stage | Reinforcement | Preference, ...]
    corpus: Source = field(default_factory=Herd)
    """what stages read that have none of their own"""
    tokenizer: Bytes | BPE = field(default_factory=Bytes)
    given: tuple[Given | Trained, ...] = ()
    """models from elsewhere, to be teachers and starts"""
    mesh: Mesh = field(default_factory=Mesh)
    execution: Execution = field(default_factory=Execution)
    retention: Retention = field(default_factory=Retention)
    held_out: int = 64
    """batches of held-out text behind every final figure"""
    glance: int = 4
    """batches of held-out text looked at with every checkpoint"""
    examination: Examination | None = None
    """held-out questions that every learner is asked after its stage; None: none"""
    compare: tuple[str, str] | None = None
    """two stages with learners of the same names: paired differences of held-out cross-entropy, first minus second"""
    contrasts: tuple[tuple[str, str], ...] = ()
    """pairs of learners: paired differences of the share of right answers in the examination, first minus second"""
    seed: int = 0

    def __post_init__(self) -> None:
        earlier: dict[str, Learner | Given | Trained] = {one.name: one for one in self.given}
        if len(earlier) < len(self.given):
            raise ValueError(f"given models are named {[one.name for one in self.given]}; each needs its own name")
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"stages are named {names}; an experiment needs at least one, each with its own name")
        for name in ("held_out", "glance"):
            if vars(self)[name] < 1:
                raise ValueError(f"{name} is {vars(self)[name]}; it must be at least 1 batch of held-out text")
        for stage in self.stages:
            for learner in stage.learners:
                check_start(learner, self.given, earlier)
            stage.check(earlier, self.mesh)
            if isinstance(stage, Preference):
                check_journal(stage, self.stages[: names.index(stage.name)])
            earlier |= {learner.name: learner for learner in stage.learners}
        if self.compare is not None and not set(self.compare) <= set(names):
            raise ValueError(f"compare={self.compare} names a stage that is not among {names}")
        learners = [learner.name for stage in self.stages for learner in stage.learners]
        check_contrasts(self.contrasts, self.examination, learners)

    def corpus_of(self, stage: Staged) -> Source:
        """What a stage reads."""
        return stage.corpus or self.corpus

    @property
    def lessons(self) -> tuple[Stage, ...]:
        """The stages in which text is read."""
        return tuple(stage for stage in self.stages if isinstance(stage, Stage))

    def lesson_of(self, name: str) -> Stage | None:
        """The stage in which a live teacher teaches the learner of this name, if any; twins are held against it."""
        live = (stage for stage in self.lessons if stage.live and stage.teacher != name)
        return next((stage for stage in live if name in [one.name for one in stage.learners]), None)

    def stage_of(self, name: str) -> Staged:
        """The first stage in which the learner of this name learns: where a teacher's weights come from."""
        return next(stage for stage in self.stages if name in [learner.name for learner in stage.learners])

    def model_of(self, name: str) -> Config:
        """What the teacher of this name is, a learner or a given model."""
        given = self.given_of(name)
        if given is not None:
            return given.model
        return next(learner.model for learner in self.stage_of(name).learners if learner.name == name)

    def inside(self, stage: Staged, learner: Learner) -> Config | None:
        """What the teacher is whose layers the learner's are compared with; None: they are compared with nothing."""
        return self.model_of(stage.teacher) if stage.teacher and learner.opens else None

    def given_of(self, name: str) -> Given | Trained | None:
        """The given model of this name, if it is one."""
        return next((one for one in self.given if one.name == name), None)

    def tiny(self) -> "Experiment":
        """The same stages and kinds of layer in about a minute on a laptop: few steps, small models."""
        models = tiny_models(self.stages, self.given)
        return dataclasses.replace(
            self,
            name=f"{self.name}-tiny",
            stages=tuple(stage.tiny(models) for stage in self.stages),
            examination=self.examination and self.examination.tiny(),
            mesh=Mesh(),
            held_out=2,
            glance=1,
        )
