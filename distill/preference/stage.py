"""A stage of direct preference optimisation, and what is refused at the door."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Int

from distill.data.loader import Loader
from distill.data.source import Source
from distill.door import check_counts, check_learners, check_mesh
from distill.mesh import Mesh
from distill.preference.pairs import Mining
from distill.rl.stage import Reinforcement
from distill.stage import Known, Learner, Staged
from losses.preference import DPO
from losses.preferred import Preferred
from models.config import Config
from models.tokenizer import Tokenizer

if TYPE_CHECKING:
    from distill.room import Room


@dataclass(frozen=True, kw_only=True)
class Preference:
    """A number of updates in which a learner comes to prefer right answers to wrong ones, which an earlier stage of
    reinforcement learning drew.

    Its reference is what it starts from. It ends early when its pairs are used up (at once, if there are too few for an
    update), and when the chosen answers become less likely than they were (likelihood displacement, arXiv:2410.08847):
    then it goes back to its last checkpoint of before, or to its start if there is none.
    """

    disk: ClassVar[str | None] = "a journal to read, and what its reference said"
    name: str
    learner: Learner
    """its `start` is the reference; its `loss` is not used: see `preference`"""
    journal: str
    """name of an earlier stage of reinforcement learning, out of whose journal the pairs are"""
    steps: int
    """updates, at most; the optimizer's schedule ends with the last one that there are pairs for"""
    preference: DPO = field(default_factory=DPO)
    """from the log-probabilities of pairs to a loss"""
    corpus: Source | None = None
    """what its learner is looked at with; None: the experiment's"""
    mining: Mining = field(default_factory=Mining)
    """which answers make a pair"""
    epochs: int = 1
    """times that a pair is learned from, at most"""
    fall: float = 0.1
    """nats a token by which the chosen answers' log-probability may lie below the reference's; beyond it the stage
    stops. inf: it never does"""
    window: int = 8
    """updates over whose batches the mean is taken that `fall` is held against"""
    rows: int = 32
    """of an update, two for each pair"""
    length: int = 24
    """tokens of a row: a prompt and its answer, less one; longer ones are left out"""
    accumulate: int = 1
    """micro-batches that an update is cut into"""
    stream: int = 0
    """stages of one stream choose pairs alike, and their order"""
    log_every: int = 1
    save_every: int = 25
    """updates between checkpoints"""

    def __post_init__(self) -> None:
        where = f"stage {self.name!r}"
        check_counts(self, ("steps", "epochs", "window", "rows", "length", "accumulate", "log_every", "save_every"))
        if self.rows % (2 * self.accumulate):
            raise ValueError(
                f"{where}: {self.rows} rows are not whole pairs in each of accumulate={self.accumulate} micro-batches; "
                f"use a multiple of {2 * self.accumulate}"
            )
        if not self.fall > 0.0:
            raise ValueError(
                f"{where}: fall is {self.fall}; it must be above 0 nats a token: at its start the learner is its "
                "reference, give or take rounding; inf never stops"
            )
        learner = self.learner
        if learner.start is None or learner.keep is not None:
            raise ValueError(
                f"{where}: {learner.name!r} has start={learner.start!r} and keep={learner.keep}; name a model or an "
                "earlier learner as its start, which is its reference, and keep all of its layers"
            )
        if learner.opens:
            raise ValueError(
                f"{where}: there is no teacher whose layers {learner.name!r} could be compared with; leave out its "
                "features and routing"
            )

    @property
    def learners(self) -> tuple[Learner, ...]:
        """The learner, with the loss of this stage."""
        return (replace(self.learner, loss=Preferred(preference=self.preference)),)

    @property
    def teacher(self) -> None:
        """Nobody is heard."""
        return

    @property
    def selection(self) -> None:
        """`mining` selects."""
        return

    def averages(self, learner: Learner) -> bool:
        """No mean of the learner's weights is kept."""
        return False

    @property
    def pairs(self) -> int:
        """Pairs of an update."""
        return self.rows // 2

    @property
    def seen(self) -> int:
        """Tokens that the learner sees in the stage, at most, prompts and padding too."""
        return self.steps * self.rows * self.length

    def updates(self, pairs: int) -> int:
        """Updates that there are pairs for, at most `steps`."""
        return min(self.steps, self.epochs * pairs // self.pairs)

    def fallen(self, chosen: Sequence[float]) -> bool:
        """Whether the chosen answers have become too unlikely.

        Args:
          chosen: of the last batches, how far their log-probability lay above the reference's, nats a token.
        """
        return bool(chosen) and sum(chosen) / len(chosen) < -self.fall

    def loader(self, seed: int, tokenizer: Tokenizer, domains: tuple[str, ...]) -> Loader:
        """How its corpus becomes rows, to be looked at."""
        return Loader(rows=self.rows, length=self.length, seed=seed, tokenizer=tokenizer, domains=domains)

    def check(self, earlier: Known, mesh: Mesh) -> None:
        """Refuses what would fail, or mislead, later; that its start is there has been seen to (`check_start`)."""
        check_mesh(self, mesh, self.rows // self.accumulate)
        check_learners(self, earlier)
        start = str(self.learner.start)
        if earlier[start].model != self.learner.model:
            raise ValueError(
                f"stage {self.name!r}: {self.learner.name!r} is of another architecture than {start!r}, its start and "
                f"reference; give it the model of {start!r}"
            )

    def tiny(self, models: Mapping[str, Config]) -> "Preference":
        """Its tiny form: few updates of few pairs."""
        learner = replace(self.learner, model=models[self.learner.name])
        return replace(self, learner=learner, steps=min(self.steps, 4), rows=4, accumulate=1, save_every=2)

    def run(self, room: "Room") -> None:
        """Trains its learner to the last update that there are pairs for, from wherever an earlier process left it."""
        from distill.preference.loop import run_preference

        run_preference(room, self)


def check_journal(stage: Preference, before: Sequence[Staged]) -> None:
    """Refuses a journal that no stage of reinforcement learning writes before the stage begins.

    Args:
      stage: that mines it.
      before: the stages before it.
    """
    names = [one.name for one in before if isinstance(one, Reinforcement)]
    if stage.journal not in names:
        raise ValueError(
            f"stage {stage.name!r}: journal {stage.journal!r} is not an earlier stage of reinforcement learning; there "
            f"are {names}"
        )


def order(seed: int, number: int, size: int, count: int) -> Int[np.ndarray, "k"]:
    """Which pairs an update learns from. All are learned from once before any is again, in an order of each epoch.

    Args:
      seed: of the order.
      number: of the update, from 1.
      size: pairs of an update.
      count: pairs there are.
    """
    places = np.arange((number - 1) * size, number * size)
    epochs = {
        int(one): np.random.default_rng([seed, int(one)]).permutation(count) for one in np.unique(places // count)
    }
    return np.array([epochs[place // count][place % count] for place in places.tolist()], np.int32)
