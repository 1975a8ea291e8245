"""A teacher's whole word inside reinforcement learning, as a term beside the policy loss."""

import math
from dataclasses import dataclass

from losses.distill import Divergences
from losses.divergence import Divergence, ReverseKL


@dataclass(frozen=True, kw_only=True)
class Toward:
    """On-policy distillation beside a reward, exactly: L = policy loss + weight * aggregate over tokens of D_t, with

      D_t = D(p(. | s_t), q(. | s_t)) over the whole vocabulary,

    q the learner and p the teacher, both at the temperature of the drawing, s_t a prompt and the tokens drawn so far.
    The aggregate is the policy loss's own. It is on-policy GKD beside a reward (Agarwal et al., arXiv:2306.13649).

    Answers may be stale, and the term is not corrected for it. Given s_t it is exact, whatever token was drawn there,
    so that token asks for no importance weight; but the s_t are those that whoever drew the answers came to, as often
    as it did. As in GKD no gradient goes through how they were drawn: the learner is pulled where it was, and not to
    where the teacher would agree with it. What the policy loss clips, caps or drops stays in the term. Answers that
    nobody judged are not learned from at all, nor are groups that a stage passes over as the task taught nothing by
    them; for the teacher's word on these too, set `Reinforcement.filtered` to False.

    With ReverseKL its gradient is what credit (`Reinforce.teacher`; Thinking Machines, On-Policy Distillation, 2025)
    has for the same number on average over draws of the learner itself, without the noise of drawing; the price is
    the teacher's logits, twice. As with credit, and unlike in `Distill`, there is no factor of temperature squared.

    Attributes:
      weight: of the term, in reward per nat; above 0.
      divergence: D.
    """

    weight: float
    divergence: Divergences | Divergence = ReverseKL()

    def __post_init__(self):
        if not 0.0 < self.weight < math.inf:
            raise ValueError(
                f"Toward(weight={self.weight}) must be above 0 and finite: what a nat from the teacher costs, in units "
                "of the reward; to leave the term out, leave Toward out."
            )
