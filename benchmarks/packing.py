"""What do questions that share rows save beside a row each, in padding and in time?

The fine-tuning of `experiments/post_training.py`: its student and its 7,200 questions, as many of them a step on either
side, in rows of 24 tokens or in rows that they share. Batches are on the device; what the loader takes beside a step is
told apart. A group of packed rows ends where a question finds no room, so a batch holds a few questions more or less:
what is compared is the time of a question.

    python -m benchmarks.packing            # about a minute on 2 CPU cores
"""

import argparse
import time

import numpy as np

from benchmarks.timing import alternate
from benchmarks.training import trainer
from distill import Mesh
from distill.data.batch import Batch
from distill.data.loader import Loader
from distill.process import settle
from distill.reading import put
from distill.teacher import Silent
from experiments.post_training import ASKED, student
from models.execution import Execution

LEARNER = student("tuned", None, 6e-3)


def count(batches: list[Batch]) -> int:
    """Questions of batches."""
    return sum(int(np.sum((one.positions == 0) & (one.segments > 0))) for one in batches)


def padding(batches: list[Batch]) -> float:
    """Share of the tokens of batches that are padding."""
    return float(np.mean([one.segments == 0 for one in batches]))


def measure(lengths: tuple[int, ...], rows: int, steps: int, rounds: int) -> str:
    """The table: rows of 24 tokens, a question each, against as many questions in rows of these lengths."""
    each = Loader(rows=rows, length=24)
    size = float(np.mean([np.sum(one.segments > 0) for one in each.held_out_batches(ASKED, 1)]))
    loaders = {"each": each}
    for length in lengths:  # as many rows as these questions fill, little of which stays padding
        loaders[f"packed {length}"] = Loader(rows=max(1, round(size / (0.95 * length))), length=length, packed=True)
    batches, lines = {}, []
    for name, loader in loaders.items():
        stream, start = loader.batches(ASKED), time.process_time()
        some = batches[name] = [next(stream) for _ in range(steps)]
        spent = (time.process_time() - start) / count(some)
        lines.append(
            f"{name:10} {loader.rows:4} rows of {loader.length:3}, {count(some) / steps:.1f} questions a step: "
            f"padding {padding(some):.1%}, loader {1e3 * spent:.2f} ms of CPU a question"
        )
    mesh, sides = Mesh().build(), {}
    for name, some in batches.items():
        sides[name] = trainer(LEARNER, Silent(), [put(batch, 1, mesh) for batch in some], mesh, Execution())
    table = alternate(sides, rounds=rounds)
    lines.append(table.show("each"))
    for name, some in batches.items():
        second, more = count(some) / table.median(name), count(some) / count(batches["each"])
        ratio = more * table.ratio("each", name)
        lines.append(f"{name:10} {second:8,.0f} questions/s, {ratio:.2f} times as many as rows of a question each")
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=(48, 96), help="of packed rows")
    parser.add_argument("--rows", type=int, default=128, help="of a question each")
    parser.add_argument("--steps", type=int, default=4, help="of a round")
    parser.add_argument("--rounds", type=int, default=15)
    settle()
    print(measure(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
