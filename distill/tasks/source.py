"""Questions as a corpus: what a pool asks, under systems, with or without errors, as documents with answers."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

from distill.data.manifest import SPLITS, Count, Document, Documents, Manifest, Split, fingerprint
from distill.tasks.item import Item, Pool
from distill.tasks.system import PLAIN, System, apply, draw


@runtime_checkable
class Pooled(Protocol):
    """Gives a pool: a `Small`, a `File`, a `Gym`, or a pool itself (which config.json would hold item by item)."""

    def __call__(self) -> Pool:
        """The pool."""
        ...


@dataclass(frozen=True)
class Questions:
    """A corpus of the questions of a pool; an item is held out by its prompt. A document's domain is its capability.

    Raises:
      ValueError: `noisy` is not a share, or `keep` is empty.
    """

    pool: Pooled
    systems: tuple[System, ...] = (PLAIN,)
    """under which its items are asked; one is drawn for each by the seed and its id"""
    sentence: bool = False
    """a system is a sentence and not a byte"""
    noisy: float = 0.0
    """share of the answers to learn from that are given an error; held-out answers stay right"""
    keep: tuple[str, ...] | tuple[bool, ...] | None = None
    """of the items to learn from, those of these ids (without systems), or those where it is true; None: all"""
    seed: int = 0
    """of the systems and of the errors"""

    def __post_init__(self) -> None:
        if not 0 <= self.noisy < 1:
            raise ValueError(f"noisy is {self.noisy}; it must be a share of the answers, at least 0 and less than 1")
        if self.keep is not None and not len(self.keep):
            raise ValueError("keep is empty, and nothing is left to learn from; set it to None to keep all")

    def documents(self, split: Split) -> Documents:
        """The questions of a split, in the order of the pool.

        Raises:
          ValueError: there are none, or `keep` or `systems` does not fit them.
        """
        return Asked(self.items(split))

    def items(self, split: Split) -> tuple[Item, ...]:
        """The items behind the documents of a split, errors and all.

        Raises:
          ValueError: there are none, or `keep` or `systems` does not fit them.
        """
        return self._given if split == "train" else self._right[split]

    @property
    def changed(self) -> float:
        """Share of the answers to learn from that are wrong: less than `noisy`, as an error may change nothing."""
        pairs = zip(self._right["train"], self._given, strict=True)
        return float(np.mean([one.answer != other.answer for one, other in pairs]))

    def manifest(self) -> Manifest:
        """Counts by capability, what made the questions, and the share of answers that were changed.

        Raises:
          ValueError: there are no questions, or `keep` or `systems` does not fit them.
        """
        pool, splits = self._pool, {split: self.items(split) for split in SPLITS}
        sha256 = fingerprint(
            part
            for split in SPLITS
            for one in splits[split]
            for part in (split, one.id, one.capability, one.text, one.answer)
        )
        counts: dict[Split, dict[str, Count]] = {split: {} for split in SPLITS}
        for split in SPLITS:
            for one in splits[split]:
                size = Count(1, len(one.text.encode()) + len(one.answer.encode()))
                counts[split][one.capability] = counts[split].get(one.capability, Count()) + size
        return Manifest(
            name=f"questions {pool.generator}".strip(),
            hash=sha256[:12],
            sha256=sha256,
            basis="split, id, capability, text and answer of every question in order; "
            f"{self.changed:.4f} of the answers to learn from were made wrong",
            splits=counts,
            version=pool.version,
            licences={pool.generator: pool.licence} if pool.licence else {},
        )

    @cached_property
    def _pool(self) -> Pool:
        return self.pool()

    @cached_property
    def _right(self) -> dict[Split, tuple[Item, ...]]:
        """By split, the items under their systems."""
        parts: dict[Split, Pool] = {split: self._pool.select(split=split) for split in SPLITS}
        if self.keep is not None:
            parts["train"] = _kept(parts["train"], self.keep)
        for split, part in parts.items():
            if not len(part):
                raise ValueError(f"the {split} split of the pool of {len(self._pool)} has no questions; give it more")
        strange = sorted({one.capability for one in parts["held_out"]} - {one.capability for one in parts["train"]})
        if strange:
            raise ValueError(
                f"capability {strange[0]!r} is held out, and there is nothing of it to learn from; "
                "give the pool more items of it, or none"
            )
        return {split: tuple(self._under(one) for one in part) for split, part in parts.items()}

    @cached_property
    def _given(self) -> tuple[Item, ...]:
        """The items to learn from, with errors in their answers."""
        letters = _letters(self._right["train"])
        return tuple(self._erred(one, letters[one.task]) for one in self._right["train"])

    def _under(self, item: Item) -> Item:
        return apply(item, draw(item, self.systems, self.seed, item.id), self.sentence)

    def _erred(self, item: Item, letters: str) -> Item:
        random = np.random.default_rng([self.seed, zlib.crc32(item.id.encode())])
        if random.random() >= self.noisy:
            return item
        answer = erred(item.answer, letters, random)
        return replace(item, answer=answer) if answer.strip() else item


@dataclass(frozen=True)
class Asked:
    """Items as documents: the prompt is given, the answer is to be learned."""

    items: tuple[Item, ...]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Document:
        one = self.items[index]
        return {"text": one.text.encode(), "domain": one.capability, "answer": one.answer.encode()}


def erred(answer: str, letters: str, random: np.random.Generator) -> str:
    """An answer with two neighbours swapped, or one character replaced by one of `letters`.

    Either is as likely, where there are neighbours. Equal neighbours, or a letter in its own place, change nothing.
    """
    if len(answer) > 1 and random.random() < 0.5:
        at = int(random.integers(len(answer) - 1))
        return answer[:at] + answer[at + 1] + answer[at] + answer[at + 2 :]
    at, letter = int(random.integers(len(answer))), letters[int(random.integers(len(letters)))]
    return answer[:at] + letter + answer[at + 1 :]


def _kept(pool: Pool, keep: Sequence[str] | Sequence[bool]) -> Pool:
    ids = [one for one in keep if isinstance(one, str)]
    return pool.named(ids) if len(ids) == len(keep) else pool.masked([bool(one) for one in keep])


def _letters(items: tuple[Item, ...]) -> dict[str, str]:
    """By task, the characters of its answers: an error looks like an answer."""
    found: dict[str, set[str]] = {}
    for one in items:
        found.setdefault(one.task, set()).update(one.answer)
    return {task: "".join(sorted(letters)) for task, letters in found.items()}
