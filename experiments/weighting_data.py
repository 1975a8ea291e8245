"""The text of `experiments.dynamic_weighting`: two languages, of which a teacher may know one, and labels that may lie.

The languages are the default corpus and the same under a fixed substitution cipher of its printable characters: of
equal entropy and structure, and unreadable to whoever learned the other.
"""

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal

import numpy as np

from distill.data.batch import Batch
from distill.data.manifest import SPLITS, Count, Document, Documents, Manifest, Split, fingerprint
from distill.data.source import Herd, Source

Mix = Literal["plain", "apart", "fixed", "random", "fixed-known", "random-known"]
Part = Literal["choose", "report"]
LETTERS = np.arange(33, 127, dtype=np.uint8)
"""the characters that the cipher permutes; spaces and line ends stay"""


@cache
def cipher() -> bytes:
    """A table for `bytes.translate`."""
    table = np.arange(256, dtype=np.uint8)
    table[LETTERS] = np.random.default_rng(2024).permutation(LETTERS)
    return table.tobytes()


@dataclass(frozen=True, kw_only=True)
class Languages:
    """A corpus in one language or two.

    Attributes:
      mix: `plain`: the corpus as it is; `apart`: every second document in cipher; `fixed`, `random`: the language
        changes inside every document, every `every` bytes or after lengths drawn around it; `-known`: the same text,
        and every position has its language as its domain.
      part: which half of the held-out documents is looked at: settings are chosen on one, reported on the other.
    """

    mix: Mix = "plain"
    every: int = 32
    part: Part = "report"
    source: Source = field(default_factory=Herd)

    def documents(self, split: Split) -> Documents:
        """The documents, some of them or parts of them in cipher."""
        return _Documents(self, split, self.source.documents(split))

    def manifest(self) -> Manifest:
        """Counts of the documents; the hash follows from the corpus and from what is done to it."""
        own = self.source.manifest()
        sha256 = fingerprint([own.sha256, repr(replace(self, source=None)), cipher()])  # pyright: ignore[reportArgumentType]
        splits: dict[Split, dict[str, Count]] = {}
        for split in SPLITS:
            found = self.documents(split)
            names = ("cipher", "plain") if self.mix in ("apart", "fixed-known", "random-known") else (self.mix,)
            splits[split] = {name: Count(len(found) // len(names)) for name in names}
        return Manifest(
            name=f"languages-{self.mix}",
            hash=sha256[:12],
            sha256=sha256,
            basis="the corpus's hash, the mixture and the cipher",
            splits=splits,
        )


@dataclass(frozen=True)
class _Documents:
    languages: Languages
    split: Split
    documents: Documents

    def __len__(self) -> int:
        return len(self.documents) // (2 if self.split == "held_out" else 1)

    def __getitem__(self, index: int) -> Document:
        one = self.languages
        if self.split == "held_out":
            index = 2 * index + (one.part == "report")
        text = self.documents[index]["text"]
        if one.mix == "plain":
            return {"text": text, "domain": "plain"}
        if one.mix == "apart":
            secret = (index // (2 if self.split == "held_out" else 1)) % 2 == 1
            return {"text": text.translate(cipher()) if secret else text, "domain": "cipher" if secret else "plain"}
        random = np.random.default_rng([index, self.split == "train"])
        parts: list[bytes] = []
        start = 0
        while start < len(text):
            size = one.every if one.mix.startswith("fixed") else int(random.integers(1, 2 * one.every))
            piece = text[start : start + size]
            parts.append(piece.translate(cipher()) if len(parts) % 2 else piece)
            start += size
        found: Document = {"text": b"".join(parts), "domain": one.mix}
        if one.mix.endswith("-known"):
            found["pieces"] = [(("plain", "cipher")[n % 2], len(part)) for n, part in enumerate(parts)]
        return found


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Labels that are another byte with some probability; inputs stay as they are.

    Attributes:
      rate: probability of a wrong label.
      kind: `uniform`: any printable character; `next`: a letter becomes the next in the alphabet.
      domain: number of the domain that it befalls; None: all.
    """

    rate: float = 0.2
    kind: Literal["uniform", "next"] = "uniform"
    domain: int | None = None

    def __call__(self, batch: Batch) -> Batch:
        """The batch with its labels changed; what is random follows from its tokens."""
        labels, tokens = np.asarray(batch.labels), np.asarray(batch.tokens)
        random = np.random.default_rng(np.frombuffer(tokens.tobytes(), np.uint32).sum(dtype=np.uint64))
        struck = (random.random(labels.shape) < self.rate) & np.asarray(batch.mask)
        if self.domain is not None and batch.domains is not None:
            struck &= np.asarray(batch.domains) == self.domain
        letter = (labels >= 97) & (labels <= 122)
        if self.kind == "uniform":
            wrong = random.integers(32, 127, labels.shape)
        else:
            wrong, struck = np.where(labels == 122, 97, labels + 1), struck & letter
        return replace(batch, labels=np.where(struck, wrong, labels).astype(np.int32))  # pyright: ignore[reportArgumentType]
