"""Byte-level BPE: trained with `tokenizers`, kept in tiktoken's format, run by `tiktoken`; Llama 4's own among them.

    python -m models.bpe CORPUS... --vocab 4096 --output tokenizer.model

Needs the extra bpe: pip install -e '.[bpe]'.
"""

import argparse
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from models import ranks, served
from models.ranks import Ranks
from models.tokenizer import SPECIALS, SPLIT, Bytes, Tokenizer, checked

if TYPE_CHECKING:
    import tiktoken

# Longer texts, or longer runs of spaces, overflow the stack of tiktoken's regular expressions. Llama 4 cuts there too.
LONGEST_TEXT = 400_000
LONGEST_RUN = 25_000


@dataclass(frozen=True)
class BPE(Tokenizer):
    """The tokens of a file, then special ones: Llama 4's 2,048 after its 200,000, otherwise the 17 of models.ranks.

    path: in tiktoken's format (Llama 4's `tokenizer.model`, or what `train` writes), or a `tokenizer.json`. It is read
    when it is first needed.
    """

    path: str

    @cached_property
    def ranks(self) -> Ranks:
        """The tokens and the names of the special ones. ValueError: the file is not there, or damaged."""
        return ranks.read(self.path)

    @cached_property
    def _encoding(self) -> "tiktoken.Encoding":
        tiktoken = _needed("tiktoken")
        tokens, specials = self.ranks.tokens, self.ranks.specials
        return tiktoken.Encoding(
            name=self.path,
            pat_str=SPLIT,
            mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
            special_tokens={f"<|{name}|>": len(tokens) + i for i, name in enumerate(specials)},
        )

    @property
    def vocab(self) -> int:
        """Number of ids."""
        return len(self.ranks.tokens) + len(self.ranks.specials)

    @property
    def fingerprint(self) -> str:
        """12 hex digits that change when any id changes its meaning, and only then."""
        parts = (b"bpe", *self.ranks.tokens, SPLIT.encode(), *(name.encode() for name in self.ranks.specials))
        return hashlib.sha256(b"".join(b"%d:%s" % (len(part), part) for part in parts)).hexdigest()[:12]

    def special(self, name: str) -> int:
        """Id of a special token, by its name without `<|` and `|>`.

        Raises:
          ValueError: there is no special token of that name.
        """
        if name not in self.ranks.specials:
            known = [one for one in self.ranks.specials if "reserved" not in one]
            raise ValueError(f"no special token of {self.path} is called {name!r}; there are {', '.join(known)}")
        return len(self.ranks.tokens) + self.ranks.specials.index(name)

    def encode(self, text: str | bytes) -> Int[np.ndarray, "n"]:
        """Ids [n] (int32) of a text, without specials. Bytes need not be valid UTF-8; a lone surrogate becomes `?`."""
        if isinstance(text, str):
            valid = text.encode("utf-8", "replace").decode()
            return np.array([i for piece in _pieces(valid) for i in self._encoding.encode_ordinary(piece)], np.int32)
        # Bytes that are no UTF-8 come as lone surrogates, and stay tokens of one byte.
        parts = re.split("([\udc80-\udcff]+)", text.decode("utf-8", "surrogateescape"))
        tokens = [self.encode(part) if i % 2 == 0 else self._singles(part) for i, part in enumerate(parts)]
        return np.concatenate(tokens)

    def raw(self, tokens: Int[np.ndarray, "n"] | list[int]) -> bytes:
        """Bytes of ids [n]; specials appear as `<|name|>`.

        Raises:
          ValueError: an id is outside the vocabulary.
        """
        return self._encoding.decode_bytes(checked(tokens, self.vocab))

    def save(self, folder: str | Path) -> None:
        """Write the files by which transformers and vLLM read this tokenizer into an existing folder."""
        served.write(folder, self.ranks.tokens, self.ranks.specials)

    def _singles(self, part: str) -> Int[np.ndarray, "n"]:
        data = part.encode("utf-8", "surrogateescape")
        return np.array([self._encoding.encode_single_token(data[i : i + 1]) for i in range(len(data))], np.int32)


