"""An advantage and a loss that belong together, and those of the papers by their names.

Where a paper adds a KL to a frozen reference (GRPO), that is left out: its weight is 0 in all that came later.
"""

from dataclasses import dataclass

from losses.advantage import Advantage, BatchScaled, Centred, GroupScaled, LeaveOneOut
from losses.aggregation import ConstantMean, SequenceMean, TokenMean
from losses.clip import Clip, ClippedWeight
from losses.correction import NoCorrection
from losses.policy_loss import PolicyLoss
from losses.ratio import Behaviour, SequenceRatio


@dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    """From rewards of groups to a gradient.

    Attributes:
      advantage: from rewards, on whole groups.
      loss: from advantages, on rows.
    """

    advantage: Centred | GroupScaled | BatchScaled | LeaveOneOut | Advantage = Centred()
    loss: PolicyLoss


def decoupled_ppo(length: int) -> PolicyGradient:
    """The default: old samples weighed by at most 2 and dropped outside [0.2, 5], the update clipped around its start.

    Decoupled PPO (arXiv:2110.00641; AReaL, arXiv:2505.24298) with the advantage and the denominator of Dr. GRPO and the
    clip of DAPO.

    Args:
      length: tokens that a completion may have, at most.
    """
    return PolicyGradient(advantage=Centred(), loss=PolicyLoss(aggregation=ConstantMean(length=length)))


def grpo() -> PolicyGradient:
    """GRPO (DeepSeekMath, arXiv:2402.03300): group std, mean over completions of token means, clip 0.2."""
    loss = PolicyLoss(
        aggregation=SequenceMean(),
        reference=Behaviour(),
        clip=Clip(low=0.2, high=0.2),
        correction=NoCorrection(),
    )
    return PolicyGradient(advantage=GroupScaled(), loss=loss)


def dr_grpo(length: int) -> PolicyGradient:
    """Dr. GRPO (arXiv:2503.20783): GRPO without the two divisions that bias it, by the std and by the length.

    Args:
      length: tokens that a completion may have, at most.
    """
    loss = PolicyLoss(
        aggregation=ConstantMean(length=length),
        reference=Behaviour(),
        clip=Clip(low=0.2, high=0.2),
        correction=NoCorrection(),
    )
    return PolicyGradient(advantage=Centred(), loss=loss)


def dapo() -> PolicyGradient:
    """DAPO (arXiv:2503.14476): group std, mean over tokens, clip-higher.

    What it does to rewards and groups is elsewhere: `informative` is its dynamic sampling.
    """
    loss = PolicyLoss(
        aggregation=TokenMean(),
        reference=Behaviour(),
        clip=Clip(low=0.2, high=0.28),
        correction=NoCorrection(),
    )
    return PolicyGradient(advantage=GroupScaled(), loss=loss)


def gspo() -> PolicyGradient:
    """GSPO (arXiv:2507.18071): one ratio a completion. For mixtures, whose routers make ratios of tokens noisy."""
    loss = PolicyLoss(
        aggregation=SequenceMean(),
        level=SequenceRatio(),
        reference=Behaviour(),
        clip=Clip(low=3e-4, high=4e-4),
        correction=NoCorrection(),
    )
    return PolicyGradient(advantage=GroupScaled(), loss=loss)


def cispo() -> PolicyGradient:
    """CISPO (MiniMax-M1, arXiv:2506.13585): REINFORCE with a bounded weight; no token is clipped away."""
    loss = PolicyLoss(
        aggregation=TokenMean(),
        reference=Behaviour(),
        clip=ClippedWeight(),
        correction=NoCorrection(),
    )
    return PolicyGradient(advantage=GroupScaled(), loss=loss)
