"""A stage of reinforcement learning, and what is refused at the door."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from distill.curriculum.quota import Quota
from distill.curriculum.sampler import Learnability, Sampler
from distill.curriculum.selection import Selection, check_selection
from distill.curriculum.tracker import Tracker
from distill.data.loader import Loader
from distill.door import check_heard, check_learners, check_mesh
from distill.mesh import Mesh
from distill.rl.actors import Threads
from distill.rl.order import EarliestDeadline, FirstInFirstOut, Limits
from distill.rl.ray_actors import RayActors
from distill.rl.reward import Rubric
from distill.stage import Known, Learner
from distill.tasks.small import Small
from distill.tasks.source import Pooled, Questions
from distill.tasks.system import PLAIN, System
from losses.policy_gradient import PolicyGradient, decoupled_ppo
from losses.reinforce import Reinforce
from losses.toward import Toward
from models.config import Config
from models.tokenizer import Tokenizer

if TYPE_CHECKING:
    from distill.room import Room


@dataclass(frozen=True, kw_only=True)
class LogNormal:
    """Seconds that a group waits after it is drawn: a simulation of long answers, tools and slow rewards.

    exp(mean + sigma x), x from the standard normal distribution, by seed and uid; at most `most`.
    """

    mean: float = -2.2
    sigma: float = 1.1
    most: float = 2.5

    def __call__(self, seed: int, uid: int) -> float:
        """The seconds of a group."""
        drawn = np.random.default_rng([seed, uid]).standard_normal()
        return float(min(np.exp(self.mean + self.sigma * drawn), self.most))


@dataclass(frozen=True, kw_only=True)
class Reinforcement:
    """A number of batches in which a learner is rewarded for right answers that it drew itself.

    It and whoever draws work at the same time; what is drawn is at most `max_policy_lag` optimizer steps old when it is
    learned from. A group is `samples` answers to one prompt; `groups` of them make a batch. After every batch the
    weights are published: a version counts these.
    """

    disk: ClassVar[str | None] = "a journal of what was drawn"
    name: str
    learner: Learner
    """its `loss` is not used: see `policy`"""
    steps: int
    """batches"""
    updates: int = 1
    """optimizer steps of a batch, each on a share of its groups, the oldest first; with more than one, what the learner
    thinks of every token is taken before the first (`Credit.proximal`)"""
    questions: Pooled = field(default_factory=Small)
    """what is asked: those of the training split"""
    selection: Selection | None = None
    """which of them are asked, and what is believed of each at the start; None: all, and nothing"""
    systems: tuple[System, ...] = (PLAIN,)
    """words before a prompt that change what is right, one drawn for each group"""
    groups: int = 32
    samples: int = 8
    tokens: int = 12
    """of an answer, at most; one that has not ended by then is wrong"""
    length: int = 24
    """tokens of a row: a prompt and its answer, less one"""
    temperature: float = 1.0
    reward: Rubric = Rubric(name="exact", where="distill.tasks.score:Strict")
    """what judges an answer that has ended; 1 is solved"""
    patience: float = 10.0
    """seconds for an answer to be judged in"""
    policy: PolicyGradient | None = None
    """from rewards to a gradient; None: decoupled PPO"""
    teacher: str | None = None
    """name of a learner of an earlier stage, or of a given model, that judges every token; None: nobody does"""
    credit: float = 0.0
    """reward per nat by which the teacher likes a token better than the learner does"""
    toward: Toward | None = None
    """a term of the loss beside the policy's: all that the teacher says at every token of the answers; None: none"""
    sampler: Sampler = field(default_factory=Learnability)
    """which prompts are drawn"""
    by_kind: bool = True
    """whether a prompt that was not tried yet is believed to be as hard as others of its capability and level"""
    quota: Quota | None = None
    """shares of the capabilities; None: as the sampler's chances are"""
    order: FirstInFirstOut | EarliestDeadline = EarliestDeadline()
    replay: str | None = None
    """folder of a run whose stage of this name is followed group by group, whatever its order was: all that depended on
    the timing happens again; None: `order` decides"""
    max_policy_lag: int = 2
    """optimizer steps that the learner may be ahead of the weights that drew what it learns from, those it has made of
    the same batch too: an answer that is v versions old, in the last share, is v * updates + updates - 1 steps old"""
    pipeline_depth: int = 1
    """batches on their way beside the one that is due"""
    max_refill_factor: int = 4
    filtered: bool = True
    """whether groups in which all answers are right, or all wrong, are replaced by others"""
    replayed: bool = True
    """whether tokens are sent to the experts that they were drawn with"""
    slots: int = 64
    """completions under way at once, for each who draws"""
    actor_on: Mesh | None = None
    """devices apart from the learner's that draw at the same time, each of its copies by itself; None: the learner's"""
    actors: Threads | RayActors = Threads()
    """where they are: in this process, or on other hosts too"""
    latency: LogNormal | None = None
    """simulated; None: none"""
    retries: int = 2
    """of a group that could not be drawn; then it is given up"""
    accumulate: int = 1
    """micro-batches that an update is cut into"""
    stream: int = 0
    """stages of one stream ask the same and draw alike"""
    log_every: int = 1
    save_every: int = 25
    """updates between checkpoints"""

    def __post_init__(self) -> None:
        counts = ("steps", "groups", "tokens", "length", "slots", "accumulate", "updates", "log_every", "save_every")
        for name, least in (*((name, 1) for name in counts), ("samples", 2), ("retries", 0)):
            if vars(self)[name] < least:
                raise ValueError(f"stage {self.name!r}: {name} is {vars(self)[name]}; it must be at least {least}")
        if self.groups % self.updates or self.rows // self.updates % self.accumulate:
            raise ValueError(
                f"stage {self.name!r}: {self.groups} groups of {self.samples} do not divide into "
                f"updates={self.updates} of whole groups, and these into accumulate={self.accumulate} micro-batches"
            )
        needed = (self.pipeline_depth + 1) * self.updates - 1
        if self.updates > 1 and self.max_policy_lag < needed:
            raise ValueError(
                f"stage {self.name!r}: with pipeline_depth {self.pipeline_depth} and updates={self.updates} answers "
                f"are up to {needed} optimizer steps old, and max_policy_lag is {self.max_policy_lag}; raise it, or "
                "make fewer updates of a batch"
            )
        if not 0.0 < self.temperature < math.inf or not self.patience > 0.0:
            raise ValueError(
                f"stage {self.name!r}: temperature {self.temperature} and patience {self.patience} must be above 0; an "
                "answer drawn without chance has no probability to weigh it by"
            )
        if (self.teacher is None) != (self.credit == 0.0 and self.toward is None) or self.credit < 0.0:
            raise ValueError(
                f"stage {self.name!r}: teacher={self.teacher!r} with credit={self.credit} and toward={self.toward}; "
                "name a teacher and give it a credit above 0 or a term (toward), or leave all of them out"
            )
        kinds = np.zeros(1, np.int64) if self.by_kind else None
        asked = replace(Tracker.blank(("any",)), kinds=kinds)
        _ = self.limits, self.learners, self.sampler.weights(asked, 0.0)  # they refuse what they cannot be

    def check_questions(self, longest: int) -> None:
        """Refuses rows that its questions and answers do not fit.

        Args:
          longest: tokens of the longest prompt.

        Raises:
          ValueError: with what would do.
        """
        needed, room = longest + self.tokens, min(self.length + 1, self.learner.model.max_positions)
        if needed > room:
            raise ValueError(
                f"stage {self.name!r}: a prompt of {longest} tokens and an answer of {self.tokens} are {needed}, "
                f"and there is room for {room}: a row of {self.length} and a label, in "
                f"{self.learner.model.max_positions} positions; set length to {needed - 1}, or ask for shorter answers"
            )

    @property
    def limits(self) -> Limits:
        """What the controller holds to, in versions."""
        lag, depth = (self.max_policy_lag + 1) // self.updates - 1, self.pipeline_depth
        factor = self.max_refill_factor
        return Limits(batch=self.groups, max_policy_lag=lag, pipeline_depth=depth, max_refill_factor=factor)

    @property
    def gradient(self) -> PolicyGradient:
        """From rewards to a gradient."""
        return decoupled_ppo(self.tokens) if self.policy is None else self.policy

    @property
    def learners(self) -> tuple[Learner, ...]:
        """The learner, with the loss of this stage."""
        ages = self.limits.max_policy_lag + 1
        asked = Reinforce(policy=self.gradient.loss, teacher=self.credit, toward=self.toward, ages=ages)
        return (replace(self.learner, loss=replace(asked, temperature=self.temperature)),)

    @property
    def optimizer_steps(self) -> int:
        """Of the whole stage."""
        return self.steps * self.updates

    def lags(self, versions: Sequence[int], version: int) -> list[int]:
        """Optimizer steps that the learner is ahead of each group of a batch when it learns from it.

        Args:
          versions: that drew the groups, in the order of the batch.
          version: of the learner at the start of the batch.
        """
        share = self.groups // self.updates
        return [(version - drawn) * self.updates + place // share for place, drawn in enumerate(versions)]

    @property
    def rows(self) -> int:
        """Completions of a batch."""
        return self.groups * self.samples

    def loader(self, seed: int, tokenizer: Tokenizer, domains: tuple[str, ...]) -> Loader:
        """How its questions and their answers become rows, to be looked at."""
        return Loader(rows=self.rows, length=self.length, seed=seed, tokenizer=tokenizer, domains=domains)

    @property
    def seen(self) -> int:
        """Tokens the learner sees in the stage, prompts and padding too."""
        return self.steps * self.rows * self.length

    def averages(self, learner: Learner) -> bool:
        """No mean of its weights is kept."""
        return False

    @property
    def corpus(self) -> Questions:
        """Its questions with their answers, by which its learner is looked at."""
        return Questions(self.questions, self.systems)

    def check(self, earlier: Known, mesh: Mesh) -> None:
        """Refuses what would fail, or mislead, later."""
        check_mesh(self, mesh, self.rows // self.updates // self.accumulate)
        self.actors.check(self.name, self.actor_on, mesh)
        check_learners(self, earlier)
        if self.teacher is not None:
            check_heard(self, self.teacher, earlier, "an earlier")
        check_selection(self.name, self.selection, earlier)

    def tiny(self, models: Mapping[str, Config]) -> "Reinforcement":
        """Its tiny form: few updates of few groups."""
        learner = replace(self.learner, model=models[self.learner.name], features=None, routing=None)
        groups, steps = 4 * self.updates, min(self.steps, 4)
        here = replace(self, learner=learner, actor_on=None, actors=Threads())
        return replace(here, steps=steps, groups=groups, samples=4, accumulate=1, save_every=2)

    def run(self, room: "Room") -> None:
        """Trains its learner to its last update, from wherever an earlier process left it."""
        from distill.rl.loop import run_reinforcement

        run_reinforcement(room, self)
