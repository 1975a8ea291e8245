"""The lines of an update: what it learned from."""

from collections.abc import Sequence

import numpy as np

from distill.rl.rollouts import Rollouts


def describe(groups: Sequence[Rollouts], used: Sequence[Rollouts], version: int) -> dict[str, float]:
    """What to log of an update: of the groups that it learned from, and of those it passed over for them."""
    solved = [float(one.outcomes[one.valid].mean()) for one in used if one.valid.any()]
    lags = [version - one.version for one in groups]
    lengths = np.concatenate([one.lengths for one in used]) if used else np.zeros(1)
    return {
        "reward": float(np.mean(solved)) if solved else float("nan"),
        "groups": float(len(groups)),
        "all_right": float(np.mean([rate == 1.0 for rate in solved])) if solved else float("nan"),
        "all_wrong": float(np.mean([rate == 0.0 for rate in solved])) if solved else float("nan"),
        "lag": float(np.mean(lags)) if lags else float("nan"),
        "lag_max": float(max(lags, default=0)),
        "length": float(lengths.mean()),
        "masked": float(sum((~one.valid).sum() for one in used)),
    }
