"""Kill -9 at random moments, and the learner ends with the same bits; no group is lost, or learned from twice.

    make proofs            # or: python proofs/reinforcement.py --kills 20

A small model that has begun to answer is rewarded for even answers, in strict order, one version behind, with
simulated latency and a checkpoint every second update. Undisturbed first; then the process (learner, actor, grading)
is killed at moments spread over its whole life, checkpoints and publications included, and started again until it
ends by itself. Weights, metrics and the journal's books must be those of the undisturbed run. About ten seconds a kill.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests, which are not installed

from distill.process import settle
from distill.rl.journal import Journal, audit
from distill.rl.record import Event
from tests.distill.rl.begun import SLOW, STAGE, begin, finish

LONG = replace(STAGE, steps=12, latency=SLOW)


def digest(begun: Path, folder: Path) -> str:
    """sha256 of the final weights and of the lines of the metrics."""
    weights, lines = finish(begun, folder, LONG)
    found = hashlib.sha256(b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in weights))
    found.update(repr(lines).encode())
    return found.hexdigest()


def main() -> None:
    """Undisturbed, then with kills; says what it found, and fails if that is not the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--child", nargs=2, type=Path, help="used between processes")
    asked = parser.parse_args()
    settle()
    if asked.child:
        print(digest(*asked.child), flush=True)
        return
    with tempfile.TemporaryDirectory() as where:
        root = Path(where)
        begin(root / "begun")
        command = [sys.executable, __file__, "--child", str(root / "begun")]
        for name in ("whole", "again"):  # the second time nothing is compiled
            started = time.monotonic()
            wanted = subprocess.run([*command, str(root / name)], check=True, capture_output=True, text=True).stdout
            whole = time.monotonic() - started
            print(f"undisturbed: {whole:.1f} s, {wanted.strip()[:16]}", flush=True)
        chance, kills, longest, folder = random.Random(0), 0, 0.0, root / "killed"
        while True:
            child = subprocess.Popen([*command, str(folder)], stdout=subprocess.PIPE, text=True, start_new_session=True)
            started = time.monotonic()
            try:
                found, _ = child.communicate(timeout=chance.uniform(0.2, 1.0) * whole if kills < asked.kills else None)
            except subprocess.TimeoutExpired:
                os.kill(child.pid, signal.SIGKILL)
                child.communicate()
                kills += 1
                continue
            if child.returncode:
                raise SystemExit(f"the run failed by itself after {kills} kills")
            longest = max(longest, time.monotonic() - started)
            if kills >= asked.kills:
                break
            print(f"  done after {kills} kills: {found == wanted}", flush=True)
            if found != wanted:
                raise SystemExit(f"after {kills} kills in {folder}: {found.strip()[:16]}, not {wanted.strip()[:16]}")
            folder = folder.with_name(f"{folder.name}-")
        with Journal(folder / "journal" / LONG.name) as journal:
            records = [record for _, record in journal.read()]
        admitted = {uid for record in records if record.event is Event.ADMITTED for uid in record.uids}
        ended = {uid for one in records if one.event in (Event.CONSUMED, Event.FILTERED) for uid in one.uids}
        books = audit(records, live=admitted - ended)
        same = found == wanted and not books.doubled and not books.lost
        print(f"{kills} kills: same weights and metrics {found == wanted}, groups {books.counts}, lost {books.lost}")
        print(f"doubled {books.doubled}; the last start took {longest:.1f} s to the end of the run")
        if not same:
            raise SystemExit("not the same")


if __name__ == "__main__":
    main()
