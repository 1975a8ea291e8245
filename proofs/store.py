"""Hundreds of kill -9 at random moments leave a teacher-target store with every row, once, byte for byte.

    make proofs            # or: python proofs/store.py --kills 200 --captures 8

Two processes in turn write their parts of a small store of made-up rows through `Store.writing` and `Store.write`, as
a capture does. Each is killed at random moments and started again until it ends by itself; then every checksum and
every row is held against what was to be written: about half a minute on a quiet machine. Then `python -m distill.store
capture` itself is killed some times, at moments spread over its whole life, and what it leaves in the end is held
against what it makes undisturbed, file by file: about ten seconds a kill.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from distill.rows import Rows
from distill.stored import About, Store
from distill.targets import Form

FORM = Form(count=12, vocab=272, length=128)
ABOUT = About(
    teacher="teacher", computed="float32", tokenizer="tokenizer", data="data", documents=None,
    order="as they come", change="None", form=FORM, rows=8, batches=40, processes=2, shard=5,
)  # fmt: skip


def record(number: int, row: int) -> bytes:
    """A made-up row of a batch."""
    chance = np.random.default_rng([number, row])
    kinds = FORM.fields.items()
    return FORM.pack(
        {n: -chance.random(shape) if d[:5] == "float" else chance.integers(0, 200, shape) for n, (d, shape) in kinds}
    )


def write(store: Store, process: int) -> None:
    """Writes what is missing of a process's part, as `distill.capture.Capture` does."""
    share = ABOUT.rows // ABOUT.processes
    with store.writing(ABOUT, process):
        done = {one.number for one in store.shards(process)}
        for shard in sorted({*range(ABOUT.batches // ABOUT.shard)} - done):
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


SILENT: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
MINE = """
from distill import Experiment, Learner, Stage, launch
from distill.data.source import Folder
from models.config import BEHEMOTH_PICO, SCOUT_PICO, tiny

teach = Stage(name="teach", learners=(Learner(name="behemoth", model=tiny(BEHEMOTH_PICO)),), steps=2, rows=4, length=32)
scout = Learner(name="scout", model=tiny(SCOUT_PICO))
distil = Stage(name="distil", learners=(scout,), teacher="behemoth", steps=STEPS, rows=4, length=32, stream=1)
EXPERIMENT = Experiment(name="mine", corpus=Folder("text"), stages=(teach, distil), held_out=1)
if __name__ == "__main__":
    launch(EXPERIMENT)
"""


def kill_captures(place: Path, kills: int) -> tuple[int, int]:
    """Real captures in a folder, killed so often in all; how many were begun anew, and the files that each makes."""
    (place / "text").mkdir()
    chance = random.Random(1)
    for number in range(60):
        (place / "text" / f"{number}.txt").write_text(" ".join(str(chance.randrange(1000)) for _ in range(100)))
    for name, steps in (("teach", 2), ("mine", 400)):
        (place / f"{name}.py").write_text(MINE.replace("STEPS", str(steps)))
    python = [sys.executable, "-W", "ignore"]
    subprocess.run([*python, "teach.py", "--run", "run"], cwd=place, check=True, **SILENT)

    def capture(to: str) -> subprocess.Popen:
        asked = ["-m", "distill.store", "capture", "mine.py", "run", to, "--shard", "5"]
        return subprocess.Popen([*python, *asked], cwd=place, **SILENT)

    def files(store: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (place / store).iterdir()}

    start = time.monotonic()
    assert capture("whole").wait() == 0, "the capture failed by itself"
    life, wanted, done, stores = time.monotonic() - start, files("whole"), 0, 0
    while done < kills:
        stores += 1
        finished = False
        while not finished:
            child = capture(f"store{stores}")
            try:
                finished = child.wait(life * chance.uniform(0.2, 1.0) if done < kills else None) == 0
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                done += 1
        assert files(f"store{stores}") == wanted, "a capture that was killed made another store"
    return stores, len(wanted)


def main() -> None:
    """Kills, and looks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--captures", type=int, default=8, help="kills of the real capture")
    said = parser.parse_args()
    asked, chance, kills, stores = said.kills, random.Random(0), 0, 0
    while kills < asked:
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder) / "store")
            for process in range(ABOUT.processes):
                while hit(store, process, chance.uniform(0.0, chance.choice((0.02, 0.1, 0.3)))):
                    kills += 1
            check(Store(store.folder))
            stores += 1
    print(f"{stores} stores were killed {kills} times; every row is there, once, as it was written")
    with tempfile.TemporaryDirectory() as folder:
        stores, size = kill_captures(Path(folder), said.captures)
    print(f"{stores} captures of {size} files were killed {said.captures} times; each made the same files in the end")


if __name__ == "__main__":
    main()
