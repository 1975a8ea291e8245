"""A chat, with images, as the tokens that Llama 4 was trained on.

Source: llama-models, models/llama4/chat_format.py and prompt_format.md. Special tokens enter by id, and header, text
and images are encoded apart: what a user writes stays text, whatever it looks like.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int

from models.images import Tiled
from models.tokenizer import Tokenizer

ROLES = {"system": "system", "user": "user", "assistant": "assistant", "tool": "ipython"}
"""Who speaks, and what the header calls them."""

Content = str | Sequence[str | Tiled]
"""Text, or texts and images in their order."""


@dataclass(frozen=True)
class Message:
    """What someone says.

    role: one of ROLES. awaits: an assistant's message asks for a tool's answer, and its turn goes on after it: it ends
    with eom, as a tool's message does; all others end with eot.
    """

    role: str
    content: Content
    awaits: bool = False

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"a message has the role {self.role!r}; it must be one of {', '.join(ROLES)}")


@dataclass(frozen=True)
class Prompt:
    """Tokens, and the tiles of their images in order; None where there are none."""

    tokens: Int[np.ndarray, "n"]
    images: Float32[np.ndarray, "i 3 y x"] | None


def chat(tokenizer: Tokenizer, messages: Sequence[Message], patches: int | None = None) -> Prompt:
    """A conversation up to where the assistant is to speak.

    Args:
      tokenizer: it needs separators of tiles only for images of several.
      messages: in order.
      patches: tokens of a tile (`config.vision.tokens`); None: the model sees no images.

    Raises:
      ValueError: there are images that the model, or the tokenizer, has no tokens for.
    """
    parts = [[tokenizer.begin]]
    for message in messages:
        last = "eom" if message.awaits or message.role == "tool" else "eot"
        parts += [_header(tokenizer, message.role), _encode(tokenizer, message.content, patches)]
        parts.append([tokenizer.special(last)])
    parts.append(_header(tokenizer, "assistant"))
    return _prompt(parts, [message.content for message in messages])


def text(tokenizer: Tokenizer, content: Content, patches: int | None = None) -> Prompt:
    """The beginning of a document, for a base model to go on with. Raises what `chat` does."""
    return _prompt([[tokenizer.begin], _encode(tokenizer, content, patches)], [content])


def picture(tokenizer: Tokenizer, rows: int, columns: int, patches: int) -> list[int]:
    """Tokens of an image: tiles of `patches` tokens row by row, then the whole image if that was more than one.

    Raises:
      ValueError: it is of several tiles and the tokenizer has no separators for them.
    """
    patch = [tokenizer.special("patch")] * patches
    tiles = []
    if rows * columns > 1:
        try:
            across, down = tokenizer.special("tile_x_separator"), tokenizer.special("tile_y_separator")
        except ValueError as error:
            raise ValueError(
                f"an image of {rows} x {columns} tiles needs separators, and {error}; make it one tile "
                f"(models.images.split with most=1), or use a BPE"
            ) from error
        tiles = [*[*patch, across] * (columns - 1), *patch, down] * rows
    start, whole, end = (tokenizer.special(name) for name in ("image_start", "image", "image_end"))
    return [start, *tiles, whole, *patch, end]


def stops(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids after which a model has said what it had to say."""
    return (tokenizer.end, tokenizer.special("eom"), tokenizer.special("eot"))


def _header(tokenizer: Tokenizer, role: str) -> list[int]:
    name, gap = (tokenizer.encode(part).tolist() for part in (ROLES[role], "\n\n"))
    return [tokenizer.special("header_start"), *name, tokenizer.special("header_end"), *gap]


def _encode(tokenizer: Tokenizer, content: Content, patches: int | None) -> list[int]:
    tokens: list[int] = []
    for part in [content] if isinstance(content, str) else content:
        if isinstance(part, str):
            tokens += tokenizer.encode(part).tolist()
        elif patches is None:
            raise ValueError("there is an image, and the model has no vision tower; leave it out, or use a model with")
        else:
            tokens += picture(tokenizer, part.rows, part.columns, patches)
    return tokens


def _prompt(parts: list[list[int]], contents: Sequence[Content]) -> Prompt:
    tiles = [part.tiles for each in contents if not isinstance(each, str) for part in each if not isinstance(part, str)]
    return Prompt(np.array([i for part in parts for i in part], np.int32), np.concatenate(tiles) if tiles else None)
