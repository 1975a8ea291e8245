"""The policy-gradient loss: one formula, and a value for each thing that papers disagree on."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from losses.advantage import by_token
from losses.aggregation import Aggregation, ConstantMean, SequenceMean, TokenMean
from losses.clip import Clip, ClippedWeight, NoClip, Surrogate
from losses.correction import (
    Correction,
    Masked,
    NoCorrection,
    SequenceMasked,
    Truncated,
    TruncatedAndMasked,
    log_weights,
    mismatch,
)
from losses.ratio import Behaviour, Level, Proximal, Reference, SequenceRatio, TokenRatio, cleaned, k3
from losses.tally import Tally


@dataclass(frozen=True, kw_only=True)
class PolicyLoss:
    """L = - aggregate over tokens of w_t S(rho_t, A_t), to be minimised, with

      rho_t = q(y_t) / reference(y_t),   w_t = correct(proximal(y_t) / behaviour(y_t)),

    q the learner, proximal the learner at the start of the update, behaviour whoever drew y_t, S a clip. With the
    defaults it is decoupled PPO (arXiv:2110.00641, AReaL arXiv:2505.24298), S = min(rho A, clip(rho) A); with one
    optimizer step a batch rho is 1 and it is REINFORCE with bounded weights. The papers' own are in
    `losses.policy_gradient`. There is no entropy bonus, and no KL to a frozen reference.

    Attributes:
      aggregation: from tokens to a loss.
      level: over what the ratio is taken.
      reference: what the ratio is taken to.
      clip: what is made of ratio and advantage.
      correction: what is made of the weight of another policy's samples.
    """

    aggregation: TokenMean | SequenceMean | ConstantMean | Aggregation
    level: TokenRatio | SequenceRatio | Level = TokenRatio()
    reference: Proximal | Behaviour | Reference = Proximal()
    clip: Clip | ClippedWeight | NoClip | Surrogate = Clip()
    correction: NoCorrection | Truncated | Masked | TruncatedAndMasked | SequenceMasked | Correction = (
        TruncatedAndMasked()
    )

    def __post_init__(self):
        if self.reference == Behaviour() and self.correction != NoCorrection():
            raise ValueError(
                f"PolicyLoss(reference=Behaviour(), correction={self.correction}) would count the distance from who "
                "drew the tokens twice, in the ratio and in the weight; set correction=NoCorrection(), or "
                "reference=Proximal()."
            )

    def __call__(
        self,
        logp: Float[Array, "b t"],
        behaviour: Float[Array, "b t"],
        advantages: Float[Array, " b"] | Float[Array, "b t"],
        mask: Bool[Array, "b t"],
        proximal: Float[Array, "b t"] | None = None,
    ) -> tuple[Tally, dict[str, Tally], dict[str, Float[Array, ""]]]:
        """The loss over the tokens that count, and what to log. A row is a completion, with its prompt or without.

        Args:
          logp: the learner's log-probabilities of the tokens that were drawn, at the temperature that they were drawn
            with (`token_logps`); the gradient is in these alone.
          behaviour: those of whoever drew each token, as it was when it did.
          advantages: of completions, or of tokens (`credited`).
          mask: tokens to be learned from, of completions alone; all else may hold anything, even NaN.
          proximal: the learner's at the start of the update; None where this is the update's first and only step, and
            they are `logp`.

        Returns:
          The loss (differentiable total; its count adds over micro-batches, and is taken before any token is dropped).
          Tallies without gradient: loss; those of `mismatch`; capped and dropped (by the correction); clip_low and
          clip_high (held by the clip); kl, of the learner from the reference (`k3`, of a token or, with SequenceRatio,
          of a completion's mean). Peaks, of which the greatest over micro-batches counts:
          weight_max, ratio_max.

        Raises:
          ValueError: the shapes differ.
        """
        _check_shapes(logp, behaviour, advantages, mask, proximal)
        proximal = logp if proximal is None else proximal
        # What does not count goes before any difference: a NaN hidden behind a `where` still reaches the gradient.
        logp, proximal, behaviour = (cleaned(x, mask) for x in (logp, proximal, behaviour))
        proximal, behaviour = jax.lax.stop_gradient((proximal, behaviour))
        advantages = jnp.where(mask, jax.lax.stop_gradient(by_token(advantages)).astype(jnp.float32), 0.0)
        log_weight = log_weights(proximal, behaviour, mask)
        weight, capped, dropped = self.correction(log_weight, mask)
        log_ratio = self.level(logp, self.reference(proximal, behaviour), mask)
        objective, low, high = self.clip(logp, log_ratio, advantages)
        loss = self.aggregation(-weight * objective, mask)
        notes = {"capped": capped, "dropped": dropped, "clip_low": low, "clip_high": high, "kl": k3(log_ratio)}
        tallies = {name: Tally.of(value, mask) for name, value in notes.items()}
        tallies |= {"loss": loss, **mismatch(proximal, behaviour, mask)}
        peaks = {"weight_max": _greatest(log_weight, mask), "ratio_max": _greatest(log_ratio, mask)}
        return loss, *jax.lax.stop_gradient((tallies, peaks))


def _greatest(log_values: Float[Array, "b t"], mask: Bool[Array, "b t"]) -> Float[Array, ""]:
    """Of those that count; 0 where none do."""
    return jnp.exp(jnp.max(jnp.where(mask, log_values, -jnp.inf)))


def _check_shapes(logp, behaviour, advantages, mask, proximal) -> None:
    shapes = {"behaviour": behaviour.shape, "mask": mask.shape}
    if proximal is not None:
        shapes["proximal"] = proximal.shape
    for name, shape in shapes.items():
        if shape != logp.shape:
            raise ValueError(f"{name} has shape {shape} and logp {logp.shape}; both must be rows by tokens [b t].")
    if advantages.shape not in (logp.shape, logp.shape[:1]):
        raise ValueError(
            f"advantages have shape {advantages.shape}, and must have {logp.shape[:1]}, one for each completion, or "
            f"{logp.shape}, one for each token."
        )
