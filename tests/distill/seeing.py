"""A small model that sees, and documents for it: what the tests of images share."""

from dataclasses import dataclass, replace

import numpy as np

from distill.data.loader import Loader
from distill.data.manifest import Count, Manifest
from models.config import Layer, Vision
from models.tokenizer import Bytes
from tests.distill.small import MOE

# One patch token a tile.
EYE = Vision(width=8, layers=1, heads=2, hidden=32, image=8, patch=4, output=8, rope_theta=100.0, patch_token=268)
SEEING = replace(MOE, vocab=272, layers=1, pattern=(Layer(rope=True, moe=False),), vision=EYE)
IDS = Bytes()
BEGIN, END, PAD, START, IMAGE, STOP = map(
    IDS.special,
    ("begin_of_text", "end_of_text", "finetune_right_pad", "image_start", "image", "image_end"),
)


def picture(level, count=1):
    """Images of 4 x 4 pixels, all of one grey."""
    return np.full((count, 4, 4, 3), level, np.uint8)


def document(level, count=1):
    return {"text": b"q", "domain": "grey", "images": picture(level, count), "answer": bytes([65 + level % 20])}


@dataclass(frozen=True)
class Greys:
    """A source in memory: as many documents of one image as there are levels."""

    train: int = 12
    held_out: int = 3

    def documents(self, split):
        first = 0 if split == "train" else 200
        return [document(first + level) for level in range(vars(self)[split])]

    def manifest(self):
        counts = {"train": {"grey": Count(self.train)}, "held_out": {"grey": Count(self.held_out)}}
        return Manifest(name="greys", hash="0" * 12, sha256="0" * 64, basis="none", splits=counts)


def loader(**fields):
    return Loader(**{"rows": 4, "length": 8, "vision": EYE} | fields)


def batches(count, **fields):
    iterator = loader(**fields).batches(Greys())
    return [next(iterator) for _ in range(count)]
