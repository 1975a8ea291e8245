"""The part of those who draw: all that they are told."""

from dataclasses import dataclass

from distill.mesh import Mesh
from models.config import Config
from models.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class Part:
    """What those who draw are told."""

    model: Config
    biased: bool
    """whether its routers have a selection bias"""
    sampler: Sampler
    samples: int
    """completions of a group"""
    groups: int
    """of an update"""
    limit: int
    """tokens of a completion, at most"""
    home: Mesh
    """the learner's"""
    own: Mesh | None = None
    """theirs, each copy of the model an actor; None: one actor, on the learner's"""

    def share(self, actors: int) -> int:
        """Groups that one of so many takes at a time: what fills its slots, and at most its part of a batch."""
        return max(1, min(self.sampler.slots // self.samples, self.groups // actors))
