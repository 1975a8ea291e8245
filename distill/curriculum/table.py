"""How often a model solves each prompt of a pool: difficulty by a verifier, measured once and kept as a file."""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace
from itertools import compress

import numpy as np
from jaxtyping import Bool, Float, Int

from distill.curriculum.estimate import Belief, Prior, check_counts, pass_at_k
from distill.curriculum.pool import Pool, check_ids, find
from distill.curriculum.record import count, number, read_record, several, text, write_record
from distill.place import Place

KIND = "table of attempts"
READERS = {
    "ids": several(text),
    "attempts": several(count),
    "successes": several(count),
    "model": text,
    "pool": text,
    "seeds": several(count),
    "temperature": number,
    "prior": several(number),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """Attempts of one model at the prompts of one pool, and how many succeeded.

    Raises:
      ValueError: ids repeat, a column is of another length, no seed is named, counts or the temperature are impossible.
    """

    ids: tuple[str, ...]
    attempts: Int[np.ndarray, "n"]
    successes: Int[np.ndarray, "n"]
    model: str
    """fingerprint of who was measured"""
    pool: str
    """fingerprint of the pool of prompts"""
    seeds: tuple[int, ...]
    """of the attempts; several where tables were merged"""
    temperature: float
    """at which answers were drawn"""
    prior: Prior = field(default_factory=Prior)
    """what was believed before"""

    def __post_init__(self):
        check_ids(self.ids)
        if not len(self.ids) == len(self.attempts) == len(self.successes):
            raise ValueError(
                f"a table has {len(self.ids)} ids, {len(self.attempts)} attempts and {len(self.successes)} successes; "
                "each prompt has one of each"
            )
        check_counts(self.attempts, self.successes, self.ids)
        if not self.seeds:
            raise ValueError("a table has no seeds; name those of its draws, by which they are not counted twice")
        if not 0.0 <= self.temperature < math.inf:
            raise ValueError(f"a table's temperature is {self.temperature}; it must be 0 or more, and finite")

    def belief(self) -> Belief:
        """What is to be believed of each prompt's chance to be solved."""
        return self.prior.after(self.successes, self.attempts - self.successes)

    def difficulty(self) -> Float[np.ndarray, "n"]:
        """How often each is expected to fail: one less the belief's mean."""
        return 1.0 - self.belief().mean()

    def evidence(self) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
        """Successes and failures, as counted."""
        return self.successes.astype(np.float64), (self.attempts - self.successes).astype(np.float64)

    def pass_at(self, k: int) -> Float[np.ndarray, "n"]:
        """pass@k of each prompt, unbiased; see `estimate.pass_at_k`, also for what it raises."""
        return pass_at_k(self.attempts, self.successes, k)

    def solved(self, attempts: int) -> Bool[np.ndarray, "n"]:
        """Prompts of which every attempt succeeded, and there were at least so many."""
        return (self.attempts >= attempts) & (self.successes == self.attempts)

    def unsolved(self, attempts: int) -> Bool[np.ndarray, "n"]:
        """Prompts of which no attempt succeeded, and there were at least so many."""
        return (self.attempts >= attempts) & (self.successes == 0)

    def where(self, stays: Bool[np.ndarray, "n"]) -> "Table":
        """The rows that stay."""
        ids = tuple(compress(self.ids, stays))
        return replace(self, ids=ids, attempts=self.attempts[stays], successes=self.successes[stays])

    def over(self, ids: Sequence[str]) -> "Table":
        """The rows of these prompts, in their order.

        Raises:
          ValueError: it has none of one of them, by name.
        """
        rows = find(self.ids, ids)
        return replace(self, ids=tuple(ids), attempts=self.attempts[rows], successes=self.successes[rows])

    def check(self, pool: Pool, model: str) -> None:
        """Refuses a table of other prompts or of another model; check first, then filter.

        Raises:
          ValueError: naming what differs.
        """
        pool.check("the table", self.ids, self.pool)
        if model != self.model:
            raise ValueError(
                f"the table is of the model {self.model}, this one is {model}: what is hard for one is not for "
                "another; measure this model"
            )

    def merge(self, other: "Table") -> "Table":
        """Both tables' attempts together, in the order of this one.

        Raises:
          ValueError: they are of different models, pools, temperatures or priors, or of the same draws.
        """
        for name, mine, its in (
            ("model", self.model, other.model),
            ("pool", self.pool, other.pool),
            ("temperature", self.temperature, other.temperature),
            ("prior", self.prior, other.prior),
            ("number of prompts", len(self.ids), len(other.ids)),
        ):
            if mine != its:
                raise ValueError(f"two tables differ in {name}, {mine} and {its}: their counts do not add; keep one")
        both = sorted(set(self.seeds) & set(other.seeds))
        if both:
            raise ValueError(f"two tables were both drawn with seed {both[0]}: the same attempts would count twice")
        that = other.over(self.ids)
        return replace(
            self,
            attempts=self.attempts + that.attempts,
            successes=self.successes + that.successes,
            seeds=(*self.seeds, *other.seeds),
        )

    def save(self, path: Place) -> None:
        """Writes the table as one JSON file, whole or not at all."""
        columns = {"ids": list(self.ids), "attempts": self.attempts.tolist(), "successes": self.successes.tolist()}
        origin = {"model": self.model, "pool": self.pool, "seeds": list(self.seeds), "temperature": self.temperature}
        write_record(path, KIND, {**columns, **origin, "prior": list(astuple(self.prior))})

    @classmethod
    def load(cls, path: Place) -> "Table":
        """The table in a file, which may come from anybody.

        Raises:
          ValueError: it is not there, of another schema, damaged, or says what cannot be; naming the file and why.
        """
        return read_record(path, KIND, READERS, _table)


def _table(fields: dict) -> Table:
    if len(fields["prior"]) != 2:
        raise ValueError(f"its prior must be two numbers, successes and failures; found {len(fields['prior'])}")
    counts = {name: np.array(fields[name], np.int64) for name in ("attempts", "successes")}
    return Table(**{**fields, **counts, "prior": Prior(*fields["prior"])})
