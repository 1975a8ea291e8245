"""Documents to batches: shuffled, tokenised, packed into rows; an iterator whose place can be saved and restored."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Shaped

from distill.data.batch import Batch
from distill.data.manifest import Document, Documents, Drawn, Split
from distill.data.packing import joined, read, shared
from distill.data.question import Reader, uncut
from distill.data.source import Source
from distill.data.text import tokenise
from models.tokenizer import Bytes, Tokenizer
from models.tower import Vision


@runtime_checkable
class Batches(Protocol):
    """Endless batches, and the place reached in them. It is a `grain.DatasetIterator`: `grain.checkpoint` takes it."""

    def __iter__(self) -> Iterator[Batch]:
        """Itself."""
        ...

    def __next__(self) -> Batch:
        """The next batch."""
        ...

    def get_state(self) -> dict[str, Any]:
        """The place: small, and fit for JSON."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a place: the next batch is the one that followed it."""
        ...


@runtime_checkable
class Change(Protocol):
    """Turns a training batch into another, the same way every time: what is random about it follows from the batch."""

    def __call__(self, batch: Batch) -> Batch:
        """The batch to train on; numpy arrays [b, t]."""
        ...


@dataclass(frozen=True, kw_only=True)
class Loader:
    """How documents become batches. The same loader and corpus give the same batches.

    A document is begin_of_text, its text, end_of_text. Documents follow each other in rows of `length` + 1 tokens;
    one that meets the end of its row goes on in the next, as a piece with positions from 0. A row gives `length` tokens
    and, one place to their right, as many labels. A document with an answer is never cut (see `Reader`): it is a row by
    itself or, `packed`, shares one with others, each as if it were alone.
    """

    rows: int
    """rows of a batch, over all processes"""
    length: int
    """tokens of a row"""
    seed: int = 0
    """of the order of the documents and of the rows; held-out batches do not depend on it"""
    window: int = 1024
    """rows that are shuffled among each other (by a process), so that a batch is not one document"""
    tokenizer: Tokenizer = field(default_factory=Bytes)
    documents: int | None = None
    """train on so many documents alone, drawn by the seed; None: on all"""
    images: int = 1
    """images of a row, at most"""
    vision: Vision | None = None
    """how models see the images of documents that have some"""
    domains: tuple[str, ...] = ()
    """the corpus's domains, where tokens are to know the numbers of theirs"""
    packed: bool = False
    """questions share rows, first fit; else each is a row. Text always shares them"""
    change: Change | None = None
    """what becomes of training batches, such as noise in their labels; held-out ones stay as they are"""

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ValueError(f"length is {self.length}; a row needs at least 2 tokens")
        for name in ("rows", "window", "documents", "images"):
            if vars(self)[name] is not None and vars(self)[name] < 1:
                raise ValueError(f"{name} is {vars(self)[name]}; it must be at least 1")
        if not 0 <= self.seed < 2**31:  # grain counts up from it, and must stay below 2**32
            raise ValueError(f"seed is {self.seed}; it must be 0 to 2147483647")

    def training(self, source: Source, processes: int = 1) -> Documents:
        """What is trained on: all documents of the split, or those drawn by the seed.

        Raises:
          ValueError: the split is smaller than a row for each process.
        """
        documents = self._documents(source, "train", (self.length + 1) * processes)
        if self.documents is None:
            return documents
        # Not a slice of a shuffled grain dataset: that draws others in every epoch.
        return Drawn(documents, np.random.default_rng(self.seed).permutation(len(documents))[: self.documents])

    def batches(
        self, source: Source, process: int = 0, processes: int = 1, order: Int[np.ndarray, "n"] | None = None
    ) -> Batches:
        """Endless training batches of `rows / processes` rows: every epoch all documents, in an order of its own.

        Every document goes to exactly one process in every epoch. A place in the batches belongs to one corpus, one
        loader, one order and one number of processes.

        Args:
          source: the corpus.
          process, processes: whose share of it.
          order: places of `training` documents in the order in which they are read, again and again; rows of text are
            still shuffled in windows. None: a shuffle.

        Raises:
          ValueError: rows cannot be shared among the processes, the corpus is smaller than a row for each, or its
            documents cannot be packed.
        """
        import grain

        share = self._share(process, processes)
        documents = self.training(source, processes)
        if order is None:
            endless = grain.MapDataset.source(documents).seed(self.seed).shuffle().repeat()
        else:
            endless = grain.MapDataset.source(Drawn(documents, order)).repeat()
        ordered = endless[process::processes]
        rows = self._rows(ordered, documents[0], share)
        if not uncut(documents[0]):
            rows = grain.experimental.WindowShuffleIterDataset(rows, window_size=self.window, seed=self.seed)
        batches = rows.batch(share, drop_remainder=True).map(self._batch)
        return iter(batches if self.change is None else batches.map(self.change))

    def held_out_batches(self, source: Source, count: int, process: int = 0, processes: int = 1) -> list[Batch]:
        """The first `count` batches of held-out text (fewer where there is less): the same for every seed and model.

        Documents are in one fixed random order, so that few batches show all kinds. The last row, and the last batch,
        may hold padding. Each process gets its rows of every batch.

        Raises:
          ValueError: `count` is less than 1, rows cannot be shared among the processes, there is no text, or it cannot
            be packed.
        """
        import grain

        if count < 1:
            raise ValueError(f"held-out batches: asked for {count}; it must be at least 1")
        share = self._share(process, processes)
        documents = self._documents(source, "held_out", 1)
        ordered = grain.MapDataset.source(documents).seed(0).shuffle()
        rows = islice(self._rows(ordered, documents[0], self.rows), count * self.rows)
        mine = slice(process * share, (process + 1) * share)
        return [self.filled(some, mine) for some in _groups(rows, self.rows)]

    def filled(self, rows: list[dict[str, np.ndarray]], mine: slice = slice(None)) -> Batch:
        """Rows as a batch, with padding behind the last, or such of its rows as are a process's."""
        stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return self._batch({name: _padded(x, self.rows)[mine] for name, x in stacked.items()})

    def pieces(self, document: Document) -> Iterator[dict[str, np.ndarray]]:
        """The rows [length + 1] that hold a document and nothing else; every token after its first is a label once."""
        if uncut(document):
            yield self._reader(document).row(document, self.length + 1)
            return
        tokens, place = self._tokenise(document)["tokens"], np.arange(self.length + 1, dtype=np.int32)
        for start in range(0, len(tokens) - 1, self.length):
            piece = tokens[start : start + self.length + 1]
            there = place < len(piece)
            yield {
                "tokens": np.pad(piece, (0, len(place) - len(piece))),
                "tokens_segment_ids": there.astype(np.int32),
                "tokens_positions": np.where(there, place, 0),
            }

    def _share(self, process: int, processes: int) -> int:
        """Rows of a batch that are this process's."""
        if not 0 <= process < processes:
            raise ValueError(f"process is {process} of {processes}; it must be 0 to {processes - 1}")
        if self.rows % processes:
            raise ValueError(
                f"{self.rows} rows cannot be shared by {processes} processes; set rows to a multiple of {processes}"
            )
        return self.rows // processes

    def _documents(self, source: Source, split: Split, least: int) -> Documents:
        """A split of at least `least` tokens."""
        documents = source.documents(split)
        tokens = 0
        for index in range(len(documents)):
            tokens += len(self._tokenise(documents[index])["tokens"])
            if tokens >= least:
                return documents
        raise ValueError(
            f"the {split} split has {tokens} tokens in {len(documents)} documents; at least {least} are needed: "
            f"bring more text, or set a shorter length (it is {self.length})"
        )

    def _rows(self, documents: Any, first: Document, batch: int) -> Any:
        """A grain.MapDataset of documents like the first as a grain.IterDataset of rows, for batches of so many."""
        names, size = ("tokens", *(["domains"] if self.domains else [])), self.length + 1
        if not uncut(first):
            if self.packed:
                raise ValueError(
                    "packed is for questions with answers, and documents of text share rows anyway; set "
                    "--stages.N.no-packed"
                )
            return joined(documents.map(self._tokenise), size, names)
        reader = self._reader(first)
        if self.packed:
            return shared(documents.map(partial(reader.whole, length=size)), size, (*names, "answer"), batch)
        return read(documents.map(partial(reader.row, length=size)))

    def _tokenise(self, document: Document) -> dict[str, Int[np.ndarray, "n"]]:
        if uncut(document):
            return {"tokens": self._reader(document).tokenise(document)["tokens"]}
        return tokenise(document, self.tokenizer, self.domains)

    def _reader(self, document: Document) -> Reader:
        """For documents like this one."""
        seen = "images" in document
        if seen and self.packed:
            raise ValueError(
                "the corpus has images, and their questions are rows by themselves; set --stages.N.no-packed"
            )
        if seen and self.vision is None:
            raise ValueError("the corpus has images, but the models have no vision tower; set model.vision")
        return Reader(self.tokenizer, self.vision if seen else None, self.images, self.domains)

    def _batch(self, rows: dict[str, np.ndarray]) -> Batch:
        return Batch.of_rows(rows, self.tokenizer.pad)


def _groups(rows: Iterator[dict], size: int) -> Iterator[list[dict]]:
    while some := list(islice(rows, size)):
        yield some


def _padded(rows: Shaped[np.ndarray, "n *t"], count: int) -> Shaped[np.ndarray, "b *t"]:
    """Rows of zeros, which are padding, after `rows`, up to `count`."""
    return np.pad(rows, [(0, count - len(rows))] + [(0, 0)] * (rows.ndim - 1))