def open_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer in a file or in the folder of a checkpoint: its tokenizer.model, or else its tokenizer.json.

    Raises:
      ValueError: there is none, or it is not a byte-level BPE with the special tokens of Llama 4 or of this project.
    """
    path = Path(path)
    if path.is_dir():
        places = [path / name for name in ("tokenizer.model", "tokenizer.json", "original/tokenizer.model")]
        path = next((place for place in places if place.is_file()), places[0])
        if not path.is_file():
            raise ValueError(f"{path.parent} has no tokenizer: neither tokenizer.model nor tokenizer.json")
    found = BPE(str(path))
    is_bytes = found.ranks == Ranks(tuple(bytes([byte]) for byte in range(256)), SPECIALS)
    return Bytes() if is_bytes else found


def named_tokenizer(name: str | None) -> Tokenizer | None:
    """The tokenizer that a command line names: a path, or `bytes`; None where it names none.

    Raises:
      ValueError: as `open_tokenizer` does.
    """
    if name is None:
        return None
    return Bytes() if name == "bytes" else open_tokenizer(name)


def train(texts: Iterable[str], vocab: int, output: str | Path) -> BPE:
    """Learn `vocab` ids, the special ones among them, from texts, and write them to `output` in tiktoken's format.

    Raises:
      ValueError: the vocabulary is smaller than bytes and specials, or the texts have too few pairs for it.
    """
    tokenizers = _needed("tokenizers")
    count = ranks.LLAMA4_RANKS if vocab == ranks.LLAMA4_RANKS + len(ranks.LLAMA4) else vocab - len(ranks.OURS)
    if count < 256 or vocab != count + len(ranks.named(count)):
        raise ValueError(
            f"a vocabulary of {vocab} cannot be had: 256 bytes and {len(ranks.OURS)} special tokens are the least, and "
            f"{ranks.LLAMA4_RANKS + len(ranks.OURS)} is taken for Llama 4's"
        )
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Split(tokenizers.Regex(SPLIT), "isolated"),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    alphabet = list(ranks.characters())
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=count, initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator((piece for text in texts for piece in _pieces(text)), trainer)
    learned = sorted(model.get_vocab(), key=model.get_vocab().__getitem__)[256:]
    if len(learned) + 256 < count:
        raise ValueError(
            f"the corpus has only {len(learned)} pairs worth a token, a vocabulary of {vocab} needs {count - 256}: "
            f"bring more text, or set --vocab to at most {len(learned) + 256 + len(ranks.OURS)}"
        )
    byte = {char: bytes([value]) for value, char in enumerate(alphabet)}
    tokens = (b"".join(byte[char] for char in text) for text in (*alphabet, *learned))
    ranks.write(output, tuple(tokens))
    return BPE(str(output))


def _pieces(text: str) -> Iterator[str]:
    """The text, cut where tiktoken would fail."""
    for start in range(0, len(text), LONGEST_TEXT):
        part, done = text[start : start + LONGEST_TEXT], 0
        for run in re.finditer(r"\s+|\S+", part) if len(part) > LONGEST_RUN else ():
            for cut in range(run.start() + LONGEST_RUN, run.end(), LONGEST_RUN):
                yield part[done:cut]
                done = cut
        yield part[done:]


def _needed(package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ValueError(f"a BPE needs the package {package}: pip install -e '.[bpe]'") from error


def _read(paths: Iterable[str]) -> Iterator[str]:
    """Texts of files, and of all files in folders, in the order of their names."""
    for path in map(Path, paths):
        files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        for file in files:
            yield file.read_text(encoding="utf-8", errors="replace")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="+", help="text files, or folders of them")
    parser.add_argument("--vocab", type=int, required=True, help="number of ids, special tokens included")
    parser.add_argument("--output", default="tokenizer.model", help="file to write")
    options = parser.parse_args()
    try:
        found = train(_read(options.corpus), options.vocab, options.output)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{found.path}: {found.vocab} ids, fingerprint {found.fingerprint}")


if __name__ == "__main__":
    main()
