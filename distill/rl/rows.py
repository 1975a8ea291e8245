"""Rows: groups of judged completions as a batch that a step learns from."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from distill.data.batch import Batch
from distill.rl.rollouts import Rollouts
from losses.reinforce import Credit


def to_batch(
    groups: Sequence[Rollouts], advantages: Float[np.ndarray, "g n"], version: int, rows: int, length: int, pad: int
) -> Batch:
    """A row [length] for each completion, its prompt before it; what counts are the tokens that were drawn.

    Args:
      groups: at most rows / n of them.
      advantages: of every completion; those that nobody judged are not learned from.
      version: of the learner; with it a row's age is known.
      rows: of the batch; empty ones fill it up.
      length: of a row; a prompt and its completion are one token longer, at most.
      pad: the token where there is no text.

    Raises:
      ValueError: the groups do not fit.
    """
    samples = advantages.shape[1] if len(groups) else 0
    longest = max((len(one.prompt) + one.tokens.shape[1] for one in groups), default=0)
    if len(groups) * samples > rows or longest > length + 1:
        raise ValueError(
            f"{len(groups)} groups of {samples} completions, {longest} tokens with their prompts, do not fit {rows} "
            f"rows of {length} tokens and a label"
        )
    tokens = np.full((rows, length + 1), pad, np.int32)
    ends, given = np.zeros((2, rows), np.int32)
    behaviour, credit = np.zeros((2, rows, length + 1), np.float32)
    age = np.zeros(rows, np.int32)
    for row, (group, sample) in enumerate((group, sample) for group in groups for sample in range(samples)):
        if not group.valid[sample]:
            continue
        start, size = len(group.prompt), int(group.lengths[sample])
        tokens[row, : start + size] = np.concatenate((group.prompt, group.completion(sample)))
        behaviour[row, start : start + size] = group.logps[sample, :size]
        credit[row, start : start + size] = advantages[row // samples, sample]
        given[row], ends[row], age[row] = start, start + size, version - group.version
    batch = Batch.of_answers(tokens, given, ends, pad)
    # A label stands one place before its token.
    known: dict[str, Any] = {"advantages": credit[:, 1:], "behaviour": behaviour[:, 1:], "age": age}
    return dataclasses.replace(batch, targets=Credit(**known), routes=_routes(groups, samples, rows, length))


def _routes(groups: Sequence[Rollouts], samples: int, rows: int, length: int) -> np.ndarray | None:
    """Where the tokens of every row went [b t l r]; -1 where there is none. None if nothing is to be replayed."""
    if not groups or groups[0].routes is None:
        return None
    routes = np.full((rows, length, *groups[0].routes.shape[2:]), -1, np.int32)
    for number, group in enumerate(groups):
        assert group.routes is not None
        for sample in range(samples):
            size = len(group.prompt) + int(group.lengths[sample]) - 1  # the last token is not read
            if group.valid[sample]:
                routes[number * samples + sample, :size] = group.routes[sample, :size]
    return routes
