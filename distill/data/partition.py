"""Passages into splits: what is held out, what is the same, what is shared in spite of it."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from distill.data.manifest import Split

HELD_OUT = 60
"""files in a thousand that are held out"""


@dataclass(frozen=True)
class Passage:
    """A document of the corpus."""

    source: str
    """tree and path of the file it comes from"""
    domain: str
    """`code` or `docs`"""
    text: str


def split_of(source: str) -> Split:
    """The split a file belongs to, by its path alone: the same on every machine and in every version."""
    return "held_out" if int(hashlib.sha256(source.encode()).hexdigest()[:8], 16) % 1000 < HELD_OUT else "train"


def partition(passages: Iterable[Passage]) -> dict[Split, list[Passage]]:
    """Sort passages into splits and drop repeated ones.

    Two passages are the same if their words are: white space does not count. The held-out split keeps its copy, so
    none of its passages is in the training split. Passages that differ in a single word are both kept, in whichever
    split they fall; `shared_lines` measures what that leaves in common.
    """
    splits: dict[Split, list[Passage]] = {"held_out": [], "train": []}
    for passage in passages:
        splits[split_of(passage.source)].append(passage)
    seen: set[bytes] = set()
    return {split: [p for p in kept if _first(p.text, seen)] for split, kept in splits.items()}


def shared_lines(splits: dict[Split, list[Passage]], shortest: int = 40) -> float:
    """Share of the held-out split's lines of at least `shortest` characters that also stand in the training split."""
    known = {line for p in splits["train"] for line in map(str.strip, p.text.splitlines()) if len(line) >= shortest}
    lines = [line for p in splits["held_out"] for line in map(str.strip, p.text.splitlines()) if len(line) >= shortest]
    return round(sum(line in known for line in lines) / max(len(lines), 1), 4)


def _first(text: str, seen: set[bytes]) -> bool:
    """Whether no text with the same words was seen before; remembers it."""
    digest = hashlib.sha256(" ".join(text.split()).encode()).digest()
    if digest in seen:
        return False
    seen.add(digest)
    return True
