"""The rows of every batch that one process of a run reads, whatever the number of processes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from distill.data.batch import Batch
from distill.data.loader import Batches


class Portion:
    """Some rows of every batch. The batches of all rows, and the place in them, do not know of processes.

    A batch is made by `readers`: reader k of n reads every n-th document from the k-th on, and fills the k-th part of
    each micro-batch. A process opens those alone whose rows it wants. With one reader every process reads every
    document and keeps its rows of them; with as many as there are processes none reads a document that is another's.

    Args:
      open: the batches, of `size / readers` rows, of a reader by its number.
      readers: how many there are.
      rows: numbers of the rows that are wanted, of those of a batch.
      size: rows of a batch.
      parts: micro-batches, into which a batch is cut one after another.

    Raises:
      ValueError: the rows of a micro-batch cannot be shared by the readers.
    """

    def __init__(self, open: Callable[[int], Batches], readers: int, rows: Sequence[int], size: int, parts: int = 1):
        if size % (readers * parts):
            raise ValueError(
                f"{size} rows in {parts} micro-batches cannot be shared by {readers} readers; set readers to a number "
                f"that divides {size // parts}"
            )
        whole = size // parts
        share = whole // readers
        part, place = np.divmod(np.asarray(rows), whole)
        reader, row = np.divmod(place, share)
        self._all, wanted = readers, sorted(set(reader.tolist()))
        self._readers = {number: open(number) for number in wanted}
        # in the rows of all that are open, one after another
        self._rows = np.searchsorted(wanted, reader) * (share * parts) + part * share + row

    def __iter__(self) -> Iterator[Batch]:
        """Itself."""
        return self

    def __next__(self) -> Batch:
        """The wanted rows of the next batch."""
        found = [next(reader) for reader in self._readers.values()]
        return jax.tree.map(lambda *each: np.concatenate(each)[self._rows], *found)

    def get_state(self) -> dict[str, Any]:
        """The place of the readers that are open: together with the other processes' that of the batches."""
        places = {str(number): reader.get_state() for number, reader in self._readers.items()}
        return places["0"] if self._all == 1 else {"readers": places}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a place, of all readers."""
        places = {"0": state} if self._all == 1 else state["readers"]
        for number, reader in self._readers.items():
            reader.set_state(places[str(number)])


def together(places: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The place in the data of a whole run, of what each of its processes said of it.

    Raises:
      ValueError: they do not say the same of a reader.
    """
    if all(place == places[0] for place in places):
        return places[0]
    readers: dict[str, Any] = {}
    for place in places:
        for number, state in place.get("readers", {}).items():
            if readers.setdefault(number, state) != state:
                raise ValueError(f"processes say different things of where reader {number} stood")
    if not readers:
        raise ValueError("processes say different things of where they stood in the data")
    return {"readers": readers}
