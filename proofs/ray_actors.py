"""Workers of Ray's draw what threads draw, whichever way weights get to them, and kill -9 of workers changes nothing.

    make proofs            # or: python proofs/ray_actors.py --kills 2

A small model that has begun to answer is rewarded for even answers, in strict order, one version behind. Drawn by a
thread first; then by two workers in processes of their own, by Ray's object store, by a folder, and by JAX's transfer;
then with workers killed in the middle of drawing. Weights and metrics must be those of the thread's run, bit for bit.
"""

import argparse
import hashlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests, which are not installed

from distill.process import settle
from distill.rl.on_disk import OnDisk
from distill.rl.pulled import Pulled
from distill.rl.ray_actors import RayActors
from distill.rl.ray_store import ObjectStore
from distill.rl.stage import Reinforcement
from tests.distill.rl.begun import STAGE, begin, finish

LONG = replace(STAGE, steps=12)


def digest(begun: Path, folder: Path, stage: Reinforcement) -> tuple[str, float]:
    """sha256 of the final weights and of the lines of the metrics; seconds."""
    began = time.monotonic()
    weights, lines = finish(begun, folder, stage)
    found = hashlib.sha256(b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in weights))
    found.update(repr(lines).encode())
    return found.hexdigest(), time.monotonic() - began


def workers() -> list[int]:
    """Processes of workers whose cluster this process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cmdline").read_bytes().startswith(b"ray::Worker") and _parent(
                _parent(int(path.name))
            ) == os.getpid():
                found.append(int(path.name))
        except (OSError, ValueError):  # it has ended meanwhile
            continue
    return found


def _parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def disturb(kills: int, done: threading.Event, killed: list[float]) -> None:
    """Kills workers, one after another, each some seconds after it was there."""
    chance = random.Random(0)
    while len(killed) < kills and not done.is_set():
        found = workers()
        if not found or done.wait(chance.uniform(5.0, 15.0)):
            done.wait(0.1)
            continue
        victim = chance.choice(found)
        if victim in workers():
            os.kill(victim, signal.SIGKILL)
            killed.append(time.monotonic())


def main() -> None:
    """Every way, then with kills; says what it found, and fails if anything is not the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=2)
    asked = parser.parse_args()
    settle()
    with tempfile.TemporaryDirectory() as where:
        root = Path(where)
        begun = begin(root / "begun")
        for name in ("compiled", "threads"):  # the second time nothing is compiled
            wanted, seconds = digest(begun, root / name, LONG)
        print(f"a thread:       {wanted[:16]} in {seconds:5.1f} s", flush=True)
        wrong = []
        for way in (ObjectStore(), OnDisk(), Pulled()):
            name = type(way).__name__
            stage = replace(LONG, actors=RayActors(workers=2, weights=way))
            found, seconds = digest(begun, root / name, stage)
            print(f"{name + ':':15} {found[:16]} in {seconds:5.1f} s, same: {found == wanted}", flush=True)
            wrong += [name] if found != wanted else []
        done, killed = threading.Event(), list[float]()
        stage = replace(LONG, steps=LONG.steps * 3, actors=RayActors(workers=2, deaths=100))
        wanted, _ = digest(begun, root / "long", replace(stage, actors=STAGE.actors))
        thread = threading.Thread(target=disturb, args=(asked.kills, done, killed))
        thread.start()
        found, seconds = digest(begun, root / "killed", stage)
        done.set()
        thread.join()
        print(f"{len(killed)} kills -9: {found[:16]} in {seconds:5.1f} s, same: {found == wanted}", flush=True)
        if wrong or found != wanted or len(killed) < asked.kills:
            raise SystemExit(f"not the same, or not killed: {wrong}, {len(killed)} kills")


if __name__ == "__main__":
    main()
