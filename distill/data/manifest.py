"""A manifest: the name, the content and the origin of a corpus, so that a figure can say what it was measured on."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, NotRequired, Protocol, TypedDict, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")


class Document(TypedDict):
    """A document as a loader reads it: text, or a question (its text) and the answer, about images or not."""

    text: bytes
    domain: str
    images: NotRequired[UInt8[np.ndarray, "n y x 3"]]
    """red, green and blue of every image; the frames of a video are images"""
    answer: NotRequired[bytes]
    """what is to be learned, where the text is a question"""
    pieces: NotRequired[list[tuple[str, int]]]
    """where the domain changes inside the text: the domain and the bytes of every piece of it; no token spans two"""


@runtime_checkable
class Documents(Protocol):
    """A random-access source of documents."""

    def __len__(self) -> int:
        """Number of documents."""
        ...

    def __getitem__(self, index: int) -> Document:
        """The document at `index`."""
        ...


@dataclass(frozen=True)
class Drawn:
    """Some of the documents of a source."""

    documents: Documents
    places: Int[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Document:
        return self.documents[int(self.places[index])]


@dataclass(frozen=True)
class Count:
    """How much text there is."""

    documents: int = 0
    bytes: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.documents + other.documents, self.bytes + other.bytes)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a corpus is. Two corpora with the same `hash` give the same batches."""

    name: str
    """the kind of source"""
    hash: str
    """first 12 hex digits of `sha256`: the short name a figure carries"""
    sha256: str
    """of all documents in order, or of what stands for them (`basis`)"""
    basis: str
    """what `sha256` is computed from"""
    splits: dict[Split, dict[str, Count]]
    """documents and bytes by split and domain"""
    version: str = ""
    """of the code that built the corpus"""
    pins: dict[str, str] = field(default_factory=dict)
    """versions of what the text was read from"""
    licences: dict[str, str] = field(default_factory=dict)
    """of what the text was read from"""
    shared_lines: float | None = None
    """share of the held-out split's long lines that also stand in the training split; None where not measured"""
    files: dict[str, int] = field(default_factory=dict)
    """bytes of every file of the stored corpus"""

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains of the training split, in the order of their numbers."""
        return tuple(sorted(self.splits["train"]))

    def to_json(self) -> str:
        """Text of manifest.json."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Inverse of `to_json`.

        Raises:
          ValueError: the text is not a manifest.
        """
        try:
            fields = json.loads(text)
            splits = {s: {d: Count(**count) for d, count in by.items()} for s, by in fields.pop("splits").items()}
            return cls(splits=splits, **fields)
        except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a manifest: {error!r}") from error


def fingerprint(parts: Iterable[str | bytes]) -> str:
    """sha256 (hex) of a sequence of strings; where one ends and the next begins counts."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file below a folder but its manifest, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / "manifest.json")
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
