"""Packing: how documents come to share rows, by grain's own means, whose place can be saved and restored.

A row has arrays of its length by their names, and of its tokens `tokens_segment_ids`, from 1 (0 is padding), and
`tokens_positions`, which begin at 0 with every document, or piece of one.
"""

from typing import Any


def read(documents: Any) -> Any:
    """A grain.MapDataset as a grain.IterDataset."""
    import grain

    # No threads: the documents are in memory or nearly so, and grain's threads cost more than they save there.
    return documents.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))


def joined(documents: Any, length: int, names: tuple[str, ...]) -> Any:
    """Rows full of documents that follow each other; one that meets the end of its row goes on in the next.

    Args:
      documents: a grain.MapDataset of arrays [n] by name.
      length: of a row.
      names: of the arrays.
    """
    import grain

    return grain.experimental.ConcatThenSplitIterDataset(read(documents), length_struct=dict.fromkeys(names, length))


def shared(documents: Any, length: int, names: tuple[str, ...], rows: int) -> Any:
    """Rows of whole documents: each goes to the first of so many rows that has room for it, and padding stays behind.

    Rows are filled so many at a time, and done where one document finds no room: such a group is of documents that
    follow each other, whatever their lengths. A batch that is a group keeps their order, or their shuffle.

    Args:
      documents: a grain.MapDataset of arrays [n] by name, none longer than a row.
      length: of a row.
      names: of the arrays.
      rows: that are filled at a time.
    """
    import grain

    return grain.experimental.FirstFitPackIterDataset(
        read(documents),
        length_struct=dict.fromkeys(names, length),
        meta_features=[name for name in names if name != "tokens"],  # segments and positions are those of the tokens
        num_packing_bins=rows,
        shuffle_bins=False,
    )
