"""Ranks of values, in which equal ones share their places: nothing depends on the order in which prompts are kept."""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt64


def places(values: Float[np.ndarray, "n"]) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """The places that each value holds when they are sorted upwards, from the first to before the second.

    Equal values hold theirs together: of (3, 5, 3) both 3 hold 0 to 2, and 5 holds 2 to 3.
    """
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    return (ends - sizes)[group], ends[group]


def ranks(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """The middle of the places that each value holds, as a share of all: above 0 and below 1, 1/2 on average."""
    first, end = places(values)
    return (first + end) / (2.0 * len(values))


def shared(first: Int[np.ndarray, "n"], each: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """What prompts get for their places when place i gives each[i] and those who hold places together share.

    Args:
      first: the first place that each holds, as of `places`.
      each: what a place gives, first place first.
    """
    order = np.argsort(first, kind="stable")
    held = first[order]
    return np.bincount(held, weights=each)[first] / np.bincount(held)[first]


def lots(ids: Sequence[str], seed: int, purpose: str) -> UInt64[np.ndarray, "n"]:
    """A number for each prompt that follows from its id, the seed and the purpose alone, for want of a better order."""
    drawn = (hashlib.sha256(f"{purpose}:{seed}:{one}".encode()).digest()[:8] for one in ids)
    return np.frombuffer(b"".join(drawn), dtype=">u8").astype(np.uint64)
