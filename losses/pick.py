"""Many weightings as one: which of them a learner follows is a number, not a program."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from losses.distill import Distill
from losses.gate import Gate, Look, Place
from losses.schedule import Constant, Schedule


@dataclass(frozen=True)
class Pick(Gate):
    """The weighting of this number: all of them are computed, one is taken.

    A loss over the logits costs little beside a model, and a program per loss costs a compilation: an ablation gives
    its students one loss and different numbers, and they are computed together.

    Attributes:
      options: a schedule and a gate each, as `Distill` multiplies them.
    """

    options: tuple[tuple[Schedule, Gate], ...]

    @classmethod
    def among(cls, losses: Sequence[Distill]) -> Distill:
        """The loss that is losses[n] for the learner of number n.

        Raises:
          ValueError: they differ in more than alpha and gate.
        """
        for one in losses:
            if replace(one, alpha=losses[0].alpha, gate=losses[0].gate) != losses[0]:
                raise ValueError(f"{one} and {losses[0]} differ in more than alpha and gate; compare them one by one")
        options = tuple((one.alpha, one.gate) for one in losses)
        return replace(losses[0], alpha=Constant(1.0), gate=cls(options))

    @property
    def reach(self) -> int | None:
        """The farthest."""
        found = [gate.reach for _, gate in self.options]
        return None if None in found else max(reach for reach in found if reach is not None)

    @property
    def numbers(self) -> int:
        """As many as there are options."""
        return len(self.options)

    def __call__(self, look: Look, place: Place) -> Float[Array, "b t"]:
        """The schedule times the gate of the place's number."""
        weight = jnp.zeros_like(look.overlap)
        for number, (schedule, gate) in enumerate(self.options):
            own = schedule.at(place.progress) * gate(look, replace(place, memory=place.memory[number]))
            weight = jnp.where(place.number == number, own, weight)
        return weight

    def init(self) -> tuple[PyTree, ...]:
        """Every memory."""
        return tuple(gate.init() for _, gate in self.options)

    def observe(self, look: Look, place: Place) -> tuple[PyTree, ...]:
        """What each wants to know."""
        return tuple(
            gate.observe(look, replace(place, memory=place.memory[number]))
            for number, (_, gate) in enumerate(self.options)
        )

    def update(self, memory: Any, seen: Any) -> tuple[PyTree, ...]:
        """Every memory after a step."""
        return tuple(gate.update(*pair) for (_, gate), *pair in zip(self.options, memory, seen, strict=True))
