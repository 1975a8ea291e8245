"""Several processes run an experiment as one does: a table, and exit code 1 if not.

    python proofs/processes.py                           # part of make proofs
    python proofs/processes.py stores --folder kept      # a part of it, with the runs that are made for it kept

Each row starts real processes on this machine (`several/`), which join by `jax.distributed` and reduce over gloo. Held
against one process are the lines of metrics.jsonl (losses, gradient norms, held-out figures of both stages) and the
final figures; rows of batches, and of stores, row by row. What becomes of processes that are killed is for
`process_kills.py`.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from several.experiment import EXPERIMENT
from several.group import FILE, MESHES, Group, reference, train
from several.table import Table, distance, prove

from distill.metrics import read
from distill.reading import portion, stage_loader
from distill.rows import Rows
from distill.stored import Store


def data(root: Path, table: Table) -> None:
    """Rows of batches by process."""
    for stage in EXPERIMENT.lessons:
        loader = stage_loader(EXPERIMENT, stage)
        for count in (2, 4):
            parts, half = [], stage.rows // stage.accumulate
            whole = portion(stage, loader, EXPERIMENT.corpus, range(stage.rows))
            for process in range(count):
                own = range(process * half // count, (process + 1) * half // count)
                rows = [part * half + row for part in range(stage.accumulate) for row in own]
                parts.append((rows, portion(stage, loader, EXPERIMENT.corpus, rows)))
            wrong = 0
            for _ in range(50):
                batch, put = next(whole).tokens, np.full((stage.rows, stage.length), -1)
                for rows, part in parts:
                    wrong += int((put[rows] != -1).any(1).sum())  # another has brought it
                    put[rows] = next(part).tokens
                wrong += int((put != batch).any(1).sum())
            table.none(f"{stage.name}: rows of 50 batches doubled, lost or moved by {count} processes", wrong)
            opened = max(len(part._readers) for _, part in parts)
            extra = opened - max(1, stage.readers // count)
            table.none(f"  of {stage.readers} readers, opened by a process beyond its part", extra)


def numbers(root: Path, table: Table) -> None:
    """As many processes, other devices, the same numbers."""
    one = reference(root, 1)
    table.row("one process, the reference: lines", len(read(one / "metrics.jsonl")), lambda x: x > 70, "> 70")
    for count in (2, 4):
        group = train(root / f"{count}", count).end()
        what = f"{count} processes of 1 device, {' '.join(MESHES[count])}: difference"
        table.close(what, distance(one, root / f"{count}"))
        lines = [line for said in group.said[1:] for line in said.splitlines()]
        told = sum(line.startswith(("teach", "distil", "report", "student")) for line in lines)
        table.none("  lines of progress by others than process 0", told)
    train(root / "blocked", 2, "--mesh.data", "4", devices=2).end()
    table.close("2 processes of 2 devices, --mesh.data 4: difference", distance(one, root / "blocked"))


def stores(root: Path, table: Table) -> None:
    """Captured by 2 processes that hold the teacher together, and by 1; learned from by 1 and 2."""
    taken = []
    for count in (1, 2):
        to = root / f"store{count}"
        capture = [sys.executable, "-m", "distill.store", "capture", str(FILE), str(reference(root, 1)), str(to)]
        Group([*capture, "--stage", "distil", "--dtype", "float32", "--", *MESHES[count]], count).end()
        rows = Rows(Store(to))
        taken.append([rows[number] for number in range(len(rows))])
    exact = all(np.array_equal(a[name], b[name]) for a, b in zip(*taken, strict=True) for name in ("tokens", "labels"))
    table.yes("stores captured by 1 and by 2 processes: the same rows in the same places", exact)
    worst = max(float(np.max(np.abs(a["log_probs"] - b["log_probs"]))) for a, b in zip(*taken, strict=True))
    table.close("  largest difference of a log-probability", worst)
    one, two, store = root / "read1", root / "read2", ("--stages.1.store", str(root / "store2"))
    train(one, 1, *store).end()
    # A store knows whose word it is: a teacher that 2 have taught has other bits, and would be refused.
    shutil.copytree(one, two, ignore=shutil.ignore_patterns("distil"))
    train(two, 2, *store, *MESHES[2]).end()
    table.close("that of 2, learned from by 2 processes and by 1: difference", distance(one, two))


if __name__ == "__main__":
    prove(__doc__, data, numbers, stores)
