"""Text to token ids and back, byte by byte: no training, no files, nothing unknown."""

import hashlib
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Bytes:
    """Ids 0..255 are bytes, 256..271 the specials: a vocabulary of 272.

    A text never becomes a special token, whatever is written in it: specials enter by id alone.
    """

    @property
    def vocab(self) -> int:
        """Number of ids."""
        return 256 + len(SPECIALS)

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

    def document(self, text: str | bytes) -> Int[np.ndarray, "n"]:
        """Ids [n] (int32) of a whole document: begin_of_text, the text, end_of_text."""
        return np.concatenate(([self.begin], self.encode(text), [self.end]), dtype=np.int32)

    def decode(self, tokens: Int[np.ndarray, "n"] | list[int]) -> str:
        """Text of ids [n], for reading: specials appear as `<|name|>`, bytes that are not UTF-8 as U+FFFD.

        Raises:
          ValueError: an id is outside the vocabulary.
        """
        ids = np.asarray(tokens, np.int64)
        wrong = ids[(ids < 0) | (ids >= self.vocab)]
        if wrong.size:
            raise ValueError(f"token id {wrong[0]} is outside the vocabulary: ids are 0 to {self.vocab - 1}")
        parts = (bytes([i]) if i < 256 else f"<|{SPECIALS[i - 256]}|>".encode() for i in ids.tolist())
        return b"".join(parts).decode("utf-8", "replace")
