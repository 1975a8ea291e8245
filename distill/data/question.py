"""Questions and answers, about images or not: such a document is never cut, and a row by itself or a part of one."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from distill.data.manifest import Document
from models.images import split
from models.tokenizer import Tokenizer
from models.tower import Vision


@dataclass(frozen=True)
class Reader:
    """How a document with an answer becomes a row: begin, its images, its question, its answer, end.

    An image is one tile: image_start, image, its patches, image_end. The answer and the end are to be learned, the rest
    is given.
    """

    tokenizer: Tokenizer
    vision: Vision | None
    """how its images are seen; None: documents have none"""
    images: int
    """of a row, at most"""
    domains: tuple[str, ...] = ()
    """the corpus's domains, where tokens are to know the number of theirs"""

    def __post_init__(self) -> None:
        if self.vision is None:
            return
        patch = self.tokenizer.special("patch")
        if self.vision.patch_token != patch or self.vision.channels != 3:
            raise ValueError(
                f"vision has patch_token {self.vision.patch_token} and {self.vision.channels} channels; "
                f"the tokenizer's patch is {patch} and images are red, green and blue: set model.vision to match"
            )

    def tokenise(self, document: Document) -> dict[str, Shaped[np.ndarray, "..."]]:
        """`tokens` [n], `answer` [n] (true where to be learned), and perhaps `domains` [n] and `images` [i, c, y, x].

        There are zeros behind the images of documents that have fewer than a row.

        Raises:
          ValueError: the document has more images than a row, or none, or no answer.
        """
        if ("images" in document) == (self.vision is None) or "answer" not in document:
            raise ValueError(
                "a document has images, another has none, or lacks its answer; all documents of a corpus must be alike"
            )
        images, pixels = ([], {}) if self.vision is None else self._look(document, self.vision)
        question, answer = self.tokenizer.encode(document["text"]), self.tokenizer.encode(document["answer"])
        given = np.concatenate(([self.tokenizer.begin], images, question))
        tokens = np.concatenate((given, answer, [self.tokenizer.end])).astype(np.int32)
        row = {"tokens": tokens, "answer": np.arange(len(tokens)) >= len(given), **pixels}
        if self.domains:
            row["domains"] = np.full_like(tokens, self.domains.index(document["domain"]))
        return row

    def _look(self, document: Document, vision: Vision) -> tuple[list[int], dict[str, np.ndarray]]:
        """The tokens that stand for a document's images, and their tiles."""
        found = document["images"]  # pyright: ignore[reportTypedDictNotRequiredAccess]
        if len(found) > self.images:
            raise ValueError(
                f"a document has {len(found)} images, a row {self.images}; set --stages.N.images {len(found)}"
            )
        mark = self.tokenizer.special
        image = [mark("image_start"), mark("image"), *[vision.patch_token] * vision.tokens, mark("image_end")]
        pixels = np.zeros((self.images, vision.channels, vision.image, vision.image), np.float32)
        for tile, each in zip(pixels, found, strict=False):  # zeros stay behind the last
            tile[:] = split(each, vision.image, most=1).tiles[0]
        return image * len(found), {"images": pixels}

    def whole(self, document: Document, length: int) -> dict[str, Shaped[np.ndarray, "..."]]:
        """What `tokenise` says of a document that a row [length] can hold.

        Raises:
          ValueError: the document is longer than the row.
        """
        read = self.tokenise(document)
        size = len(read["tokens"])
        if size > length:
            raise ValueError(
                f"a document with an answer has {size} tokens, a row {length - 1} and one label; it is not cut: "
                f"set --stages.N.length {size - 1}"
            )
        return read

    def row(self, document: Document, length: int) -> dict[str, Shaped[np.ndarray, "..."]]:
        """The row [length] of a document by itself, in the names of grain's packing.

        Raises:
          ValueError: the document is longer than the row.
        """
        read = self.whole(document, length)
        size = len(read["tokens"])
        place = np.arange(length, dtype=np.int32)
        return {
            "tokens": np.pad(read["tokens"], (0, length - size)),
            "tokens_segment_ids": (place < size).astype(np.int32),
            "tokens_positions": np.where(place < size, place, 0),
            "answer": np.pad(read["answer"], (0, length - size)),
            **{name: np.pad(read[name], (0, length - size), "edge") for name in ("domains",) if name in read},
            **{name: read[name] for name in ("images",) if name in read},
        }


def uncut(document: Document) -> bool:
    """Whether such documents stay whole: questions and answers, with images or without."""
    return "images" in document or "answer" in document
