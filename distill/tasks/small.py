"""Tasks of our own that a model of 0.2 million weights learns in minutes: a letter, the material, `=`.

    Rtgur=      rugt        a word backwards                                        strings
    O71484=     14478       digits in order                                         ordering
    Z47+85=     231         a sum, its last digit first, as carrying goes           arithmetic
    K2xyz=      zab         every letter moved on in the alphabet                   ciphers
    Xbabcb=     ac          the rest of the word, without its first letter          editing
    Dabc=       aabbcc      every letter twice                                      editing

Prompts have at most 11 characters, answers at most 10. Each level has at least 96 prompts to hold out, so that its
share of right answers is known to about 0.05. Left out on purpose, as eight guesses are right more often than not and
pass@8 then means nothing: comparisons and other yes or no, greatest common divisors, parity, counts. Left out for want
of prompts: sums of two one-digit numbers (100, of which 12 are held out) and numbers of few bits. The easiest sums kept
have 28 answers, the eight commonest of which are right 56 times in 100: their pass@8 is to be read with that in mind.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from distill.data.manifest import SPLITS, Split
from distill.tasks.item import Item, Pool, split_of

VERSION = "1"
"""changes when a seed means other items"""
LETTERS = "abcdefghijklmnopqrstuvwxyz"
Range = tuple[int, int]
"""least and most, both among them"""


@runtime_checkable
class Task(Protocol):
    """Draws questions of a level."""

    @property
    def capability(self) -> str:
        """What it takes."""
        ...

    @property
    def levels(self) -> tuple[object, ...]:
        """What sets the levels apart, the easiest first."""
        ...

    def __call__(self, level: int, random: np.random.Generator) -> tuple[str, str]:
        """A prompt and its answer."""
        ...


@dataclass(frozen=True)
class Reverse:
    """A word backwards."""

    levels: tuple[Range, ...] = ((3, 4), (5, 6), (7, 9))
    """letters"""
    capability: str = "strings"

    def __call__(self, level: int, random: np.random.Generator) -> tuple[str, str]:
        """A prompt and its answer."""
        word = _word(LETTERS, self.levels[level], random)
        return f"R{word}=", word[::-1]


@dataclass(frozen=True)
class Sort:
    """Digits in order, the smallest first."""

    levels: tuple[Range, ...] = ((3, 4), (5, 6), (7, 9))
    """digits"""
    capability: str = "ordering"

    def __call__(self, level: int, random: np.random.Generator) -> tuple[str, str]:
        """A prompt and its answer."""
        digits = _word("0123456789", self.levels[level], random)
        return f"O{digits}=", "".join(sorted(digits))


@dataclass(frozen=True)
class Add:
    """A sum, its last digit first."""

    levels: tuple[tuple[int, ...], ...] = ((1, 1, 1), (2, 1), (2, 2))
    """digits of the terms, in any order"""
    capability: str = "arithmetic"

    def __call__(self, level: int, random: np.random.Generator) -> tuple[str, str]:
        """A prompt and its answer."""
        sizes = random.permutation(self.levels[level]).tolist()
        terms = [int(random.integers(10 ** (size - 1) if size > 1 else 0, 10**size)) for size in sizes]
        return f"Z{'+'.join(map(str, terms))}=", str(sum(terms))[::-1]


@dataclass(frozen=True)
class Caesar:
    """Every letter moved on in the alphabet, from z to a."""

    levels: tuple[tuple[Range, Range], ...] = (((1, 2), (2, 3)), ((1, 2), (4, 5)), ((1, 3), (6, 7)))
    """how far, and letters"""
    capability: str = "ciphers"

    def __call__(self, level: int, random: np.random.Generator) -> tuple[str, str]:
        """A prompt and its answer."""
        shifts, sizes = self.levels[level]
        shift, word = _within(shifts, random), _word(LETTERS, sizes, random)
        moved = LETTERS[shift:] + LETTERS[:shift]
        return f"K{shift}{word}=", word.translate(str.maketrans(LETTERS, moved))


@dataclass(frozen=True)
class Remove:
    """A word without any of the letter that stands before it; there is one in it, and something else."""

    levels: tuple[Range, ...] = ((3, 4), (5, 6), (7, 8))
    """letters"""
    capability: str = "editing"

    def __call__(self, level: int, random: np.random.Generator) -> tuple[str, str]:
        """A prompt and its answer."""
        gone = _word(LETTERS, (1, 1), random)
        size = _within(self.levels[level], random)
        there = random.random(size) < 0.4
        there[random.permutation(size)[:2]] = (True, False)
        others = _word(LETTERS.replace(gone, ""), (size, size), random)
        word = "".join(gone if is_gone else other for is_gone, other in zip(there, others, strict=True))
        return f"X{gone}{word}=", word.replace(gone, "")


@dataclass(frozen=True)
class Double:
    """Every letter of a word twice."""

    levels: tuple[Range, ...] = ((3, 3), (4, 4), (5, 5))
    """letters"""
    capability: str = "editing"

    def __call__(self, level: int, random: np.random.Generator) -> tuple[str, str]:
        """A prompt and its answer."""
        word = _word(LETTERS, self.levels[level], random)
        return f"D{word}=", "".join(letter * 2 for letter in word)


TASKS: dict[str, Task] = {
    "reverse": Reverse(),
    "sort": Sort(),
    "add": Add(),
    "caesar": Caesar(),
    "remove": Remove(),
    "double": Double(),
}


def item(task: str, level: int, seed: int, index: int) -> Item:
    """Question number `index` of a task, level and seed: it follows from these alone. Two indices may ask the same.

    Raises:
      ValueError: there is no such task or level, or a seed or index below 0.
    """
    _check(task, level)
    if seed < 0 or index < 0:
        raise ValueError(f"seed is {seed} and index {index}; both must be 0 or more")
    return _item(task, level, seed, index, *_drawn(task, level, seed, index))


@dataclass(frozen=True, kw_only=True)
class Small:
    """A pool of these tasks: every level of each, so many different questions of each split."""

    tasks: tuple[str, ...] = ("reverse", "sort", "add")
    levels: tuple[int, ...] = (0, 1, 2)
    train: int = 400
    """to learn from, of every task and level; a level that has fewer gives all that are found"""
    held_out: int = 96
    """to be asked, of every task and level"""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("train", "held_out", "seed"):
            if vars(self)[name] < 0:
                raise ValueError(f"{name} is {vars(self)[name]}; it must be 0 or more")

    def __call__(self) -> Pool:
        """The pool: task by task, level by level, in the order in which they were drawn.

        Raises:
          ValueError: there is no such task or level, or it has fewer prompts to hold out.
        """
        items = (one for task in self.tasks for level in self.levels for one in self._of(task, level))
        return Pool(tuple(items), "distill.tasks.small", VERSION, "Apache-2.0")

    def _of(self, task: str, level: int) -> Iterator[Item]:
        _check(task, level)
        wanted: dict[Split, int] = {"train": self.train, "held_out": self.held_out}
        found: dict[Split, int] = {split: 0 for split in SPLITS}
        seen: set[str] = set()
        # One in eight is held out. Where most were seen, a dozen draws for each more find nearly all there are.
        # One in eight is held out; where most of a small space was seen, it takes some more draws to find another.
        for index in range(1000 + 4 * self.train + 40 * self.held_out):
            prompt, answer = _drawn(task, level, self.seed, index)
            split = split_of(prompt)
            if prompt not in seen and found[split] < wanted[split]:
                seen.add(prompt)
                found[split] += 1
                yield _item(task, level, self.seed, index, prompt, answer)
            if found == wanted:
                return
        if found["held_out"] < self.held_out:
            raise ValueError(
                f"{task} level {level} has {found['held_out']} prompts to hold out among those drawn, asked for "
                f"{self.held_out}; set held_out to at most {found['held_out']}"
            )


def _check(task: str, level: int) -> None:
    if task not in TASKS or not 0 <= level < len(TASKS[task].levels):
        known = ", ".join(f"{name} 0 to {len(one.levels) - 1}" for name, one in TASKS.items())
        raise ValueError(f"there is no level {level} of the task {task!r}; there are {known}")


def _drawn(task: str, level: int, seed: int, index: int) -> tuple[str, str]:
    return TASKS[task](level, np.random.default_rng([seed, zlib.crc32(task.encode()), level, index]))


def _item(task: str, level: int, seed: int, index: int, prompt: str, answer: str) -> Item:
    id = f"{task}/{level}/{seed}.{index:05}"
    return Item(id=id, capability=TASKS[task].capability, task=task, level=level, prompt=prompt, answer=answer)


def _within(range: Range, random: np.random.Generator) -> int:
    return int(random.integers(range[0], range[1] + 1))


def _word(alphabet: str, sizes: Range, random: np.random.Generator) -> str:
    places = random.integers(len(alphabet), size=_within(sizes, random))
    return "".join(alphabet[place] for place in places.tolist())
