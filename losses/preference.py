"""Direct preference optimisation: a better completion and a worse one of a prompt, beside a frozen reference."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from losses.tally import Tally


@runtime_checkable
class Objective(Protocol):
    """A loss of the margin m by which a learner prefers the chosen completion, beyond its reference."""

    def __call__(self, margin: Float[Array, " b"], beta: float) -> Float[Array, " b"]:
        """The loss of each pair."""
        ...


@dataclass(frozen=True)
class Sigmoid:
    """-log sigmoid(beta m) (DPO, arXiv:2305.18290): the Bradley-Terry likelihood of the preference."""

    def __call__(self, margin: Float[Array, " b"], beta: float) -> Float[Array, " b"]:
        """Nats; log 2 where learner and reference prefer alike."""
        return -jax.nn.log_sigmoid(beta * margin)


@dataclass(frozen=True)
class IPO:
    """(m - 1 / (2 beta))^2 (IPO, arXiv:2310.12036): a margin to be reached, not exceeded, so that pairs which everybody
    agrees on do not pull for ever.
    """

    def __call__(self, margin: Float[Array, " b"], beta: float) -> Float[Array, " b"]:
        """Squared nats."""
        return (margin - 0.5 / beta) ** 2


@dataclass(frozen=True, kw_only=True)
class DPO:
    """L = (1 - e) f(m) + e f(-m) + nll * NLL(chosen), a mean over pairs, with

      m = [log q(y+) - log r(y+)] / |y+| - [log q(y-) - log r(y-)] / |y-|,   NLL = -log q(y+) / |y+|,

    q the learner, r the reference, f the objective, e the label smoothing. Without length_normalised, |y| in m is 1 and
    it is the paper's DPO. Lengths in m keep a longer answer from being preferred for the number of its tokens (SimPO,
    arXiv:2405.14734; with a reference Tulu 3, arXiv:2411.15124). The last term holds the chosen answer's likelihood,
    which the margin alone lets fall as long as the rejected one's falls faster (arXiv:2404.19733; Llama 3,
    arXiv:2407.21783).

    Attributes:
      beta: of the margin: how dear it is to leave the reference. 5 is Tulu 3's, for nats a token; without
        length_normalised 0.1 is usual.
      length_normalised: margin in nats a token.
      nll: weight of the chosen answer's negative log-likelihood; Llama 3 has 0.2.
      label_smoothing: share of pairs that are taken to be labelled the wrong way round.
      objective: of the margin.
    """

    beta: float = 5.0
    length_normalised: bool = True
    nll: float = 0.1
    label_smoothing: float = 0.0
    objective: Sigmoid | IPO | Objective = Sigmoid()

    def __post_init__(self):
        if not self.beta > 0.0:
            raise ValueError(f"DPO(beta={self.beta}) must be above 0; 5 for nats a token, 0.1 for nats.")
        if not self.nll >= 0.0:
            raise ValueError(f"DPO(nll={self.nll}) must be 0 or more; 0 leaves the chosen answer's likelihood alone.")
        if not 0.0 <= self.label_smoothing < 0.5:
            raise ValueError(
                f"DPO(label_smoothing={self.label_smoothing}) must be from 0 to below 0.5, where labels say nothing."
            )

    def __call__(
        self,
        chosen: Float[Array, "b t"],
        rejected: Float[Array, "b s"],
        chosen_mask: Bool[Array, "b t"],
        rejected_mask: Bool[Array, "b s"],
        reference_chosen: Float[Array, " b"],
        reference_rejected: Float[Array, " b"],
    ) -> tuple[Tally, dict[str, Tally]]:
        """The loss over pairs, and what to log. A pair of which a side has no tokens is padding.

        Args:
          chosen, rejected: the learner's log-probabilities of the tokens of both completions, at temperature 1
            (`token_logps`); the gradient is in these alone.
          chosen_mask, rejected_mask: tokens of the completions; all else may hold anything, even NaN.
          reference_chosen, reference_rejected: sums over the same tokens of the reference's.

        Returns:
          The loss (differentiable total; counts pairs). Tallies without gradient, means over pairs: loss; margin, and
          accuracy (of margins above 0); chosen and rejected, the learner's log-probability above the reference's, nats
          a token; nll, of the chosen, nats a token. Stop where chosen falls while the margin rises: the likelihood goes
          to answers that nobody asked for (likelihood displacement, arXiv:2410.08847).
        """
        pair = jnp.any(chosen_mask, axis=1) & jnp.any(rejected_mask, axis=1)
        own, size = _summed(chosen, chosen_mask)
        other, length = _summed(rejected, rejected_mask)
        up = own - _fixed(reference_chosen, pair)
        down = other - _fixed(reference_rejected, pair)
        margin = up / size - down / length if self.length_normalised else up - down
        right, wrong = self.objective(margin, self.beta), self.objective(-margin, self.beta)
        nll = -own / size
        loss = (1.0 - self.label_smoothing) * right + self.label_smoothing * wrong + self.nll * nll
        values = {
            "loss": loss,
            "margin": margin,
            "accuracy": margin > 0.0,
            "chosen": up / size,
            "rejected": down / length,
            "nll": nll,
        }
        tallies = {name: _over_pairs(value, pair) for name, value in values.items()}
        return tallies["loss"], jax.lax.stop_gradient(tallies)


def _summed(logp: Float[Array, "b t"], mask: Bool[Array, "b t"]) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """Log-probability of a completion, and its number of tokens, at least 1."""
    total = jnp.sum(jnp.where(mask, logp.astype(jnp.float32), 0.0), axis=1)
    return total, jnp.maximum(jnp.sum(mask, axis=1, dtype=jnp.float32), 1.0)


def _fixed(logp: Float[Array, " b"], pair: Bool[Array, " b"]) -> Float[Array, " b"]:
    return jnp.where(pair, jax.lax.stop_gradient(logp).astype(jnp.float32), 0.0)


def _over_pairs(values: Float[Array, " b"] | Bool[Array, " b"], pair: Bool[Array, " b"]) -> Tally:
    return Tally(jnp.sum(jnp.where(pair, values, 0.0)), jnp.sum(pair, dtype=jnp.float32))
