"""Reinforcement: what a learner minimises on completions that were drawn, and judged before it sees them."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, PyTree

from losses.advantage import credited
from losses.correction import log_weights
from losses.gate import Place
from losses.logps import heard_logps, token_logps
from losses.loss import Loss
from losses.policy_loss import PolicyLoss
from losses.signal import Projected, Signal
from losses.tally import Tally
from losses.toward import Toward

AGED = (*("weight", "weight_square", "mismatch", "mismatch_kl"), *("capped", "dropped", "clip_low", "clip_high"))
"""tallies of `PolicyLoss` that are told by age too: how far tokens are from who drew them, and how many are held"""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Credit:
    """What is known of the tokens of rows that were drawn; it comes where a teacher's word would.

    advantages: of each token, in units of the reward. behaviour: log-probability, nats, by whoever drew it, as it was
    when it did, at the sampling temperature. proximal: by the learner at the start of the update; None where this is
    the update's only step. teacher: by a teacher, at the same temperature; None without one. age: how often the learner
    had changed since whoever drew a row was what the learner is; None where nobody asks. said: all that the teacher
    says at every position, of any token; None where its word on the labels is enough.
    """

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    advantages: Float[Array, "b t"]
    behaviour: Float[Array, "b t"]
    proximal: Float[Array, "b t"] | None = None
    teacher: Float[Array, "b t"] | None = None
    age: Int[Array, " b"] | None = None
    said: Projected | None = None


@dataclass(frozen=True, kw_only=True)
class Reinforce(Loss):
    """A policy gradient on labels that were drawn: `PolicyLoss` of their log-probabilities.

    Attributes:
      policy: from log-probabilities and advantages to a loss.
      teacher: reward per nat by which a teacher likes a token better than the learner does (`credited`): on-policy
        distillation inside reinforcement learning. Used where `Credit` has a teacher.
      temperature: that the labels were drawn with.
      ages: how many of `Credit.age`, from 0, are told apart in what is logged.
      toward: a teacher's whole distribution as a term beside the policy loss; None: no such term.
      chunk: positions of t whose logits exist at a time; None for all.
    """

    policy: PolicyLoss
    teacher: float = 0.0
    temperature: float = 1.0
    ages: int = 0
    toward: Toward | None = None
    chunk: int | None = 64

    def __post_init__(self):
        if self.teacher < 0.0:
            raise ValueError(f"Reinforce(teacher={self.teacher}) would reward what the teacher dislikes; 0 or more.")
        if not 0.0 < self.temperature < math.inf:
            raise ValueError(f"Reinforce(temperature={self.temperature}) must be above 0: that of the drawing.")

    @property
    def learns_labels(self) -> bool:
        """Labels are draws to be judged, not truths to be learned."""
        return False

    def __call__(
        self,
        hidden: Float[Array, "b t d"],
        head: Float[Array, "d v"],
        signal: Signal | Credit | None,
        labels: Int[Array, "b t"],
        place: Place,
        progress: Float[Array, ""] | float,
    ) -> tuple[Tally, dict[str, Tally], PyTree]:
        """The loss over the tokens that were drawn, and what to log; called like `Distill`.

        Returns:
          The loss; tallies without gradient: those of `PolicyLoss`, with its peaks as means over micro-batches; hard
          (the learner's own -log q of the draws), entropy, and with a teacher its cross-entropy, teacher_hard; with
          `toward` its divergence, toward, a mean over tokens before any weight, while loss has the term too; by age
          those of `AGED`, as weight/0, and the peak mismatch_max/0; None.

        Raises:
          ValueError: what comes with the rows is not `Credit`, or has not what `toward` needs.
        """
        if not isinstance(signal, Credit):
            raise ValueError(
                f"Reinforce learns from rows that were drawn and judged (Credit) and was given "
                f"{type(signal).__name__}; use it in a Reinforcement stage"
            )
        logp, entropy, apart = self._read(hidden, head, signal, labels, place)
        advantages, notes = signal.advantages, {"hard": -logp, "entropy": entropy}
        if signal.teacher is not None:
            advantages = credited(advantages, logp, signal.teacher, self.teacher)
            notes["teacher_hard"] = -signal.teacher
        loss, tallies, peaks = self.policy(logp, signal.behaviour, advantages, place.mask, signal.proximal)
        if self.toward is not None and apart is not None:
            term, notes["toward"] = self.policy.aggregation(apart, place.mask), apart
            loss = Tally(loss.total + self.toward.weight * term.total, loss.count)
            tallies["loss"] = jax.lax.stop_gradient(loss)
        tallies |= self._by_age(signal, *jax.lax.stop_gradient((logp, advantages)), place.mask)
        one = jnp.ones((), jnp.float32)
        tallies |= {name: Tally.of(jax.lax.stop_gradient(value), place.mask) for name, value in notes.items()}
        return loss, tallies | {name: Tally(peak, one) for name, peak in peaks.items()}, None

    def _read(self, hidden, head, credit: Credit, labels, place: Place) -> tuple[Array, Array, Array | None]:
        """Log-probabilities of the labels, entropies, and how far the teacher is where that is asked."""
        if self.toward is None:
            asked = hidden, head, labels, place.mask
            return *token_logps(*asked, self.temperature, self.chunk, place.split), None
        if credit.said is None:
            raise ValueError(
                f"Reinforce(toward={self.toward}) needs what a teacher says of every token (Credit.said), and there is "
                "none; set the stage's teacher, or leave toward out"
            )
        to = self.toward.divergence
        asked = hidden, head, labels, place.mask, credit.said, to
        return heard_logps(*asked, self.temperature, self.chunk, place.split)

    def _by_age(
        self, credit: Credit, logp: Float[Array, "b t"], advantages: Float[Array, "b t"], mask: Bool[Array, "b t"]
    ) -> dict[str, Tally]:
        if credit.age is None:
            return {}
        proximal = logp if credit.proximal is None else credit.proximal
        age, found = rearrange(credit.age, "b -> b 1"), {}
        for number in range(self.ages):
            own = mask & (age == number)
            _, every, _ = self.policy(logp, credit.behaviour, advantages, own, credit.proximal)
            tallies = {name: every[name] for name in AGED}
            greatest = jnp.max(jnp.abs(log_weights(proximal, credit.behaviour, own)))
            tallies["mismatch_max"] = Tally(greatest, jnp.any(own).astype(jnp.float32))
            found |= {f"{name}/{number}": tally for name, tally in tallies.items()}
        return found
