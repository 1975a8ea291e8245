"""Text to token ids and back: what a tokenizer is, and the one by bytes: no training, no files, nothing unknown."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

SPECIALS = (
    "begin_of_text",
    "end_of_text",
    "header_start",
    "header_end",
    "eom",
    "eot",
    "python_start",
    "python_end",
    "finetune_right_pad",
    "image_start",
    "image_end",
    "image",
    "patch",
    "reasoning_thinking_start",
    "reasoning_thinking_end",
    "reserved",
)
"""Names of the special tokens, in the order of their ids: those of Llama 4 (llama-models, llama4/tokenizer.py) that a
text or image chat needs, then one spare."""


SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 4 cuts a text into pieces before merging (o200k, a regular expression with Unicode classes)."""


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back. Specials enter by id alone: a text never becomes one, whatever is written in it."""

    @property
    def vocab(self) -> int:
        """Number of ids."""
        ...

    @property
    def begin(self) -> int:
        """Id that opens every document."""
        return self.special("begin_of_text")

    @property
    def end(self) -> int:
        """Id that closes every document."""
        return self.special("end_of_text")

    @property
    def pad(self) -> int:
        """Id where there is no text."""
        return self.special("finetune_right_pad")

    @property
    def fingerprint(self) -> str:
        """12 hex digits that change when any id changes its meaning."""
        ...

    def special(self, name: str) -> int:
        """Id of a special token, by its name without `<|` and `|>`. ValueError: there is none of that name."""
        ...

    def encode(self, text: str | bytes) -> Int[np.ndarray, "n"]:
        """Ids [n] (int32) of a text, without specials. Bytes need not be valid UTF-8; a lone surrogate becomes `?`."""
        ...

    def document(self, text: str | bytes) -> Int[np.ndarray, "n"]:
        """Ids [n] (int32) of a whole document: begin_of_text, the text, end_of_text."""
        return np.concatenate(([self.begin], self.encode(text), [self.end]), dtype=np.int32)

    def raw(self, tokens: Int[np.ndarray, "n"] | list[int]) -> bytes:
        """Bytes of ids [n]; specials appear as `<|name|>`. ValueError: an id is outside the vocabulary."""
        ...

    def decode(self, tokens: Int[np.ndarray, "n"] | list[int]) -> str:
        """Text of ids [n], for reading: specials appear as `<|name|>`, bytes that are not UTF-8 as U+FFFD.

        Raises:
          ValueError: an id is outside the vocabulary.
        """
        return self.raw(tokens).decode("utf-8", "replace")

    def save(self, folder: str | Path) -> None:
        """Write the files by which transformers and vLLM read this tokenizer into an existing folder."""
        ...


@dataclass(frozen=True)
class Bytes(Tokenizer):
    """Ids 0..255 are bytes, 256..271 the specials: a vocabulary of 272.

    A text never becomes a special token, whatever is written in it: specials enter by id alone.
    """

    @property
    def vocab(self) -> int:
        """Number of ids."""
        return 256 + len(SPECIALS)

    @property
    def fingerprint(self) -> str:
        """12 hex digits that change when any id changes its meaning."""
        return hashlib.sha256("\n".join(("bytes", *SPECIALS)).encode()).hexdigest()[:12]

    def special(self, name: str) -> int:
        """Id of a special token, by its name without `<|` and `|>`.

        Raises:
          ValueError: there is no special token of that name.
        """
        if name not in SPECIALS:
            raise ValueError(f"no special token is called {name!r}; there are {', '.join(SPECIALS)}")
        return 256 + SPECIALS.index(name)

    def encode(self, text: str | bytes) -> Int[np.ndarray, "n"]:
        """Ids [n] (int32) of a text, without specials. Bytes need not be valid UTF-8; a lone surrogate becomes `?`."""
        raw = text.encode("utf-8", "replace") if isinstance(text, str) else text
        return np.frombuffer(raw, np.uint8).astype(np.int32)

    def raw(self, tokens: Int[np.ndarray, "n"] | list[int]) -> bytes:
        """Bytes of ids [n]; specials appear as `<|name|>`.

        Raises:
          ValueError: an id is outside the vocabulary.
        """
        parts = (bytes([i]) if i < 256 else f"<|{SPECIALS[i - 256]}|>".encode() for i in checked(tokens, self.vocab))
        return b"".join(parts)

    def save(self, folder: str | Path) -> None:
        """Write the files by which transformers and vLLM read this tokenizer into an existing folder."""
        from models.served import write

        write(folder, tuple(bytes([byte]) for byte in range(256)), SPECIALS)


def checked(tokens: Int[np.ndarray, "n"] | list[int], vocab: int) -> list[int]:
    """Ids as a list.

    Raises:
      ValueError: one is outside the vocabulary.
    """
    ids = np.asarray(tokens, np.int64)
    wrong = ids[(ids < 0) | (ids >= vocab)]
    if wrong.size:
        raise ValueError(f"token id {wrong[0]} is outside the vocabulary: ids are 0 to {vocab - 1}")
    return ids.tolist()
