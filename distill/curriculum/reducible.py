"""How much of its loss on each prompt a student could lose: difficulty where no verifier is, by a teacher's word."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
from jaxtyping import Bool, Float, Int

from distill.curriculum.estimate import Prior
from distill.curriculum.pool import Pool, check_ids, find
from distill.curriculum.rank import ranks
from distill.curriculum.record import count, number, read_record, several, text, write_record
from distill.place import Place

KIND = "table of reducible losses"
READERS = {
    "ids": several(text),
    "losses": several(number),
    "tokens": several(count),
    "model": text,
    "teacher": text,
    "pool": text,
}
WEIGHT = 2.0
"""attempts that a rank counts for, where a tracker begins with it: as much as the prior"""


@dataclass(frozen=True, eq=False, kw_only=True)
class Reducible:
    """A student's cross-entropy less its teacher's on each prompt's text, nats a token.

    The excess loss of Rho-1 (arXiv:2404.07965) with the teacher as the reference, by whole prompts. Text that is noise
    is hard to the teacher as well, so it does not count as difficult; the student's own loss would say that it is.

    Raises:
      ValueError: ids repeat, a column is of another length, a loss is not finite, or a prompt has no tokens.
    """

    ids: tuple[str, ...]
    losses: Float[np.ndarray, "n"]
    """student minus teacher, nats a token; negative where the student is ahead"""
    tokens: Int[np.ndarray, "n"]
    """over which each is the mean"""
    model: str
    """fingerprint of the student"""
    teacher: str
    """fingerprint of the teacher"""
    pool: str
    """fingerprint of the pool of prompts"""

    def __post_init__(self):
        check_ids(self.ids)
        if not len(self.ids) == len(self.losses) == len(self.tokens):
            raise ValueError(
                f"a table has {len(self.ids)} ids, {len(self.losses)} losses and {len(self.tokens)} tokens; each "
                "prompt has one of each"
            )
        for one, loss, tokens in zip(self.ids, self.losses, self.tokens, strict=True):
            if not np.isfinite(loss) or tokens < 1:
                raise ValueError(
                    f"prompt {one!r} has a reducible loss of {loss} over {tokens} tokens; it must be finite, over at "
                    "least one: leave out what has no labels"
                )

    @property
    def prior(self) -> Prior:
        """An even one: nobody has tried."""
        return Prior()

    def difficulty(self) -> Float[np.ndarray, "n"]:
        """The rank of what can be reduced; where the student is level or ahead nothing can, and all are alike."""
        return ranks(np.maximum(self.losses, 0.0))

    def evidence(self) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
        """The rank as if it were the share of failures in `WEIGHT` attempts: enough for an order, soon outweighed."""
        difficulty = self.difficulty()
        return WEIGHT * (1.0 - difficulty), WEIGHT * difficulty

    def solved(self, attempts: int) -> Bool[np.ndarray, "n"]:
        """Refuses: nobody has tried. Raises ValueError."""
        raise ValueError("reducible losses do not say what is solved; use DropEasiest, or measure a Table of attempts")

    def unsolved(self, attempts: int) -> Bool[np.ndarray, "n"]:
        """Refuses: nobody has tried. Raises ValueError."""
        return self.solved(attempts)

    def where(self, stays: Bool[np.ndarray, "n"]) -> "Reducible":
        """The rows that stay; their ranks are among each other."""
        return replace(self, ids=tuple(compress(self.ids, stays)), losses=self.losses[stays], tokens=self.tokens[stays])

    def over(self, ids: Sequence[str]) -> "Reducible":
        """The rows of these prompts, in their order.

        Raises:
          ValueError: it has none of one of them, by name.
        """
        rows = find(self.ids, ids)
        return replace(self, ids=tuple(ids), losses=self.losses[rows], tokens=self.tokens[rows])

    def check(self, pool: Pool, model: str, teacher: str) -> None:
        """Refuses a table of other prompts, another student or another teacher; check first, then filter.

        Raises:
          ValueError: naming what differs.
        """
        pool.check("the table", self.ids, self.pool)
        for what, mine, its in (("model", self.model, model), ("teacher", self.teacher, teacher)):
            if mine != its:
                raise ValueError(f"the table is of the {what} {mine}, this one is {its}; measure this one")

    def save(self, path: Place) -> None:
        """Writes the table as one JSON file, whole or not at all."""
        columns = {"ids": list(self.ids), "losses": self.losses.tolist(), "tokens": self.tokens.tolist()}
        write_record(path, KIND, {**columns, "model": self.model, "teacher": self.teacher, "pool": self.pool})

    @classmethod
    def load(cls, path: Place) -> "Reducible":
        """The table in a file, which may come from anybody.

        Raises:
          ValueError: it is not there, of another schema, damaged, or says what cannot be; naming the file and why.
        """
        return read_record(path, KIND, READERS, _reducible)


def _reducible(fields: dict) -> Reducible:
    columns = {"losses": np.array(fields["losses"], np.float64), "tokens": np.array(fields["tokens"], np.int64)}
    return Reducible(**{**fields, **columns})
