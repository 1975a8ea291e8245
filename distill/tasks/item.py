"""An item: one question with one right answer. A pool: items that are all different, in two splits."""

import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool

from distill.data.manifest import Split, fingerprint

LONGEST = 65_536
"""characters of a text of an item, at most"""
LEVELS = 100
"""a level is below this"""
NAME = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,62}[a-z0-9])?")
"""what capabilities, tasks and systems are called: they become names of metrics, so no `/`"""
ID = re.compile(r"[!-~]{1,200}")
"""an id is printable and without spaces"""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question with one right answer.

    Raises:
      ValueError: a name, an id, a level or a text that cannot be one.
    """

    id: str
    """stable, and unique in a pool: `reverse/1/0.00042`"""
    capability: str
    """what it takes: `strings`, `ordering`, `arithmetic`; the domain of its document"""
    task: str
    level: int
    """0 is the easiest"""
    prompt: str
    """the question alone, without what a system says before it: by this it is held out or not"""
    answer: str
    """the right one"""
    system: str = ""
    """name of the system whose word goes before the prompt and has changed the answer (`distill.tasks.system`)"""
    prefix: str = ""
    """that word"""
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """what else a scorer wants to know; JSON's types"""

    def __post_init__(self) -> None:
        if not ID.fullmatch(self.id):
            raise ValueError(f"id is {self.id[:80]!r}; it must be 1 to 200 printable ASCII characters without spaces")
        names = {"capability": self.capability, "task": self.task} | ({"system": self.system} if self.system else {})
        for name, value in names.items():
            if not NAME.fullmatch(value):
                raise ValueError(
                    f"item {self.id}: {name} is {value[:80]!r}; it must be a name of lower-case letters, digits, _ . -"
                )
        if isinstance(self.level, bool) or not 0 <= self.level < LEVELS:
            raise ValueError(f"item {self.id}: level is {self.level}; it must be 0 to {LEVELS - 1}, 0 the easiest")
        for name, value in (("prompt", self.prompt), ("answer", self.answer)):
            if not value.strip():
                raise ValueError(f"item {self.id}: {name} is {value[:80]!r}; it must have text in it")
        for name, value in (("prompt", self.prompt), ("answer", self.answer), ("prefix", self.prefix)):
            if len(value) > LONGEST:
                raise ValueError(f"item {self.id}: {name} has {len(value)} characters; it must have at most {LONGEST}")
            if any("\ud800" <= one <= "\udfff" for one in value):
                raise ValueError(f"item {self.id}: {name} holds a lone surrogate, which no UTF-8 text can; replace it")

    @property
    def text(self) -> str:
        """What a model reads: the word of the system, and the prompt."""
        return self.prefix + self.prompt

    @property
    def split(self) -> Split:
        """By the prompt alone (`split_of`): no seed trains on what another is asked, under no system."""
        return split_of(self.prompt)

    @property
    def question(self) -> dict[str, Any]:
        """What a scorer is told: `id`, `capability`, `task`, `level`, `prompt`, `answer`, `system`, `metadata`."""
        names = ("id", "capability", "task", "level", "prompt", "answer", "system", "metadata")
        return {name: vars(self)[name] for name in names}


def split_of(prompt: str) -> Split:
    """`held_out` for one prompt in eight, by the CRC-32 of its UTF-8."""
    return "held_out" if zlib.crc32(prompt.encode()) % 8 == 0 else "train"


@dataclass(frozen=True)
class Pool:
    """A sequence of items whose ids and texts are all different, and where they come from.

    Raises:
      ValueError: two items have one id, or ask the same.
    """

    items: tuple[Item, ...]
    generator: str = ""
    """name of what made them"""
    version: str = ""
    """of the generator"""
    licence: str = ""

    def __post_init__(self) -> None:
        ids: set[str] = set()
        texts: dict[str, str] = {}
        for item in self.items:
            if item.id in ids:
                raise ValueError(f"two items have the id {item.id!r}; ids must be unique: rename one")
            if item.text in texts:
                raise ValueError(
                    f"items {texts[item.text]!r} and {item.id!r} ask the same, {item.text[:80]!r}; leave one out"
                )
            ids.add(item.id)
            texts[item.text] = item.id

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        return self.items[index]

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __call__(self) -> "Pool":
        """Itself: where something that makes a pool is wanted, a pool will do."""
        return self

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of the ids, names, levels, texts and answers, in order."""
        return fingerprint(
            part
            for one in self.items
            for part in (one.id, one.capability, one.task, str(one.level), one.prefix, one.prompt, one.answer)
        )

    def select(
        self,
        *,
        split: Split | None = None,
        capabilities: Collection[str] | None = None,
        tasks: Collection[str] | None = None,
        levels: Collection[int] | None = None,
    ) -> "Pool":
        """The items of a split, of some capabilities, tasks and levels, in order; None is all. It may be empty."""
        return self._of(
            item
            for item in self.items
            if (split is None or item.split == split)
            and (capabilities is None or item.capability in capabilities)
            and (tasks is None or item.task in tasks)
            and (levels is None or item.level in levels)
        )

    def masked(self, mask: Sequence[bool] | Bool[np.ndarray, "n"]) -> "Pool":
        """The items where `mask` [n] is true.

        Raises:
          ValueError: it is not as long as the pool.
        """
        if len(mask) != len(self):
            raise ValueError(
                f"the mask has {len(mask)} values, the pool {len(self)} items; give one for each, in order"
            )
        return self._of(item for item, kept in zip(self.items, mask, strict=True) if kept)

    def named(self, ids: Collection[str]) -> "Pool":
        """The items of these ids, in the order of the pool.

        Raises:
          ValueError: an id is not in it.
        """
        wanted = set(ids)
        strange = sorted(wanted - {item.id for item in self.items})
        if strange:
            raise ValueError(
                f"{len(strange)} id(s) are not in the pool, {strange[0]!r} first; ask for ids of this pool"
            )
        return self._of(item for item in self.items if item.id in wanted)

    def _of(self, items: Iterator[Item]) -> "Pool":
        return Pool(tuple(items), self.generator, self.version, self.licence)
