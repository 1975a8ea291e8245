"""Group-relative advantages: what a completion earned beside the others of its prompt.

Letters: g groups (one prompt each), n completions of a group.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, Shaped

from losses.ratio import bounded

Rewards = Float[np.ndarray, "g n"] | Float[Array, "g n"]
Valid = Bool[np.ndarray, "g n"] | Bool[Array, "g n"]


@runtime_checkable
class Advantage(Protocol):
    """From rewards to advantages, numpy to numpy and jax to jax; what is not valid has no part in any mean, and 0."""

    def __call__(self, rewards: Rewards, valid: Valid) -> Rewards:
        """The advantage of every completion.

        Args:
          rewards: of any unit; a masked one may be anything, even NaN.
          valid: completions that count.

        Raises:
          ValueError: rewards and valid differ in shape.
        """
        ...


@dataclass(frozen=True)
class Centred:
    """A = r - mean of the group (Dr. GRPO, arXiv:2503.20783).

    Without the division by the group's spread, which weighs prompts that are nearly always or nearly never solved more
    than those in between.
    """

    def __call__(self, rewards: Rewards, valid: Valid) -> Rewards:
        """Reward above its group's mean, in the reward's unit."""
        return _centred(rewards, valid)[0]


@dataclass(frozen=True, kw_only=True)
class GroupScaled:
    """A = (r - mean of the group) / (std of the group + epsilon) (GRPO, arXiv:2402.03300).

    The spread is the root mean square of the deviations. The paper does not say; libraries divide by n - 1, which at 8
    completions makes advantages 6 % smaller.

    Attributes:
      epsilon: beside the spread, in the reward's unit.
    """

    epsilon: float = 1e-4

    def __post_init__(self):
        _check_epsilon(self, self.epsilon)

    def __call__(self, rewards: Rewards, valid: Valid) -> Rewards:
        """Deviations of its group that a reward lies above the mean."""
        values, count = _centred(rewards, valid)
        return values / (_root(values, count, axis=1) + self.epsilon)


@dataclass(frozen=True, kw_only=True)
class BatchScaled:
    """A = (r - mean of the group) / (std of that over the batch + epsilon) (REINFORCE++-baseline, arXiv:2501.03262).

    One number for all groups, so that no prompt is preferred: for rewards whose scale changes between runs. It depends
    on the batch, so give it the whole one, not a micro-batch.

    Attributes:
      epsilon: beside the spread, in the reward's unit.
    """

    epsilon: float = 1e-4

    def __post_init__(self):
        _check_epsilon(self, self.epsilon)

    def __call__(self, rewards: Rewards, valid: Valid) -> Rewards:
        """Reward above its group's mean, in deviations of the batch."""
        values, count = _centred(rewards, valid)
        return values / (_root(values, count, axis=None) + self.epsilon)


@dataclass(frozen=True)
class LeaveOneOut:
    """A = r - mean of the group's others (RLOO, arXiv:2402.14740): `Centred` times m / (m - 1), m those that are valid.

    The baseline knows nothing of the completion that it is taken from, so the gradient is unbiased.
    """

    def __call__(self, rewards: Rewards, valid: Valid) -> Rewards:
        """Reward above the mean of the others, in the reward's unit; 0 for one that has no others."""
        values, count = _centred(rewards, valid)
        others = count - 1
        return values * (count / others.clip(1))


