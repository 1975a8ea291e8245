"""The part of those who draw: all that they are told."""

from dataclasses import dataclass, replace

import jax

from distill.mesh import Mesh, resting
from models.capacity import Capacity
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

    def apart(self, mesh: jax.sharding.Mesh) -> Sampler:
        """The sampler, for a mesh where nobody learns: with weights at rest, if that is of several devices.

        Layers lie one by one there, and no expert drops a token: a capacity is for the even load of a batch.
        """
        if mesh.size == 1:
            return self.sampler
        own = self.sampler.execution
        dispatch = None if isinstance(own.dispatch, Capacity) else own.dispatch
        placed = replace(own, placement=resting(mesh), unroll=self.model.periods, dispatch=dispatch)
        return replace(self.sampler, execution=placed)

    def share(self, actors: int) -> int:
        """Groups that one of so many takes at a time: what fills its slots, and at most its part of a batch."""
        return max(1, min(self.sampler.slots // self.samples, self.groups // actors))
