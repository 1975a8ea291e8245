"""The prompts that are drawn from, in an order of their own: every array of this package has a place for each."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress

import numpy as np
from jaxtyping import Bool, Int


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool:
    """Prompts by name, with what is known of them before anybody has tried.

    Raises:
      ValueError: there is none, two share an id, or an array has not one place for each.
    """

    ids: tuple[str, ...]
    """the name of each, by which tables know it"""
    capabilities: tuple[str, ...]
    """what each asks for: `reverse`, `sum`"""
    levels: Int[np.ndarray, "n"]
    """how hard whoever made it meant it to be, from 0; in no scale that capabilities share"""
    content: str = ""
    """changes with what the prompts say, unless ids already do"""

    def __post_init__(self):
        if not self.ids:
            raise ValueError("a pool has no prompts; there must be one at least to draw from")
        check_ids(self.ids)
        if not len(self.ids) == len(self.capabilities) == len(self.levels):
            raise ValueError(
                f"a pool has {len(self.ids)} ids, {len(self.capabilities)} capabilities and {len(self.levels)} levels; "
                "each prompt has one of each"
            )

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits that change with any prompt, and not with their order."""
        return _digest([self.content, sorted(self.ids)])

    @cached_property
    def members(self) -> dict[str, Int[np.ndarray, "m"]]:
        """The places of each capability's prompts; capabilities by name."""
        names = np.array(self.capabilities)
        return {str(name): np.flatnonzero(names == name) for name in np.unique(names)}

    @cached_property
    def kinds(self) -> Int[np.ndarray, "n"]:
        """A number for each: the same for prompts of one capability and level."""
        names = [f"{capability}/{level}" for capability, level in zip(self.capabilities, self.levels, strict=True)]
        return np.unique(names, return_inverse=True)[1]

    def where(self, stays: Bool[np.ndarray, "n"]) -> "Pool":
        """The pool of those that stay.

        Raises:
          ValueError: none does.
        """
        if not np.any(stays):
            raise ValueError(
                f"none of the pool's {len(self.ids)} prompts is left after filtering; lower a filter's share, raise "
                "its attempts, or make prompts of other levels"
            )
        return Pool(
            ids=tuple(compress(self.ids, stays)),
            capabilities=tuple(compress(self.capabilities, stays)),
            levels=self.levels[stays],
            content=self.content,
        )

    def count(self, indices: Int[np.ndarray, "m"]) -> dict[str, int]:
        """How many of the drawn prompts are of each capability and level, as `reverse/2`; for metrics."""
        return dict(sorted(Counter(f"{self.capabilities[i]}/{self.levels[i]}" for i in indices).items()))

    def check(self, what: str, ids: Sequence[str], fingerprint: str) -> None:
        """Refuses what was measured of other prompts than these.

        Args:
          what: the thing that is refused, for its message.
          ids: the prompts that it knows, in any order.
          fingerprint: that of the pool that it was made from.

        Raises:
          ValueError: naming the first prompt that only one of both has, or the fingerprints.
        """
        known, here = set(ids), set(self.ids)
        for found, says in ((here - known, "lacks this pool's"), (known - here, "knows of what is not in this pool,")):
            if found:
                raise ValueError(
                    f"{what} {says} prompt {min(found)!r} (and {len(found) - 1} more); measure this pool, or bring "
                    "back the one that was measured"
                )
        if fingerprint != self.fingerprint:
            raise ValueError(
                f"{what} is of the pool {fingerprint}, this one is {self.fingerprint}: ids are the same, what the "
                "prompts say is not; measure this pool"
            )


def check_ids(ids: Sequence[str]) -> None:
    """Refuses names by which prompts could not be told apart.

    Raises:
      ValueError: an id is empty, cannot be printed, or is there twice.
    """
    for one in ids:
        if not one or not one.isprintable():
            raise ValueError(f"{one!r} is no prompt's id; it must be a word that can be printed")
    if len(set(ids)) < len(ids):
        twice, times = Counter(ids).most_common(1)[0]
        raise ValueError(f"the prompt {twice!r} is there {times} times; an id names one prompt: drop the others")


def find(ids: Sequence[str], wanted: Sequence[str]) -> Int[np.ndarray, "m"]:
    """The places of the wanted prompts among a table's.

    Raises:
      ValueError: one is not there, by name.
    """
    places = {one: i for i, one in enumerate(ids)}
    for one in wanted:
        if one not in places:
            raise ValueError(f"the table has no prompt {one!r}; measure the pool that has it")
    return np.array([places[one] for one in wanted], np.int64)


def order_of(ids: Iterable[str]) -> str:
    """12 hex digits that change with any id, and with their order."""
    return _digest(list(ids))


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]
