"""Documents to batches: shuffled, tokenised, packed into rows; an iterator whose place can be saved and restored."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from distill.data.batch import Batch
from distill.data.manifest import Document, Documents, Split
from distill.data.source import Source
from models.tokenizer import Bytes


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


@dataclass(frozen=True, kw_only=True)
class Loader:
    """How documents become batches. The same loader and corpus give the same batches.

    A document is begin_of_text, its text, end_of_text. Documents follow each other in rows of `length` + 1 tokens;
    one that meets the end of its row goes on in the next, as a piece with positions from 0. A row gives `length` tokens
    and, one place to their right, as many labels.
    """

    rows: int
    """rows of a batch, over all processes"""
    length: int
    """tokens of a row"""
    seed: int = 0
    """of the order of the documents and of the rows; held-out batches do not depend on it"""
    window: int = 1024
    """rows that are shuffled among each other (by a process), so that a batch is not one document"""
    tokenizer: Bytes = field(default_factory=Bytes)

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ValueError(f"length is {self.length}; a row needs at least 2 tokens")
        for name in ("rows", "window"):
            if vars(self)[name] < 1:
                raise ValueError(f"{name} is {vars(self)[name]}; it must be at least 1")
        if not 0 <= self.seed < 2**31:  # grain counts up from it, and must stay below 2**32
            raise ValueError(f"seed is {self.seed}; it must be 0 to 2147483647")

    def batches(self, source: Source, process: int = 0, processes: int = 1) -> Batches:
        """Endless training batches of `rows / processes` rows: every epoch all documents, in an order of its own.

        Every document goes to exactly one process in every epoch. A place in the batches belongs to one corpus, one
        loader and one number of processes.

        Raises:
          ValueError: rows cannot be shared among the processes, or the corpus is smaller than a row for each.
        """
        import grain

        rows = self._share(process, processes)
        documents = self._documents(source, "train", (self.length + 1) * processes)
        ordered = grain.MapDataset.source(documents).seed(self.seed).shuffle().repeat()[process::processes]
        packed = grain.experimental.WindowShuffleIterDataset(
            self._packed(ordered), window_size=self.window, seed=self.seed
        )
        return iter(packed.batch(rows, drop_remainder=True).map(self._batch))

    def held_out_batches(self, source: Source, count: int, process: int = 0, processes: int = 1) -> list[Batch]:
        """The first `count` batches of held-out text (fewer where there is less): the same for every seed and model.

        Documents are in one fixed random order, so that few batches show all kinds. The last row, and the last batch,
        may hold padding. Each process gets its rows of every batch.

        Raises:
          ValueError: `count` is less than 1, rows cannot be shared among the processes, or there is no text.
        """
        import grain

        if count < 1:
            raise ValueError(f"held-out batches: asked for {count}; it must be at least 1")
        share = self._share(process, processes)
        documents = self._documents(source, "held_out", 1)
        rows = islice(self._packed(grain.MapDataset.source(documents).seed(0).shuffle()), count * self.rows)
        found = [{name: np.stack([row[name] for row in some]) for name in some[0]} for some in _groups(rows, self.rows)]
        mine = slice(process * share, (process + 1) * share)
        return [self._batch({name: _padded(x, self.rows)[mine] for name, x in batch.items()}) for batch in found]

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

    def _packed(self, documents: Any) -> Any:
        """A grain.MapDataset of documents as a grain.IterDataset of rows."""
        import grain

        tokens = documents.map(self._tokenise)
        # No threads: the documents are in memory or nearly so, and grain's threads cost more than they save there.
        read = tokens.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        return grain.experimental.ConcatThenSplitIterDataset(read, length_struct={"tokens": self.length + 1})

    def _tokenise(self, document: Document) -> dict[str, Int[np.ndarray, "n"]]:
        return {"tokens": self.tokenizer.document(document["text"])}

    def _batch(self, rows: dict[str, Int[np.ndarray, "b t1"]]) -> Batch:
        return Batch.of_rows(rows, self.tokenizer.pad)


def _groups(rows: Iterator[dict], size: int) -> Iterator[list[dict]]:
    while some := list(islice(rows, size)):
        yield some


def _padded(rows: Int[np.ndarray, "n t1"], count: int) -> Int[np.ndarray, "b t1"]:
    """Rows of zeros, which are padding, after `rows`, up to `count`."""
    return np.pad(rows, ((0, count - len(rows)), (0, 0)))
