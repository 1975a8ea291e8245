"""transformers reads what we serve: tokenizer, chat template and image processor give our own ids and pixels.

    make proofs                      # or, where torch, torchvision, transformers and tiktoken are installed:
    python proofs/text.py

For the tokenizer by bytes, and a BPE trained here: the files that `save` writes go through AutoTokenizer and
AutoProcessor. Chats also go through the template that transformers ships for Llama 4. Half a minute.
"""

import re
import sys
import tempfile
from pathlib import Path

import numpy as np
from images import ROOT, draw
from peers.vision import load_torchvision

ALPHABET = [*" \n\t\r'0aBé漢🦙\u0301\u200b\x00", "the", "'ll", "<|", "|>", "eot", "  ", "123", "ǅ", "İ", "\U000e0041"]


def texts(count: int) -> list[str]:
    """Random texts of awkward characters, then files of our own; none in which transformers would see a special."""
    chance = np.random.default_rng(0)
    drawn = ["".join(chance.choice(ALPHABET, chance.integers(0, 40))) for _ in range(count)]
    files = [path.read_text() for path in sorted((ROOT / "models").glob("*.py"))]
    return [text for text in drawn + files if not re.search(r"<\|\w+\|>", text)]


def compare_ids(folder: Path, tokenizer) -> int:
    """AutoTokenizer gives our ids, and reads them; how many were compared."""
    from transformers import AutoTokenizer

    other, count = AutoTokenizer.from_pretrained(folder), 0
    assert len(other) == tokenizer.vocab
    wanted = (tokenizer.begin, tokenizer.end, tokenizer.pad)
    assert (other.bos_token_id, other.eos_token_id, other.pad_token_id) == wanted
    for text in texts(2000):
        ours = tokenizer.encode(text).tolist()
        assert other(text)["input_ids"] == [tokenizer.begin, *ours], repr(text)
        assert other.decode(ours) == text, repr(text)
        count += len(ours)
    return count


def compare_chats(folder: Path, tokenizer) -> int:
    """The template we write, and that of transformers, give the ids of models.prompt; how many chats were compared."""
    from transformers import AutoTokenizer
    from transformers.models.llama4.processing_llama4 import chat_template

    from models.prompt import Message, chat

    other, chance, count = AutoTokenizer.from_pretrained(folder), np.random.default_rng(1), 0
    said = [text for text in texts(300) if text == text.strip() and "<|" not in text]  # theirs strips system messages
    for _ in range(200):
        who = [*["system"] * int(chance.integers(2)), *["user", "assistant"] * int(chance.integers(1, 4))]
        what = [said[int(chance.integers(len(said)))] for _ in who]
        messages = [{"role": role, "content": text} for role, text in zip(who, what, strict=True)]
        ours = chat(tokenizer, [Message(role, text) for role, text in zip(who, what, strict=True)]).tokens.tolist()
        for template in (None, chat_template):
            written = other.apply_chat_template(
                messages, chat_template=template, add_generation_prompt=True, tokenize=False
            )
            assert other(written, add_special_tokens=False)["input_ids"] == ours, messages
        count += 1
    return count


def compare_images(folder: Path, tokenizer) -> int:
    """AutoProcessor gives the tokens and the pixels of models.prompt and models.images; how many images."""
    from transformers import AutoProcessor

    from models import served
    from models.images import split
    from models.prompt import Message, chat
    from models.tower import VISION_NANO

    served.write_processor(folder, VISION_NANO)
    other, count = AutoProcessor.from_pretrained(folder), 0
    # By bytes there are no separators of tiles: one tile it is.
    sizes = [(20, 32), (7, 7)] if tokenizer.vocab == 272 else [(20, 32), (33, 40), (200, 90), (1, 300), (31, 64)]
    for seed, size in enumerate(sizes):
        picture = draw(size, seed)
        content = [{"type": "text", "text": "What"}, {"type": "image"}, {"type": "text", "text": "is it?"}]
        written = other.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        found = other(images=[picture], text=written, add_special_tokens=False, input_data_format="channels_last")
        ours = chat(tokenizer, [Message("user", ("What", split(picture, VISION_NANO.image), "is it?"))], 16)
        assert found["input_ids"][0] == ours.tokens.tolist(), size
        pixels = np.concatenate([np.asarray(tiles.float()) for tiles in found["pixel_values"]])
        assert np.abs(pixels - ours.images).max() <= 1e-3, size
        count += 1
    return count


def main() -> None:
    """Compare, say what was seen, fail at the first difference."""
    sys.path.insert(0, str(ROOT))
    load_torchvision()
    from models.bpe import train
    from models.tokenizer import Bytes

    with tempfile.TemporaryDirectory() as name:
        corpus = [path.read_text() for path in sorted(ROOT.glob("*/*.py"))]
        for tokenizer in (Bytes(), train(corpus, 2048, Path(name) / "tokenizer.model")):
            folder = Path(name) / type(tokenizer).__name__
            folder.mkdir()
            tokenizer.save(folder)
            ids, chats = compare_ids(folder, tokenizer), compare_chats(folder, tokenizer)
            (folder / "config.json").write_text('{"model_type": "llama4"}')  # AutoProcessor looks for it
            images = compare_images(folder, tokenizer)
            print(f"{type(tokenizer).__name__}: {ids} ids, {chats} chats and {images} images, all equal")


if __name__ == "__main__":
    main()
