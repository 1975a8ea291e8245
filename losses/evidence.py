"""Evidence: the gate of this project. It asks the labels who is closer to the truth, and by how much, and then how far
that can be relied on while the teacher itself moves.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from losses.gate import Gate, Look, Place, check_positive, log_ratio
from losses.scope import Batch, Domain, Scope, Segment, Sequence, Token, Window
from losses.shrunk import Shrunk
from losses.signal import Belief
from losses.tally import Tally


@runtime_checkable
class Score(Protocol):
    """How good a distribution was for the label that came; higher is better, strictly proper."""

    def of(self, belief: Belief) -> Float[Array, "b t"]:
        """The score."""
        ...

    def advantage(self, look: Look) -> Float[Array, "b t"]:
        """The teacher's score minus the student's."""
        ...


@dataclass(frozen=True)
class Brier:
    """2 p(y) - |p|^2. Label noise of rate r costs a perfect teacher of the order r^2, in the log score r."""

    def of(self, belief: Belief) -> Float[Array, "b t"]:
        """The score, in [-1, 1]."""
        return belief.brier()

    def advantage(self, look: Look) -> Float[Array, "b t"]:
        """The difference; its expectation is |q - p*|^2 - |p - p*|^2 for the true distribution p*."""
        return look.teacher.brier() - look.student.brier()


@dataclass(frozen=True, kw_only=True)
class LogScore:
    """log p(y). Use a wider kappa with it, about 0.2.

    Attributes:
      limit: nats that a single label can say at most.
    """

    limit: float = 5.0

    def __post_init__(self):
        check_positive(self, "limit", self.limit)

    def of(self, belief: Belief) -> Float[Array, "b t"]:
        """The log-probability, not below minus the limit."""
        return jnp.maximum(belief.gold, -self.limit)

    def advantage(self, look: Look) -> Float[Array, "b t"]:
        """The log-ratio, within the limit."""
        return log_ratio(look, self.limit)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Track:
    """How a teacher has done so far: steps seen, its score over the recent quarter and over all, and its lead."""

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    steps: Float[Array, ""]
    recent: Float[Array, ""]
    overall: Float[Array, ""]
    lead: Float[Array, ""]


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Discounts a teacher by how far it has itself moved: lead / (lead + cost * motion).

    To imitate a teacher that is still learning is to follow its past, and that costs even where it is better at every
    step. `lead` is the advantage where the gate is open, `motion` how far the teacher's own score over the recent
    quarter of the run exceeds that over all of it. Both are known from the steps before this one; there is one factor
    for all of a batch, and none (1) before the first step. What is called motion is partly the batches' own difference
    in difficulty: a finished teacher loses a little of its weight, and nothing that could be measured by it.

    Attributes:
      cost: how much motion weighs against lead; 0 turns it off.
      least: added below the line, in units of the score.
    """

    cost: float = 1.0
    least: float = 0.003

    def __post_init__(self):
        if self.cost < 0.0 or self.least <= 0.0:
            raise ValueError(f"{self} must have a cost of 0 or more, and a least above 0.")

    def init(self) -> Track:
        """Nothing seen."""
        zero = jnp.zeros(())
        return Track(zero, zero, zero, zero)

    def factor(self, track: Track) -> Float[Array, ""]:
        """What the gate is multiplied by, in [0, 1]."""
        if self.cost == 0.0:
            return jnp.ones(())
        lead, motion = jnp.maximum(track.lead, 0.0), jnp.maximum(track.recent - track.overall, 0.0)
        trust = lead / (lead + self.cost * motion + self.least)
        return jnp.where(track.steps > 0.0, trust, 1.0)

    def observe(
        self, score: Float[Array, "b t"], lead: Float[Array, "b t"], weight: Float[Array, "b t"], place: Place
    ) -> tuple[Tally, Tally]:
        """The teacher's score, and its lead by weight."""
        weight = jnp.where(place.mask, weight, 0.0)
        return Tally.of(score, place.mask), Tally(jnp.sum(jnp.where(place.mask, weight * lead, 0.0)), jnp.sum(weight))

    def update(self, track: Track, seen: tuple[Tally, Tally]) -> Track:
        """Windows are shares of the run so far: no length in steps is to be chosen."""
        score, lead = seen[0].mean(), seen[1].total / jnp.maximum(seen[1].count, 1e-6)
        fast, slow = 4.0 / (track.steps + 4.0), 1.0 / (track.steps + 1.0)
        return Track(
            steps=track.steps + 1.0,
            recent=track.recent + fast * (score - track.recent),
            overall=track.overall + slow * (score - track.overall),
            lead=track.lead + fast * (lead - track.lead),
        )


@dataclass(frozen=True, kw_only=True)
class Evidence(Gate):
    """Trusts the teacher where the labels nearby say that it is closer to the truth than the student.

    The difference of Brier scores, teacher minus student, has expectation |q - p*|^2 - |p - p*|^2 whatever the labels'
    noise: it is an unbiased measure of who is closer to the true distribution p*. One label says little, so it is
    averaged over a scope.

      weight = sigmoid((mean advantage - margin) / kappa) * trust

    Attributes:
      kappa: advantage over which the gate opens, in units of the score.
      margin: advantage at which it is half open; below zero, a teacher as good as the student keeps most of its weight.
      scope: whose labels are averaged.
      score: what is averaged.
      trust: discount for a teacher that moves.
    """

    kappa: float = 0.03
    margin: float = -0.03
    scope: Shrunk | Window | Segment | Sequence | Domain | Batch | Token | Scope = field(default_factory=Shrunk)
    score: Brier | LogScore | Score = field(default_factory=Brier)
    trust: Motion = field(default_factory=Motion)

    def __post_init__(self):
        check_positive(self, "kappa", self.kappa)

    @property
    def reach(self) -> int | None:
        """The scope's."""
        return self.scope.reach

    def __call__(self, look: Look, place: Place) -> Float[Array, "b t"]:
        """The weight; about 0.73 times the trust where teacher and student are equally good."""
        memory, track = place.memory
        mean, _ = self.scope.pool(self._advantage(look), place, memory)
        return self._open(mean) * self.trust.factor(track)

    def init(self) -> tuple[PyTree, Track]:
        """The scope's memory and the teacher's track."""
        return self.scope.init(), self.trust.init()

    def observe(self, look: Look, place: Place) -> PyTree:
        """What the scope and the trust want to know of a micro-batch."""
        advantage = self._advantage(look)
        mean, own = self.scope.pool(advantage, place, place.memory[0])
        # Where the gate is open, a position's own label aside: or luck would count twice.
        weight = self._open(mean - own * advantage)
        seen = self.trust.observe(self.score.of(look.teacher), advantage, weight, place)
        return self.scope.observe(advantage, place), seen

    def update(self, memory: Any, seen: Any) -> PyTree:
        """Both memories after a step."""
        return self.scope.update(memory[0], seen[0]), self.trust.update(memory[1], seen[1])

    def _advantage(self, look: Look) -> Float[Array, "b t"]:
        return jax.lax.stop_gradient(self.score.advantage(look))

    def _open(self, mean: Float[Array, "b t"]) -> Float[Array, "b t"]:
        return jax.nn.sigmoid((mean - self.margin) / self.kappa)
