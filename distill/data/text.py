"""Text becomes tokens: a document from its beginning to its end, with the domain of each where that is asked for."""

from typing import Any

import numpy as np
from jaxtyping import Int

from distill.data.manifest import Document
from models.tokenizer import Tokenizer


def tokenise(
    document: Document, tokenizer: Tokenizer, domains: tuple[str, ...] = ()
) -> dict[str, Int[np.ndarray, "n"]]:
    """`tokens` [n] of a document without an answer; where `domains` are named, `domains` [n], the number of each's.

    A document of pieces is tokenised piece by piece: no token belongs to two of them.

    Raises:
      ValueError: its pieces do not add up to its text.
    """
    if "pieces" not in document:
        tokens = tokenizer.document(document["text"])
        numbers = {"domains": np.full_like(tokens, domains.index(document["domain"]))} if domains else {}
        return {"tokens": tokens} | numbers
    parts: list[Any] = [[tokenizer.begin]]
    owners, start = [document["pieces"][0][0]], 0
    for domain, size in document["pieces"]:
        parts.append(tokenizer.encode(document["text"][start : start + size]))
        owners += [domain] * len(parts[-1])
        start += size
    if start != len(document["text"]):
        raise ValueError(f"the pieces of a document have {start} bytes, its text {len(document['text'])}")
    row = {"tokens": np.concatenate([*parts, [tokenizer.end]], dtype=np.int32)}
    if domains:
        row["domains"] = np.array([domains.index(one) for one in [*owners, owners[-1]]], np.int32)
    return row
