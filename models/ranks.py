"""The tokens of a byte-level BPE and the special tokens after them: read from files of strangers, and written.

Two formats: tiktoken's, a line of `base64 rank` for each token, and the tokenizer.json of `tokenizers`.
"""

import base64
import binascii
import json
from dataclasses import dataclass
from operator import index
from pathlib import Path

from models.tokenizer import SPECIALS

LARGEST = 64 * 2**20
"""bytes of the largest file that is read; Llama 4's tokenizer.json has 28 MB"""
LONGEST = 1024
"""bytes of the longest token that is read; Llama 4's has 128"""
OURS = (*SPECIALS[:-1], "tile_x_separator", "tile_y_separator")
"""Special tokens of a BPE trained here, in the order of their ids: Llama 4's that a text or image chat needs."""


def _reserved(kind: str, first: int, last: int) -> tuple[str, ...]:
    return tuple(f"{kind}reserved_special_token_{i}" for i in range(first, last + 1))


LLAMA4 = (
    *("begin_of_text", "end_of_text", "fim_prefix", "fim_middle", "fim_suffix"),
    *("header_start", "header_end", "eom", "eot", "step", *_reserved("text_post_train_", 0, 5)),
    *("python_start", "python_end", "finetune_right_pad", *_reserved("text_post_train_", 8, 68)),
    *("image_start", "image_end", *_reserved("vision_", 0, 1), "tile_x_separator", "tile_y_separator"),
    *(*_reserved("vision_", 2, 5), "image", *_reserved("vision_", 6, 6), "patch", *_reserved("vision_", 7, 1047)),
    *(*_reserved("reasoning_", 0, 7), "reasoning_thinking_start", "reasoning_thinking_end", *_reserved("", 0, 903)),
)
"""Llama 4's 2,048 special tokens, in the order of their ids from 200000 (llama-models, models/llama4/tokenizer.py)."""
LLAMA4_RANKS = 200_000


@dataclass(frozen=True)
class Ranks:
    """tokens: bytes of the ids from 0; where two neighbours are a token, those of the lowest id join first.

    specials: names of the ids after them.
    """

    tokens: tuple[bytes, ...]
    specials: tuple[str, ...]


def named(count: int) -> tuple[str, ...]:
    """Special tokens that follow `count` tokens: Llama 4's after its 200,000, otherwise OURS."""
    return LLAMA4 if count == LLAMA4_RANKS else OURS


def read(path: str | Path) -> Ranks:
    """The tokens in a file: of tiktoken's format, or a tokenizer.json.

    Raises:
      ValueError: there is no such file, or it is not of its format, with the line or the part that is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; a tokenizer is a tokenizer.model or a tokenizer.json")
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"{path} has {size} bytes; a tokenizer has at most {LARGEST}")
    data = path.read_bytes()
    if path.suffix == ".json":
        return _of_json(path, data)
    tokens = _in_order(path, _of_lines(path, data))
    return Ranks(tokens, named(len(tokens)))


def write(path: str | Path, tokens: tuple[bytes, ...]) -> None:
    """Tokens in tiktoken's format."""
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
    Path(path).write_text("".join(lines), encoding="ascii")


def characters() -> tuple[str, ...]:
    """The character that stands for each byte in a tokenizer.json (GPT-2): itself where it can be seen."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return tuple(chr(byte) if byte in seen else chr(next(others)) for byte in range(256))


def _of_lines(path: Path, data: bytes) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n"), 1):
        where = f"{path}, line {number}"
        if len(line) > 2 * LONGEST:
            raise ValueError(f"{where} has {len(line)} bytes; a line is a token of at most {LONGEST} bytes in base64")
        word, _, rank = line.removesuffix(b"\r").partition(b" ")
        try:
            token = base64.b64decode(word, validate=True)
        except binascii.Error as error:
            raise ValueError(f"{where}: {word[:40]!r} is not base64 ({error}); a line must be `base64 rank`") from error
        if not (rank.isdigit() and len(rank) < 10 and token):
            raise ValueError(f"{where} is {line[:40]!r}; it must be a token in base64, a space, and its rank")
        if token in found:
            raise ValueError(f"{where}: the token {token[:40]!r} is there twice, as {found[token]} and {int(rank)}")
        found[token] = int(rank)
    return found


def _in_order(path: Path, ranks: dict[bytes, int]) -> tuple[bytes, ...]:
    """The tokens by rank, which must be 0, 1, 2, ... and know every byte."""
    tokens = dict(sorted((rank, token) for token, rank in ranks.items()))
    if len(tokens) < len(ranks):
        twice = next(rank for token, rank in ranks.items() if tokens[rank] != token)
        raise ValueError(f"{path}: two tokens have the rank {twice}; every rank must be there once")
    hole = next((rank for rank in range(len(tokens)) if rank not in tokens), None)
    if hole is not None:
        raise ValueError(f"{path}: of {len(tokens)} tokens none has the rank {hole}; the file must be whole")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise ValueError(f"{path} lacks the byte {missing[0]} (and {len(missing) - 1} more): not every text has tokens")
    return tuple(tokens.values())


def _of_json(path: Path, data: bytes) -> Ranks:
    try:
        found = json.loads(data)
        model = found["model"]
        specials = {str(one["content"]): int(one["id"]) for one in found["added_tokens"]}
        texts = {text: index(rank) for text, rank in model["vocab"].items() if text not in specials}
        made = [texts["".join(pair).replace(" ", "")] for pair in model["merges"]]  # "a b" or ["a", "b"]
        kind = model["type"]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is not the tokenizer.json of a BPE: {type(error).__name__} {error}"[:300]) from error
    bytes_of = {char: bytes([byte]) for byte, char in enumerate(characters())}
    if kind != "BPE" or not all(texts) or any(char not in bytes_of for text in texts for char in text):
        raise ValueError(f"{path} is a {kind!r} whose tokens are not all bytes; only a byte-level BPE can be read")
    if made != sorted(made):
        raise ValueError(f"{path}: its merges do not make the tokens in the order of their ids; it is another BPE")
    tokens = _in_order(path, {b"".join(bytes_of[char] for char in text): rank for text, rank in texts.items()})
    return Ranks(tokens, _specials(path, specials, len(tokens)))


def _specials(path: Path, found: dict[str, int], count: int) -> tuple[str, ...]:
    """Names of the special tokens after `count` tokens.

    A file of Llama 4 need not name the reserved ones, which other versions of it call by other names.
    """
    for names in (OURS, SPECIALS):
        if found == {f"<|{name}|>": count + i for i, name in enumerate(names)}:
            return names
    ids = {f"<|{name}|>": count + i for i, name in enumerate(LLAMA4)}
    wanted = {f"<|{name}|>" for name in OURS}
    wrong = [text for text in sorted(wanted) if found.get(text) != ids[text]]
    if count != LLAMA4_RANKS or wrong:
        raise ValueError(
            f"{path}: its special tokens ({', '.join(sorted(found)[:5])}, ...) after {count} others are neither those "
            f"of Llama 4 nor of this project; {(wrong or sorted(wanted))[0]} is not where it must be"
        )
    return LLAMA4
