"""The prompts of a batch: a function of a seed, the batch's number and what is known of each prompt."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from distill.curriculum.pool import Pool
from distill.curriculum.quota import Mix, Quota
from distill.curriculum.sampler import Sampler
from distill.curriculum.tracker import Tracker


@dataclass(frozen=True, eq=False, kw_only=True)
class Curriculum:
    """How prompts are drawn from a pool, and what their outcomes teach whoever draws.

    Raises:
      ValueError: the pool has prompts of a capability that the quota does not know, or the seed is negative.
    """

    pool: Pool
    sampler: Sampler
    quota: Quota | None = None
    """None: capabilities are mixed as the sampler's chances are"""
    seed: int = 0

    def __post_init__(self):
        if self.seed < 0:
            raise ValueError(f"a curriculum's seed is {self.seed}; it must be 0 or more")
        self.mix(0, 1)  # refuses now what it would refuse with every batch

    def mix(self, number: int, count: int) -> Mix | None:
        """How many prompts of each capability batch `number` has, and who is short of them; None without a quota.

        A batch that is larger than the pool has all of it as often as it goes, and a mix for the rest.
        """
        if self.quota is None:
            return None
        rest = count % len(self.pool.ids)
        return self.quota.mix(number * rest, rest, {name: len(where) for name, where in self.pool.members.items()})

    def draw(self, tracker: Tracker, number: int, count: int, progress: float) -> Int[np.ndarray, "count"]:
        """Indices of the prompts of batch `number`, in no order, each at most once if the pool has as many.

        Args:
          tracker: of the pool's prompts.
          number: of the batch, from 0; batches of one curriculum have one size, else the quota is not met over them.
          count: prompts of the batch.
          progress: of the stage, from 0 to 1.

        Raises:
          ValueError: the tracker is of other prompts, or a number is out of range.
        """
        if tracker.ids != self.pool.ids:
            raise ValueError(
                f"the tracker knows {len(tracker.ids)} prompts, {tracker.ids[:1]} first, and the pool has "
                f"{len(self.pool.ids)}, {self.pool.ids[:1]} first; begin it with Tracker.begin(pool.ids, table)"
            )
        if number < 0 or count < 1 or not 0.0 <= progress <= 1.0:
            raise ValueError(
                f"draw(number={number}, count={count}, progress={progress}): number must be 0 or more, count 1 or "
                "more, progress within 0 and 1"
            )
        random = np.random.default_rng([self.seed, number])
        keys = random.standard_exponential(len(self.pool.ids)) / self.sampler.weights(tracker, progress)
        whole, rest = divmod(count, len(self.pool.ids))
        drawn = [np.arange(len(self.pool.ids))] * whole
        mix = self.mix(number, count)
        if mix is None:
            drawn.append(_first(keys, rest))
        else:
            found = [(self.pool.members[name], size) for name, size in mix.counts.items() if size]
            drawn += [members[_first(keys[members], size)] for members, size in found]
        return random.permutation(np.concatenate(drawn))

    def observe(
        self,
        tracker: Tracker,
        indices: Int[np.ndarray, "m"],
        successes: Int[np.ndarray, "m"],
        attempts: Int[np.ndarray, "m"],
        number: int,
    ) -> Tracker:
        """The tracker after a batch: as of `Tracker.observe`, and its aim where the sampler's rule moves it."""
        after = tracker.observe(indices, successes, attempts, number)
        if not len(indices):
            return after
        return replace(after, aim=self.sampler.aim(tracker, float(successes.sum() / attempts.sum())))


def _first(keys: Float[np.ndarray, "n"], size: int) -> Int[np.ndarray, "size"]:
    """Where the lowest keys are. Of exponential ones over weights it is a draw one after another without replacement,
    each in proportion to the weights of those left (Efraimidis and Spirakis 2006)."""
    return np.argsort(keys, kind="stable")[:size]
