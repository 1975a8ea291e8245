"""Documents that lie in files: found, checked and sorted into splits once, then read one at a time."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.data.manifest import SPLITS, Count, Document, Manifest, Split, fingerprint

LONGEST = 65_536
"""bytes; a longer file is read in several pieces, cut between lines"""


@dataclass(frozen=True)
class Span:
    """Where a document lies."""

    path: str
    start: int
    size: int
    digest: str
    """of the text that decides the split; what has the same text has the same split"""


class Spans:
    """A random-access source of documents in files."""

    def __init__(self, spans: Sequence[Span], field: str | None) -> None:
        """Documents at `spans`: the bytes there, or `field` of the JSON object there."""
        self._paths = sorted({span.path for span in spans})
        number = {path: i for i, path in enumerate(self._paths)}
        self._table = np.array([(number[s.path], s.start, s.size) for s in spans], np.int64)
        self._field = field

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Document:
        path, start, size = self._table[index]
        with open(self._paths[path], "rb") as file:
            file.seek(start)
            raw = file.read(size)
        text = raw if self._field is None else json.loads(raw)[self._field].encode("utf-8", "replace")
        return {"text": text, "domain": "text"}


@dataclass(frozen=True)
class Index:
    """Documents in files, by split."""

    splits: dict[Split, list[Span]]

    @classmethod
    def of(cls, spans: Sequence[Span], held_out: float, where: str) -> "Index":
        """Sort spans into splits by the hash of their text: `held_out` is the share of texts to hold out.

        Raises:
          ValueError: `held_out` is not a share, or there are fewer than two different texts.
        """
        if not 0 < held_out < 1:
            raise ValueError(f"held_out is {held_out}; it must be a share of the documents, between 0 and 1")
        digests = sorted({span.digest for span in spans})
        if len(digests) < 2:
            raise ValueError(
                f"{where} holds {len(digests)} different document(s); at least 2 are needed, one to train on and one "
                f"to hold out: add documents, or cut a long file into several (split -C 64k FILE PART-)"
            )
        # A threshold keeps a document's split when others come and go; the clip leaves no split empty.
        below = sum(int(digest[:8], 16) < held_out * 2**32 for digest in digests)
        chosen = set(digests[: min(max(below, 1), len(digests) - 1)])
        return cls(
            {
                "train": [span for span in spans if span.digest not in chosen],
                "held_out": [span for span in spans if span.digest in chosen],
            }
        )

    def manifest(self, name: str) -> Manifest:
        """What the documents are."""
        sha256 = fingerprint(
            part for split in SPLITS for span in self.splits[split] for part in (split, span.digest, str(span.start))
        )
        return Manifest(
            name=name,
            hash=sha256[:12],
            sha256=sha256,
            basis="split and hash of the text of every document in order",
            splits={split: {"text": Count(len(s), sum(x.size for x in s))} for split, s in self.splits.items()},
        )


def scan_folder(folder: Path, pattern: str) -> list[Span]:
    """Spans of every different file that matches `pattern`, in the order of their paths.

    Raises:
      ValueError: there is no such folder, or no text in it.
    """
    if not folder.is_dir():
        what = "is a file; name the folder it is in, or read it with Jsonl" if folder.exists() else "does not exist"
        raise ValueError(f"Folder: {folder} {what}")
    paths = sorted((path for path in folder.glob(pattern) if path.is_file()), key=lambda path: path.as_posix())
    spans: list[Span] = []
    seen: set[str] = set()
    for path in paths:
        raw = path.read_bytes()
        digest = hashlib.sha256(raw.strip()).hexdigest()
        if raw.strip() and digest not in seen:
            spans += (Span(str(path), start, stop - start, digest) for start, stop in _cuts(raw))
        seen.add(digest)
    if not spans:
        found = sorted({path.suffix or path.name for path in folder.rglob("*") if path.is_file()})
        raise ValueError(
            f"Folder: no text in the {len(paths)} file(s) of {folder} that match {pattern!r}; "
            f"kinds of file there: {', '.join(found[:10]) or 'none'}; set pattern, for example '**/*.md'"
        )
    return spans


def scan_jsonl(path: Path, field: str) -> list[Span]:
    """Spans of every line of a JSON Lines file whose text is new, in the order of the file.

    Raises:
      ValueError: no such file; a line that is no JSON object or has no text at `field`, by its number; no text at all.
    """
    if not path.is_file():
        what = "is a folder; name a file in it, or read it with Folder" if path.exists() else "does not exist"
        raise ValueError(f"Jsonl: {path} {what}")
    spans: list[Span] = []
    seen: set[str] = set()
    start = 0
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            if raw.strip():
                text = _text_of(raw, field, f"Jsonl: line {number} of {path}").strip()
                digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
                if text and digest not in seen:
                    spans.append(Span(str(path), start, len(raw), digest))
                seen.add(digest)
            start += len(raw)
    if not spans:
        raise ValueError(f"Jsonl: no line of {path} holds text at {field!r}")
    return spans


def _text_of(raw: bytes, field: str, where: str) -> str:
    try:
        record = json.loads(raw)
    except ValueError as error:  # bad JSON, or not UTF-8
        raise ValueError(f"{where} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where} is a {type(record).__name__}; it must be an object with a field {field!r}")
    if field not in record:
        raise ValueError(
            f"{where} has no field {field!r}; its fields are {', '.join(map(repr, record)) or 'none'}; set field"
        )
    if not isinstance(record[field], str):
        raise ValueError(f"{where}: field {field!r} is a {type(record[field]).__name__}; it must be a string")
    return record[field]


def _cuts(raw: bytes) -> Iterator[tuple[int, int]]:
    """Pieces (start, stop) of at most `LONGEST` bytes, cut after a line where there is one."""
    start = 0
    while len(raw) - start > LONGEST:
        stop = raw.rfind(b"\n", start, start + LONGEST) + 1 or start + LONGEST
        yield start, stop
        start = stop
    yield start, len(raw)
