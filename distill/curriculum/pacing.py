"""In which order a stage of distillation reads its documents: by how much of its loss on each a student could lose."""

from collections.abc import Container
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from distill.curriculum.filter import DropEasiest, Filter, RandomShare
from distill.curriculum.measured import Measured
from distill.curriculum.sampler import Learnability, Rising, Sampler, Sliding, Uniform
from distill.curriculum.tracker import Tracker

MOMENTS = 200
"""of a stage, between which chances stay as they are"""


@dataclass(frozen=True, kw_only=True)
class Pacing:
    """A model's cross-entropy less the teacher's is measured of every document that may be read; chances follow.

    The table is kept in the run's folder, as `difficulty/<stage>.json`. All rules take as many tokens. Of an ensemble
    the stage's teacher is asked alone.
    """

    by: str
    """whose loss is measured beside the teacher's: a learner of an earlier stage, such as that which learners start
    from, or a given model. Of one that has learned nothing it would be a constant less the teacher's"""
    sampler: Uniform | Rising | Sliding | Learnability | Sampler = Rising()
    """which documents are read when; all alike are shuffled anew every epoch"""
    keep: DropEasiest | RandomShare | Filter | None = None
    """which are read at all; None: all"""
    window: int = 64
    """packed rows that are shuffled among each other, so that a batch is not one document. The loader's 1024 are more
    than some stages read, and would undo any order"""

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"Pacing: window is {self.window}; it must be at least 1 row")


def check_pacing(stage: str, pacing: Pacing | None, earlier: Container[str], frozen: bool) -> None:
    """Refuses a pacing for want of who is measured, of a frozen teacher in memory to measure against, or of kinds.

    Raises:
      ValueError: as it says.
    """
    if pacing is None:
        return
    if not frozen:
        raise ValueError(
            f"stage {stage!r}: pacing goes by what a frozen teacher in memory says of every document, and there is "
            "none: name a learner of an earlier stage or a given model as teacher, without a store, or leave it out"
        )
    if pacing.by not in earlier:
        raise ValueError(
            f"stage {stage!r}: its documents are paced by the loss of {pacing.by!r}, which is not given and no learner "
            "of an earlier stage; name one"
        )
    pacing.sampler.weights(Tracker.blank(("any",)), 0.0)  # what needs kinds refuses here: documents have none


def schedule(
    sampler: Sampler, measured: Measured, sizes: Float[np.ndarray, "n"], tokens: int, reserve: int, seed: int
) -> Int[np.ndarray, "m"]:
    """Places of documents, in the order in which they are read: as many as hold tokens + reserve, or little more.

    A document's chances add up to how often it is expected to have been read, and its k-th time (from 0) comes at a
    random point between where that is k and where it is k + 1. So it is never read more than once above or below what
    is expected; where all are alike each epoch is a shuffle of all documents, and under a floor none starves. Draws
    one by one would leave out a third of a corpus that is read once, and read another third twice.

    Args:
      sampler: the chances, of a tracker that begins with what was measured and learns nothing.
      measured: difficulty of the documents.
      sizes: tokens that each takes.
      tokens: of the stage; progress is the share of them that was read.
      reserve: tokens more, at the chances of the stage's end.
      seed: of the random points.
    """
    tracker, random = Tracker.begin(tuple(measured.ids), measured), np.random.default_rng([seed, len(sizes)])
    due, expected = random.random(len(sizes)), np.zeros(len(sizes))
    order = []
    moment, read = 0, 0.0
    while read < tokens + reserve:
        chances = sampler.weights(tracker, min((moment + 0.5) / MOMENTS, 1.0))
        times = chances * (tokens / MOMENTS / (chances @ sizes))
        places, when = [np.zeros(0, np.int64)], [np.zeros(0)]
        while len(ready := np.flatnonzero(due < expected + times)):
            places.append(ready)
            when.append((due[ready] - expected[ready]) / times[ready])
            due[ready] = np.floor(due[ready]) + 1.0 + random.random(len(ready))
        found = np.concatenate(places)[np.argsort(np.concatenate(when), kind="stable")]
        order.append(found)
        expected += times
        moment, read = moment + 1, read + float(sizes[found].sum())
    return np.concatenate(order)
