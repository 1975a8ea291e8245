"""A stage of direct preference optimisation, and what is refused at the door."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Int

from distill.given import Given, Trained
from distill.mesh import Mesh
from distill.preference.pairs import Mining, Pairs
from distill.rl.stage import Reinforcement
from distill.stage import Learner
from losses.preference import DPO
from losses.preferred import Preferred


@dataclass(frozen=True, kw_only=True)
class Preference:
    """A number of updates in which a learner comes to prefer right answers to wrong ones, which an earlier stage of
    reinforcement learning drew.

    Its reference is what it starts from. It ends early when its pairs are used up, and when the chosen answers become
    less likely than they were (likelihood displacement, arXiv:2410.08847): then it goes back to its last checkpoint of
    before, or to its start if there is none.
    """

    name: str
    learner: Learner
    """its `start` is the reference; its `loss` is not used: see `preference`"""
    journal: str
    """name of an earlier stage of reinforcement learning, out of whose journal the pairs are"""
    steps: int
    """updates, at most; the optimizer's schedule ends with the last one that there are pairs for"""
    preference: DPO = field(default_factory=DPO)
    """from the log-probabilities of pairs to a loss"""
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
        counts = ("steps", "epochs", "window", "rows", "length", "accumulate", "log_every", "save_every")
        for name in counts:
            if vars(self)[name] < 1:
                raise ValueError(f"{where}: {name} is {vars(self)[name]}; it must be at least 1")
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
            raise ValueError(f"{where}: there is no teacher whose layers {learner.name!r} could be compared with; "
                             "leave out its features and routing")  # fmt: skip
        if self.length > learner.model.max_positions:
            raise ValueError(
                f"{where}: rows of {self.length} tokens are longer than the {learner.model.max_positions} positions of "
                f"{learner.name!r}; set length to {learner.model.max_positions} at most"
            )

    @property
    def learners(self) -> tuple[Learner, ...]:
        """The learner, with the loss of this stage."""
        return (replace(self.learner, loss=Preferred(preference=self.preference)),)

    @property
    def teachers(self) -> tuple[str, ...]:
        """Nobody is heard."""
        return ()

    def averages(self, learner: Learner) -> bool:
        """No mean of the learner's weights is kept."""
        return False

    @property
    def pairs(self) -> int:
        """Pairs of an update."""
        return self.rows // 2

    @property
    def tokens(self) -> int:
        """Tokens that the learner sees in the stage, at most, filling and all."""
        return self.steps * self.rows * self.length

    def updates(self, found: Pairs) -> int:
        """Updates that there are pairs for, at most `steps`.

        Raises:
          ValueError: there are not enough for one.
        """
        updates = min(self.steps, self.epochs * len(found) // self.pairs)
        if not updates:
            raise ValueError(
                f"stage {self.name!r}: the journal of {self.journal!r} has {len(found)} pairs, and an update takes "
                f"{self.pairs} (epochs={self.epochs}); left out were {dict(found.dropped)}. Use fewer rows, widen "
                "mining.band, or raise mining.each"
            )
        return updates

    def fallen(self, chosen: Sequence[float]) -> bool:
        """Whether the chosen answers have become too unlikely.

        Args:
          chosen: of the last batches, how far their log-probability lay above the reference's, nats a token.
        """
        return bool(chosen) and sum(chosen) / len(chosen) < -self.fall


def check_preference(
    stage: Preference,
    reinforced: Mapping[str, Reinforcement],
    earlier: Mapping[str, Learner | Given | Trained],
    mesh: Mesh,
) -> None:
    """Refuse at the door what does not fit the experiment.

    Args:
      stage: the stage.
      reinforced: the stages of reinforcement learning before it, by name.
      earlier: given models and learners of earlier stages, by name.
      mesh: where it learns.

    Raises:
      ValueError: with what would do.
    """
    where, model = f"stage {stage.name!r}", stage.learner.model
    if stage.journal not in reinforced:
        raise ValueError(
            f"{where}: journal {stage.journal!r} is not an earlier stage of reinforcement learning; there are "
            f"{sorted(reinforced)}"
        )
    drew = reinforced[stage.journal].learner
    if drew.model.vocab != model.vocab:
        raise ValueError(
            f"{where}: {drew.name!r}, whose answers are in the journal of {stage.journal!r}, has a vocabulary of "
            f"{drew.model.vocab}, {stage.learner.name!r} of {model.vocab}; a token must mean the same to both"
        )
    start = stage.learner.start or ""
    if start not in earlier:
        raise ValueError(
            f"{where}: {stage.learner.name!r} starts from {start!r}, which is not given and no learner of an earlier "
            f"stage; there are {sorted(earlier)}"
        )
    if earlier[start].model != model:
        raise ValueError(
            f"{where}: {stage.learner.name!r} is of another architecture than {start!r}, its start and reference; give "
            f"it the model of {start!r}"
        )
    mesh.check_rows(stage.rows // stage.accumulate)


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
