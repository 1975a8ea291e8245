"""Kill -9, of the learner and of those who grade, and the run ends with the same bits; no group is lost or doubled.

    make proofs            # or: python proofs/reinforcement.py --kills 20

A small model that has begun to answer is rewarded for even answers, in strict order, one version behind, with
simulated latency and a checkpoint every second update. Undisturbed first. Then the process (learner, actor, grading) is
killed at named moments (inside a checkpoint, around the rename that gives it its name, inside and after a publication,
inside a record of the journal, during a restart) and at any, and started again until it ends by itself. Then the
processes that grade are killed at random moments while a run goes on. Weights, metrics and the journal's books must be
those of the undisturbed run, and a run must learn again within 30 seconds. About ten seconds a kill of the learner.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests, which are not installed

from distill.metrics import Metrics
from distill.process import settle
from distill.rl.examiner import GRADER, Examiner, Failed
from distill.rl.learning import Learning
from distill.run import Run
from distill.state import State
from tests.distill.rl.begun import EVEN, SLOW, STAGE, begin, books, finish
from tests.distill.rl.moments import MOMENTS, WRITING, temporary

LONG = replace(STAGE, steps=12, latency=SLOW, reward=replace(EVEN, parameters={"seconds": 0.02}))
ANY = "any"
MOST = 30.0
"""seconds until a run, or a grade, is there again"""


def digest(begun: Path, folder: Path) -> str:
    """sha256 of the final weights and of the lines of the metrics."""
    weights, lines = finish(begun, folder, LONG)
    found = hashlib.sha256(b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in weights))
    found.update(repr(lines).encode())
    return found.hexdigest()


def child(begun: Path, folder: Path, moment: str, count: str, told: str) -> None:
    """A run that may kill itself; `told` gets the time of its first update, and what each grader took to come back."""
    if moment in MOMENTS:
        MOMENTS[moment](folder / "checkpoints" / LONG.name)(int(count))
    write, grade, learn = Metrics.write, Examiner.grade, Learning.run
    lost: dict[Examiner, float] = {}
    counted: list[Counter[str]] = []

    def tell(**what: float) -> None:
        with open(told, "a") as file:
            file.write(json.dumps(what) + "\n")

    def written(metrics: Metrics, *where: object, **values: object) -> None:
        write(metrics, *where, **values)
        tell(update=time.monotonic(), computing=time.process_time())

    def graded(examiner: Examiner, *asked: object) -> float | Failed:
        found = grade(examiner, *asked)
        if isinstance(found, Failed):
            lost[examiner] = time.monotonic()
        elif examiner in lost:
            tell(graded=time.monotonic() - lost.pop(examiner))
        return found

    def learned(learning: Learning, state: State, start: int) -> State:
        counted.append(learning.books.faults)
        return learn(learning, state, start)

    Metrics.write, Examiner.grade, Learning.run = written, graded, learned
    print(digest(begun, folder), flush=True)
    for faults in counted:
        tell(died=faults["graders_died"], failed=faults["answers_failed"])


class Proof:
    """Runs of one beginning, in processes of their own."""

    def __init__(self, root: Path) -> None:
        self.root, self.told, self.chance = root, root / "told", random.Random(0)
        self.waits: list[tuple[float, float]] = []
        """seconds from a start to the first update, and those of them that were computed"""
        self.command = [sys.executable, __file__, "--child", str(root / "begun")]
        begin(root / "begun")
        for name in ("whole", "again"):  # the second time nothing is compiled
            began = time.monotonic()
            self.wanted = self.end(self.start(root / name))
            self.seconds = time.monotonic() - began
        print(
            f"undisturbed: {self.seconds:.1f} s, {self.wanted[:16]}, {books(root / 'again', LONG).counts}", flush=True
        )

    def start(self, folder: Path, moment: str = ANY, count: int = 0) -> subprocess.Popen[str]:
        """A run, from wherever an earlier one left it."""
        self.told.write_text("")
        command = [*self.command, str(folder), moment, str(count), str(self.told)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end(self, run: subprocess.Popen[str]) -> str:
        """What it found, once it is over by itself."""
        found, errors = run.communicate()
        if run.returncode:
            raise SystemExit(f"a run ended with {run.returncode} by itself: {errors[-2000:]}")
        return found.strip()

    def hear(self, what: str) -> list[float]:
        """What the last run told."""
        lines = [json.loads(line) for line in self.told.read_text().splitlines() if line.endswith("}")]
        return [line[what] for line in lines if what in line]

    def check(self, folder: Path, found: str) -> None:
        """Fails unless weights, metrics and books are those of the undisturbed run."""
        # Whether a group that was on its way at the end was judged by then depends on the timing.
        audit, whole = books(folder, LONG), books(self.root / "again", LONG)
        same = found == self.wanted and audit.counts["consumed"] == whole.counts["consumed"]
        same = same and not audit.lost and not audit.doubled
        print(
            f"  to the end: weights and metrics the same {found == self.wanted}, lost {len(audit.lost)}, doubled "
            f"{len(audit.doubled)}, {audit.counts['consumed']} consumed, {audit.counts['filtered']} filtered",
            flush=True,
        )
        if not same:
            raise SystemExit(f"{folder}: {found[:16]} and {audit}, not {self.wanted[:16]} and {whole}")

    def recovered(self, began: float) -> float | None:
        """Seconds from the start of the last run to its first update; None: it had none."""
        if not self.hear("update"):
            return None
        self.waits.append((self.hear("update")[0] - began, self.hear("computing")[0]))
        return self.waits[-1][0]

    def killed_once(self, folder: Path, moment: str) -> tuple[bool, float | None, str | None]:
        """A run that is to die: whether it did, the seconds to its first update, and else what it found at its end."""
        began = time.monotonic()
        run = self.start(folder, moment, self.chance.randint(1, 6 if moment == WRITING else 2))
        try:
            patience = self.chance.uniform(0.2, 1.0) * self.seconds if moment == ANY else 600.0
            found, errors = run.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            run.kill()
            found, errors = run.communicate()
        if run.returncode not in (0, -signal.SIGKILL):
            raise SystemExit(f"a run ended with {run.returncode} by itself: {errors[-2000:]}")
        return run.returncode != 0, self.recovered(began), found.strip() or None


def learner(proof: Proof, kills: int) -> float:
    """Kills of the whole process; the longest that a run took to learn again."""
    names = [*MOMENTS, ANY]
    due = [names[kill % len(names)] for kill in range(kills)]
    proof.chance.shuffle(due)
    folder, hit, number = proof.root / "killed", dict.fromkeys(names, 0), 0
    print(f"{'kill':4} {'moment':40} {'update':>6} {'first update after':>18}   on the disk", flush=True)
    while due:
        old = {*temporary(folder / "checkpoints" / LONG.name)[1]}
        died, seconds, found = proof.killed_once(folder, due[0])
        if not died:  # it ended before that moment came: it is looked for in another run
            proof.check(folder, found or "")
            folder = folder.with_name(f"{folder.name}-")
            continue
        begun, leaves = temporary(folder / "checkpoints" / LONG.name)
        leaves = [leaf for leaf in leaves if leaf not in old]
        if due[0] == WRITING and not leaves:
            continue  # it came too late, by its own witness: the next one does
        moment, number = due.pop(0), number + 1
        hit[moment] += 1
        named = sorted(int(one.name) for one in (folder / "checkpoints" / LONG.name).glob("*") if one.name.isdigit())
        stands = (Run(folder).metrics() or [{"step": 0}])[-1]["step"]
        after = "-" if seconds is None else f"{seconds:.1f} s"
        on_disk = f"checkpoints {named}" + (
            f", {begun[0].split('.')[0]} without its name, {len(leaves)} files" if leaves else ""
        )
        print(f"{number:4} {moment:40} {stands:6} {after:>18}   {on_disk}", flush=True)
    began = time.monotonic()
    proof.check(folder, proof.end(proof.start(folder)))
    proof.recovered(began)
    longest, computed = (max(waits) for waits in zip(*proof.waits, strict=True))
    print(
        f"{number} kills of the learner: {hit}; from a start to its first update at most {longest:.1f} s, "
        f"{computed:.1f} s of them computed ({len(proof.waits)} starts)",
        flush=True,
    )
    return longest


def graders(parent: int) -> dict[int, bool]:
    """Processes that grade for a process, or watch over those that do, and whether they watch."""
    found = {}
    for path in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # one that is gone
            for pid in path.read_text().split():
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if GRADER.encode() in words:
                    found[int(pid)] = b"--ward" in words
    return found


def workers(proof: Proof, kills: int) -> float:
    """Kills of the processes that grade, while runs go on; the longest until one graded again."""
    done, watching, died, longest, folder = 0, 0, 0, 0.0, proof.root / "graders"
    while done < kills:
        run, struck, graded = proof.start(folder), set[int](), 0
        while run.poll() is None and done < kills:
            time.sleep(proof.chance.uniform(0.1, 0.4))
            living = {pid: watches for pid, watches in graders(run.pid).items() if pid not in struck}
            # Before its first update a run is killed by the other proof; and three deaths of one answer mask it.
            if living and proof.hear("update") and len(proof.hear("graded")) == graded:
                pid = proof.chance.choice([*living])
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    struck.add(pid)
                    done, watching, graded = done + 1, watching + living[pid], graded + (not living[pid])
        found = proof.end(run)
        died, longest = died + int(proof.hear("died")[0]), max([longest, *proof.hear("graded")])
        if proof.hear("failed")[0]:
            raise SystemExit(f"{proof.hear('failed')[0]} answers have no grade")
        proof.check(folder, found)
        folder = folder.with_name(f"{folder.name}-")
    print(
        f"{done} kills of those who grade, {watching} of them of the one that watches: {died} met an answer, which was "
        f"graded again by another, 0 answers have no grade; at most {longest:.2f} s until one was graded"
    )
    return longest


def main() -> None:
    """Undisturbed, then with kills; says what it found, and fails if that is not the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of the learner, and as many of those who grade")
    parser.add_argument("--child", nargs=5, help="used between processes")
    asked = parser.parse_args()
    settle()
    if asked.child:
        begun, folder, *rest = asked.child
        return child(Path(begun), Path(folder), *rest)
    with tempfile.TemporaryDirectory() as where:
        proof = Proof(Path(where))
        longest = max(learner(proof, asked.kills), workers(proof, asked.kills))
    if longest > MOST:
        raise SystemExit(f"{longest:.1f} s until it went on, which is more than {MOST:g} s")


if __name__ == "__main__":
    main()
