"""Does reading a store keep up with training, and what does capturing cost beside the teacher's forward pass?

Four contestants over the same batches of the herd's pico models, in alternation in one process:

    read      batches of a store, checked, unpacked and put on the device
    train     the student's steps on batches that are there already: what reading must keep up with
    capture   a whole capture: text, teacher, coarsening, packing, compression, onto the disk
    forward   the teacher's forward pass alone, and every log-probability

The ceiling of reading is the disk: the store's bytes as they come from the system, which has them in memory here.
Weights are random, which changes no time but that of compression. A capture begins with a thousand rows of text, which
are shuffled among each other: what that costs is spread over few batches here.

    python -m benchmarks.store            # about a minute on 2 CPU cores
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from benchmarks.timing import alternate
from benchmarks.training import trainer
from distill import Experiment, Stage
from distill.capture import Capture
from distill.data.batch import Batch
from distill.reading import put
from distill.rows import Rows, StoredBatches
from distill.stored import Store
from distill.targets import Form
from distill.teacher import LiveTeacher, StoredTeacher
from experiments.herd import BEHEMOTH, SCOUT


def capture_of(batches: int, tokens: int) -> Capture:
    """A capture of so many batches of the herd's students, with so many tokens a position."""
    teach = Stage(name="teach", learners=(BEHEMOTH,), steps=1)
    distil = Stage(name="distil", learners=(SCOUT,), teacher="behemoth", steps=batches, stream=1)
    one = Experiment(name="store", stages=(teach, distil))
    weights = create(BEHEMOTH, 1, one.mesh.build(), 0).weights
    form = Form(count=tokens, vocab=BEHEMOTH.model.vocab, length=distil.length)
    return Capture(one, distil, "random", weights, form)


def reader(store: Store, mesh: jax.sharding.Mesh) -> Callable[[], Any]:
    """Reads the store once."""

    def read() -> Any:
        rows = Rows(store)
        return [put(batch, 1, mesh).tokens for batch in StoredBatches(rows, rows.about.rows)][-1]

    return read


@jax.jit
def _forward(teacher: LiveTeacher, batch: Batch) -> Float[Array, ""]:
    said = teacher.signal(jax.tree.map(lambda x: x[0], batch))
    return jnp.max(said.log_probs(jnp.float32(1.0)))


def measure(batches: int, tokens: int, rounds: int, folder: Path) -> str:
    """The table."""
    capture, number = capture_of(batches, tokens), count()
    mesh = capture.experiment.mesh.build()
    store = Store(folder / "read")
    capture.run(store, quiet=True)
    placed = [put(batch, 1, mesh) for batch in StoredBatches(Rows(store), capture.stage.rows)]
    plain = [replace(batch, targets=None) for batch in placed]
    teacher = LiveTeacher(capture.weights, capture.experiment.execution)
    table = alternate(
        {
            "read": reader(store, mesh),
            "train": trainer(SCOUT, StoredTeacher(), placed, mesh, capture.experiment.execution),
            "capture": lambda: capture.run(Store(folder / str(next(number))), quiet=True),
            "forward": lambda: [_forward(teacher, batch) for batch in plain],
        },
        rounds=rounds,
        warm=1,
    )
    amount = capture.stage.seen
    lines = [table.show(), ""]
    lines += [f"{name:8} {amount / table.median(name):12,.0f} tokens/s" for name in table.seconds]
    files, start = sorted(store.folder.iterdir()), time.perf_counter()
    size = sum(len(path.read_bytes()) for path in files)
    rate = size / (time.perf_counter() - start)
    lines += [
        f"{'ceiling':8} {rate * amount / size:12,.0f} tokens/s at {rate / 1e9:.2f} GB/s and {size / amount:.1f} bytes",
        f"reading is {table.ratio('train', 'read'):.1f} times as fast as training (bar: 1)",
        f"capturing takes {table.ratio('capture', 'forward'):.2f} times the teacher's forward pass",
    ]
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=24, help="of 8 rows of 128 tokens")
    parser.add_argument("--tokens", type=int, default=12, help="that are kept of a position")
    parser.add_argument("--rounds", type=int, default=5)
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(measure(said.batches, said.tokens, said.rounds, Path(folder)))


if __name__ == "__main__":
    main()
