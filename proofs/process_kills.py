"""Several processes that are killed, told to go, or joined in other numbers lose nothing: a table; exit code 1 if not.

    python proofs/process_kills.py                       # part of make proofs
    python proofs/process_kills.py kills --folder kept   # a part of it, with the runs that are made for it kept

Real processes on this machine (`several/`) get SIGTERM, or kill -9 with a supervisor and without. Held against a run of
one process are the lines of metrics.jsonl and the final figures; against an undisturbed run of as many processes
metrics.jsonl byte for byte.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from several.group import BEAT, MESHES, ONE, Group, reached, reference, train
from several.table import Table, distance, prove, same

from distill.cluster import NOTICED
from distill.metrics import read


def kill_one(group: Group, number: int) -> float:
    """kill -9; seconds until the others have stopped by themselves."""
    began = time.monotonic()
    group.processes[number].kill()
    for process in group.processes:
        process.wait(timeout=120)
    return time.monotonic() - began


def children(process: subprocess.Popen) -> list[int]:
    """Of a supervisor."""
    return [int(one) for one in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def notice(root: Path, table: Table) -> None:
    """SIGTERM to one of 2, whose checkpoint 4 go on from, and then 1."""
    folder = root / "chain"
    for count, step, who in ((2, 7, 1), (4, 25, 0)):
        group = train(folder, count)
        reached(folder, "distil", step)
        group.processes[who].send_signal(signal.SIGTERM)
        group.end(NOTICED)
        last = read(folder / "metrics.jsonl")[-1]["step"]
        saved = max(int(path.name) for path in (folder / "checkpoints" / "distil").iterdir() if path.name.isdigit())
        table.none(
            f"SIGTERM to process {who} of {count}, all end with {NOTICED}: steps that are not saved", last - saved
        )
    train(folder, 1).end()
    table.close("2 until a notice, then 4 on another mesh, then 1: difference", distance(reference(root, 1), folder))


def kills(root: Path, table: Table) -> None:
    """kill -9 without a supervisor, and with one in each place."""
    folder, most = root / "killed", 2 * BEAT
    for who in (1, 0):
        group = train(folder, 2)
        reached(folder, "distil", 12 if who else 22)
        left = kill_one(group, who)
        table.row(
            f"kill -9 of process {who} of 2: seconds until the other has stopped", left, lambda x: x < most, f"< {most}"
        )
    train(folder, 2).end()
    table.yes("  the same command again: metrics.jsonl is that of an undisturbed run", same(reference(root, 2), folder))
    watch = [sys.executable, "-m", "distill.supervise", "--processes", "2", "--grace", "2", "--"]
    for name in ("one supervisor of 2 processes", "2 supervisors of a process each"):
        folder = root / name.replace(" ", "-")
        asked = [*ONE, "--run", str(folder), *MESHES[2]]
        made = Group([*watch, *asked], 1) if name.startswith("one") else Group(asked, 2, supervised=True)
        reached(folder, "distil", 12)
        os.kill(children(made.processes[-1])[-1], signal.SIGKILL)
        restarts = max(each.count("all start again") for each in made.end().said)
        table.yes(f"{name}, kill -9: metrics.jsonl is that of an undisturbed run", same(reference(root, 2), folder))
        table.close("  final figures: difference from one process", distance(reference(root, 1), folder))
        table.row("  restarts", restarts, lambda x: 1 <= x <= 5, "1 to 5")


if __name__ == "__main__":
    prove(__doc__, notice, kills)
