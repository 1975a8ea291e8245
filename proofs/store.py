"""Hundreds of kill -9 at random moments leave a teacher-target store with every row, once, byte for byte.

    make proofs            # or: python proofs/store.py --kills 200

Two processes in turn write their parts of a small store of made-up rows through `Store.writing` and `Store.write`, as
a capture does. Each is killed at random moments and started again until it ends by itself; then every checksum and
every row is held against what was to be written. About half a minute on a quiet machine.
"""

import argparse
import os
import random
import signal
import tempfile
import time
from pathlib import Path

import numpy as np

from distill.rows import Rows
from distill.stored import About, Store
from distill.targets import Form

FORM = Form(count=12, vocab=272, length=128)
ABOUT = About(
    teacher="teacher", tokenizer="tokenizer", data="data", order="as they come", change="None", form=FORM, rows=8,
    batches=40, processes=2, shard=5,
)  # fmt: skip


def record(number: int, row: int) -> bytes:
    """A made-up row of a batch."""
    chance = np.random.default_rng([number, row])
    kinds = FORM.fields.items()
    return FORM.pack(
        {n: -chance.random(shape) if d[:5] == "float" else chance.integers(0, 200, shape) for n, (d, shape) in kinds}
    )


def write(store: Store, process: int) -> None:
    """Writes what is missing of a process's part, as `distill.store.Capture` does."""
    share = ABOUT.rows // ABOUT.processes
    with store.writing(ABOUT, process):
        done = store.shards(process)
        for shard in range(len(done), ABOUT.batches // ABOUT.shard):
            numbers = range(shard * ABOUT.shard, (shard + 1) * ABOUT.shard)
            assert shard == 0 or store.shards(process)[-1].state == {"next": numbers[0]}
            records = [record(number, process * share + row) for number in numbers for row in range(share)]
            store.write(process, shard, records, ABOUT.shard, {"next": numbers[-1] + 1})


def hit(store: Store, process: int, seconds: float) -> bool:
    """Starts the writer and kills it after so many seconds; False where it was done before."""
    child = os.fork()
    if child == 0:
        try:
            write(store, process)
            os._exit(0)
        except BaseException as error:  # a child must not come back into the loop of its parent
            print(f"the writer failed: {error!r}", flush=True)
            os._exit(1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("a writer failed by itself")
    return os.WIFSIGNALED(status)


def check(store: Store) -> None:
    """Every row is there, once, and no half-written file is left."""
    rows = Rows(store)
    rows.check()
    for index in range(len(rows)):
        wanted = FORM.unpack(record(*divmod(index, ABOUT.rows)))
        for name, array in rows[index].items():
            np.testing.assert_array_equal(array, wanted[name])
    assert not list(store.folder.glob("*.partial")), "a half-written file is left"
    assert len(rows) == ABOUT.rows * ABOUT.batches


def main() -> None:
    """Kills, and looks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    asked, chance, kills, stores = parser.parse_args().kills, random.Random(0), 0, 0
    while kills < asked:
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder) / "store")
            for process in range(ABOUT.processes):
                while hit(store, process, chance.uniform(0.0, chance.choice((0.02, 0.1, 0.3)))):
                    kills += 1
            check(Store(store.folder))
            stores += 1
    print(f"{stores} stores were killed {kills} times; every row is there, once, as it was written")


if __name__ == "__main__":
    main()
