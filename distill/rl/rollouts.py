"""Rollouts: the completions of one prompt that compete with each other, and what they are worth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from distill.rl.record import Event, Record
from models.request import Completion


@dataclass(frozen=True, eq=False, kw_only=True)
class Rollouts:
    """A group: n completions of one prompt, all drawn by the policy of one version.

    Arrays are filled up behind the end of each completion with zeros.
    """

    uid: int
    item: str
    """id of the prompt's item"""
    version: int
    prompt: Int[np.ndarray, "p"]
    """tokens that all of them follow"""
    tokens: Int[np.ndarray, "n m"]
    logps: Float[np.ndarray, "n m"]
    """log-probability of each token, as it was drawn, nats"""
    lengths: Int[np.ndarray, "n"]
    """tokens of each completion, the stop token with them"""
    stopped: Bool[np.ndarray, "n"]
    """whether it came to a stop token"""
    rewards: Float[np.ndarray, "n"]
    """NaN where nobody knows: the reward failed, or the sampler did; such a completion has no part in anything"""
    outcomes: Bool[np.ndarray, "n"]
    """whether the task was solved"""
    routes: Int[np.ndarray, "n pm l r"] | None = None
    """experts that each token of prompt and completion was sent to, by MoE layer; None: not to be replayed"""

    @classmethod
    def of(
        cls, uid: int, item: str, version: int, prompt: Int[np.ndarray, "p"], drawn: Sequence[Completion]
    ) -> "Rollouts":
        """The completions of a prompt, in the order of their samples, not judged yet."""
        found = sorted(drawn, key=lambda one: one.sample)
        longest = max(len(one.tokens) for one in found)
        went = [one.routes for one in found if one.routes is not None]
        routes = np.stack([_filled(one, len(prompt) + longest) for one in went]).astype(np.int16) if went else None
        return cls(
            uid=uid,
            item=item,
            version=version,
            prompt=np.asarray(prompt, np.int32),
            tokens=np.stack([_filled(one.tokens, longest) for one in found]).astype(np.int32),
            logps=np.stack([_filled(one.logprobs, longest) for one in found]).astype(np.float32),
            lengths=np.array([len(one.tokens) for one in found], np.int32),
            stopped=np.array([one.stopped for one in found]),
            rewards=np.full(len(found), np.nan, np.float32),
            outcomes=np.zeros(len(found), bool),
            routes=routes,
        )

    @property
    def valid(self) -> Bool[np.ndarray, "n"]:
        """Completions that were judged."""
        return np.isfinite(self.rewards)

    @property
    def sound(self) -> Bool[np.ndarray, "n"]:
        """Completions of which every token has a finite log-probability."""
        return np.asarray(np.isfinite(self.logps).all(axis=1))

    def completion(self, sample: int) -> Int[np.ndarray, "m"]:
        """The tokens of one completion."""
        return self.tokens[sample, : self.lengths[sample]]

    def record(self, event: Event = Event.COMPLETED) -> Record:
        """As the journal keeps it."""
        arrays = {name: vars(self)[name] for name in ARRAYS if vars(self)[name] is not None}
        return Record(event, (self.uid,), self.version, {"item": self.item}, arrays)

    @classmethod
    def from_record(cls, record: Record) -> "Rollouts":
        """From what the journal kept.

        Raises:
          ValueError: it is not the record of a group that was drawn.
        """
        missing = sorted({*ARRAYS} - {"routes"} - {*record.arrays})
        if len(record.uids) != 1 or missing or "item" not in record.facts:
            lacks = missing or "its item"
            raise ValueError(f"the journal's record {record.event.value} of {record.uids} lacks {lacks}")
        return cls(uid=record.uids[0], item=record.facts["item"], version=record.version, **record.arrays)


ARRAYS = ("prompt", "tokens", "logps", "lengths", "stopped", "rewards", "outcomes", "routes")


def _filled(values: np.ndarray, length: int) -> np.ndarray:
    """Zeros behind the last."""
    return np.pad(values, [(0, length - len(values)), *[(0, 0)] * (values.ndim - 1)])
