"""What is a teacher that sees worth where labels are few: is its word on other images better than a hundred labels?

A Behemoth-style teacher with a vision tower learns to read scikit-learn's handwritten digits from 1297 labelled images
of 8 x 8 pixels (500 are held out; question and answer are text). Four Scout-style students with towers of their own
start from the same weights and take the same steps:

    alone     a hundred images and their labels
    same      the same hundred images and labels, and the teacher: alone is its twin
    labels    all the teacher's images and their labels
    distil    all the teacher's images, and the teacher; the labels have no weight: labels is its twin

    python -m experiments.digits --seeds 5      # the table in experiments/README.md, with paired 95 % intervals
    python -m experiments.digits --tiny         # the same in a minute

Needs scikit-learn (`pip install -e '.[digits]'`). Cost and result: experiments/README.md.
"""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from distill import AdamW, Experiment, Learner, Stage, WarmupCosine, launch, load_weights
from distill.data.batch import Batch
from distill.data.manifest import Count, Document, Documents, Manifest, Split
from distill.evaluate import Score, evaluate
from distill.options import Options, parse
from distill.reading import stage_loader
from distill.run import write_json
from distill.statistics import paired
from distill.teacher import Silent
from losses import Distill, NoGate
from models.config import BEHEMOTH_PICO, SCOUT_PICO
from models.tokenizer import Bytes
from models.tower import VISION_PICO

QUESTION = b"Which digit?"
HELD_OUT = 500
"""images, drawn once for all seeds"""


@cache
def read_digits() -> tuple[UInt8[np.ndarray, "n 8 8 3"], Int[np.ndarray, "n"]]:
    """All 1797 images and what they show, in one fixed random order."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError("the digits come with scikit-learn; install it with: pip install -e '.[digits]'") from error
    found: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(found.images))
    grey = np.round(found.images[order] * (255 / 16)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1), found.target[order]


@dataclass(frozen=True)
class Questions:
    """Images and their labels as documents."""

    images: UInt8[np.ndarray, "n 8 8 3"]
    labels: Int[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Document:
        image, answer = self.images[index][None], str(self.labels[index]).encode()
        return {"text": QUESTION, "domain": "digits", "images": image, "answer": answer}


@dataclass(frozen=True)
class Digits:
    """Handwritten digits (Alpaydin and Kaynak 1998, UCI; CC BY 4.0), as scikit-learn has them."""

    def documents(self, split: Split) -> Documents:
        """A document for each image of a split: the question, the image and the answer."""
        images, labels = read_digits()
        mine = slice(HELD_OUT) if split == "held_out" else slice(HELD_OUT, None)
        return Questions(images[mine], labels[mine])

    def manifest(self) -> Manifest:
        """Counts, and a hash of every image and label."""
        images, labels = read_digits()
        sha256 = hashlib.sha256(QUESTION + images.tobytes() + labels.astype(np.int64).tobytes()).hexdigest()
        return Manifest(
            name="digits",
            hash=sha256[:12],
            sha256=sha256,
            basis="question, pixels and labels in order",
            splits={
                "train": {"digits": Count(len(images) - HELD_OUT)},
                "held_out": {"digits": Count(HELD_OUT)},
            },
            licences={"digits": "CC BY 4.0"},
        )


TEACHER = Learner(
    name="behemoth",
    model=replace(BEHEMOTH_PICO, vision=VISION_PICO),
    optimizer=AdamW(rate=WarmupCosine(peak=2e-3)),
)
STUDENT = Learner(
    name="scout", model=replace(SCOUT_PICO, vision=VISION_PICO), optimizer=AdamW(rate=WarmupCosine(peak=3e-3))
)
LISTENER = replace(STUDENT, loss=Distill(gate=NoGate()))  # alpha is 1: the teacher alone
ALONE = Stage(name="alone", learners=(STUDENT,), steps=120, rows=32, length=21, stream=1, documents=100)

EXPERIMENT = Experiment(
    name="digits",
    corpus=Digits(),
    stages=(
        Stage(name="teach", learners=(TEACHER,), steps=400, rows=32, length=21),
        replace(ALONE, name="distil", learners=(LISTENER,), teacher="behemoth", documents=None),
        replace(ALONE, name="labels", documents=None),
        replace(ALONE, name="same", teacher="behemoth"),
        ALONE,
    ),
    compare=("same", "alone"),
    held_out=16,
)

PAIRS = (("same", "alone"), ("distil", "labels"), ("distil", "alone"))
"""who is held against whom; the last two saw other images"""


def score(options: Options) -> dict[str, list[Score]]:
    """How well the digit itself is read, by stage, a score per seed: the end of the answer is in no doubt."""
    found: dict[str, list[Score]] = {stage.name: [] for stage in options.experiment.stages}
    for folder, experiment in options.seeded():
        for stage in experiment.stages:
            name = stage.learners[0].name
            batches = stage_loader(experiment, stage).held_out_batches(experiment.corpus, experiment.held_out)
            digits = [without_end(batch) for batch in batches]
            weights = load_weights(folder, stage.name, name)
            found[stage.name].append(evaluate({name: weights}, Silent(), digits, experiment.execution)[name])
    return found


def without_end(batch: Batch) -> Batch:
    """The same batch, where the end of an answer does not count."""
    return replace(batch, mask=batch.mask & (batch.labels != Bytes().end))


def main(arguments: Sequence[str]) -> None:
    """Trains, reports, and says how many digits are read right; the figures are also in digits.json."""
    launch(EXPERIMENT, arguments)
    options = parse(EXPERIMENT, arguments)
    found = score(options)
    figures = {
        stage: {field: [vars(each)[field] for each in scores] for field in ("accuracy", "cross_entropy")}
        for stage, scores in found.items()
    }
    print(f"\nheld-out digits, {found['alone'][0].labels} images, {options.seeds} seeds:")
    for stage, values in figures.items():
        print(
            f"  {stage:8}{np.mean(values['accuracy']):8.1%} right{np.mean(values['cross_entropy']):9.4f} nats a digit"
        )
    for first, second in PAIRS:
        for field in ("accuracy", "cross_entropy"):
            print(f"  {first} - {second}, {field}: {paired(figures[first][field], figures[second][field])}")
    write_json(options.folder / "digits.json", figures)


if __name__ == "__main__":
    main(sys.argv[1:])