def informative(outcomes: Shaped[np.ndarray, "g n"] | Shaped[Array, "g n"], valid: Valid) -> Bool[np.ndarray, " g"]:
    """Groups that can teach something: some completions solved the prompt, and some did not.

    Read on the host, from the binary outcome. Shaped rewards (length, format) differ within a group that is all right
    or all wrong, by rounding if by nothing else, and a filter on their spread keeps it for that noise.

    Args:
      outcomes: 1 or True where the task was solved, 0 where not; a masked one may be anything.
      valid: completions that count; a group with fewer than half of them is not informative either.

    Raises:
      ValueError: the shapes differ, or an outcome that counts is neither 0 nor 1.
    """
    _check_shapes(outcomes, valid)
    valid = np.asarray(valid)
    solved = np.where(valid, np.asarray(outcomes, np.float64), 0.0)
    odd = solved[~((np.abs(solved) < 1e-6) | (np.abs(solved - 1.0) < 1e-6))]
    if odd.size:
        raise ValueError(
            f"an outcome is {odd[0]}, and must be 0 or 1: whether the task was solved. Give the outcome of the check, "
            "not the shaped reward."
        )
    spread = np.where(valid, solved, -np.inf).max(axis=1) - np.where(valid, solved, np.inf).min(axis=1)
    return (spread >= 1e-6) & (2 * valid.sum(axis=1) >= valid.shape[1])


def credited(
    advantages: Float[Array, " b"] | Float[Array, "b t"],
    logp: Float[Array, "b t"],
    teacher_logp: Float[Array, "b t"],
    beta: float,
) -> Float[Array, "b t"]:
    """A_t - beta (sg(log q(y_t)) - log p(y_t)): a teacher's word on every token that was drawn, as reward.

    Its expected gradient is that of beta times the reverse KL at every position (`SampledReverseKL`), beside the
    task's. The difference is bounded at 20 nats. It depends on the token that was drawn, which is what makes it credit:
    the KL over the whole vocabulary (or a top-k) is one number for whatever was drawn, a baseline, and subtracted from
    an advantage its expected gradient is 0 (radixark/miles#2362). To have that one, add the loss `ReverseKL`.

    Whether a group is informative is a matter of the task alone: decide it before.

    Args:
      advantages: of the task; 0 where there is none.
      logp: the learner's, of the tokens that were drawn, at the sampling temperature; no gradient enters it.
      teacher_logp: the teacher's, of the same tokens, at the same temperature.
      beta: reward per nat.

    Raises:
      ValueError: beta is negative.
    """
    if beta < 0.0:
        raise ValueError(f"credited(beta={beta}) would reward what the teacher dislikes; it must be 0 or more.")
    ratio = bounded(jax.lax.stop_gradient(logp).astype(jnp.float32) - teacher_logp.astype(jnp.float32))
    return by_token(advantages) - beta * ratio


def by_token(advantages: Float[Array, " b"] | Float[Array, "b t"]) -> Float[Array, "b #t"]:
    """Advantages of completions as those of all their tokens."""
    return rearrange(advantages, "b -> b 1") if advantages.ndim == 1 else advantages


def _centred(rewards: Any, valid: Any) -> tuple[Any, Any]:
    """Rewards above their group's mean, 0 where masked, and how many count in each group [g 1].

    Measured from the group's best first: equal rewards are exactly 0 apart, whatever their mean would be rounded to.
    """
    _check_shapes(rewards, valid)
    xp = rewards.__array_namespace__()
    rewards = xp.where(valid, rewards, 0.0)
    best = xp.max(xp.where(valid, rewards, -xp.inf), axis=1, keepdims=True)
    below = xp.where(valid, rewards - best, 0.0)
    count = xp.sum(valid, axis=1, keepdims=True).astype(rewards.dtype)
    return xp.where(valid, below - xp.sum(below, axis=1, keepdims=True) / count.clip(1), 0.0), count


def _root(values: Any, count: Any, axis: int | None) -> Any:
    """Root mean square of those that count, over a group or over everything."""
    return ((values**2).sum(axis=axis, keepdims=True) / count.sum(axis=axis, keepdims=True).clip(1)) ** 0.5


def _check_shapes(values: Any, valid: Any) -> None:
    if values.shape != valid.shape:
        raise ValueError(
            f"values have shape {values.shape} and valid {valid.shape}; both must be groups by completions [g n]."
        )


def _check_epsilon(asker: object, epsilon: float) -> None:
    if not epsilon > 0.0:
        raise ValueError(f"{asker} must have an epsilon above 0, or a group of equal rewards divides by 0.")
