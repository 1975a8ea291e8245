"""Small tasks whose answers can be checked: words to reverse, digits to sort, numbers to add from their last digit on.

    Rpwtgh=  hgtwp        O71484=  14478        Z47+85=  231

Prompts are drawn by a seed; a prompt is held out by the hash of its text, so that no seed trains on what another is
asked. Right is an answer that is equal in every character and ends there.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from distill.data.manifest import SPLITS, Count, Document, Documents, Manifest, Split, fingerprint
from distill.state import Weights
from models.request import Request
from models.sampler import Sampler
from models.sampling import Sampling
from models.tokenizer import Bytes

LETTERS, DIGITS = b"abcdefghijklmnopqrstuvwxyz", b"0123456789"
LENGTH = 24
"""tokens of a row: the longest prompt and answer, and room for some that are longer"""


def reverse(random: np.random.Generator) -> tuple[bytes, bytes]:
    """5 to 8 letters, to be read backwards."""
    word = bytes(random.choice(list(LETTERS), random.integers(5, 9)).tolist())
    return b"R" + word + b"=", word[::-1]


def sort(random: np.random.Generator) -> tuple[bytes, bytes]:
    """5 to 8 digits, to be put in order."""
    digits = bytes(random.choice(list(DIGITS), random.integers(5, 9)).tolist())
    return b"O" + digits + b"=", bytes(sorted(digits))


def add(random: np.random.Generator) -> tuple[bytes, bytes]:
    """Two numbers of one or two digits; the sum, its last digit first, as carrying goes."""
    one, two = (int(random.integers(10**n)) for n in random.integers(1, 3, 2))
    return f"Z{one}+{two}=".encode(), str(one + two)[::-1].encode()


TASKS = {"reverse": reverse, "sort": sort, "add": add}


def compose(split: Split, index: int, seed: int) -> tuple[str, bytes, bytes]:
    """Task, prompt and answer number `index` of a split, of a seed."""
    names = tuple(TASKS)
    name, random = names[index % len(names)], np.random.default_rng([seed, index, SPLITS.index(split)])
    while True:
        prompt, answer = TASKS[name](random)
        if (zlib.crc32(prompt) % 8 == 0) == (split == "held_out"):
            return name, prompt, answer


@dataclass(frozen=True)
class Reasoning:
    """A corpus of such questions and answers, made as they are read."""

    count: int = 30000
    """questions to learn from"""
    held: int = 1536
    """questions to look at"""
    seed: int = 0
    """of the questions; another seed asks others, of the same split"""

    def documents(self, split: Split) -> Documents:
        """The questions of a split, task by task in turn."""
        return Questions(split, self.count if split == "train" else self.held, self.seed)

    def manifest(self) -> Manifest:
        """Counts; the hash is of the first hundred questions of each split, of which the rest follow."""
        texts = [part for split in SPLITS for i in range(100) for part in compose(split, i, self.seed)[1:]]
        sha256 = fingerprint([*texts, f"{self.count} {self.held}"])
        return Manifest(
            name="reasoning",
            hash=sha256[:12],
            sha256=sha256,
            basis="the first hundred questions of each split, and how many there are",
            splits={"train": {"text": Count(self.count)}, "held_out": {"text": Count(self.held)}},
        )


@dataclass(frozen=True)
class Questions:
    """The questions of a split as documents."""

    split: Split
    count: int
    seed: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Document:
        _, prompt, answer = compose(self.split, index, self.seed)
        return {"text": prompt, "domain": "text", "answer": answer}


@dataclass(frozen=True)
class Exam:
    """Held-out questions, answered by the likeliest token each time."""

    questions: int
    seed: int = 0
    """of the questions, as in `Reasoning`"""

    def __call__(self, weights: Weights) -> dict[str, float]:
        """Share of right answers, by task and their mean."""
        tokenizer = Bytes()
        asked, sampler = self._asked, self._sampler
        requests = [
            Request(prompt=i, sample=0, tokens=tokenizer.document(prompt)[:-1], limit=LENGTH - len(prompt))
            for i, (_, prompt, _) in enumerate(asked)
        ]
        right: dict[str, list[bool]] = {name: [] for name in TASKS}
        for one in sampler(weights.model, requests, weights.bias):
            name, _, answer = asked[one.prompt]
            right[name].append(is_right(one.tokens.tolist(), answer))
        shares = {name: float(np.mean(found)) for name, found in right.items()}
        return shares | {"mean": float(np.mean(list(shares.values())))}

    @cached_property
    def _asked(self) -> Sequence[tuple[str, bytes, bytes]]:
        return [compose("held_out", i, self.seed) for i in range(self.questions)]

    @cached_property
    def _sampler(self) -> Sampler:
        return Sampler(slots=64, capacity=LENGTH + 1, piece=16, stride=16, sampling=Sampling(temperature=0.0),
                       stop=(Bytes().end,))  # fmt: skip


def is_right(tokens: list[int], answer: bytes) -> bool:
    """Whether a completion is this answer, to the last character, and ends."""
    return tokens == [*answer, Bytes().end]
