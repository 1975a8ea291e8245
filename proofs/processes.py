"""Several processes run an experiment as one does, whatever becomes of them: a table, and exit code 1 if not.

    python proofs/processes.py                          # part of make proofs
    python proofs/processes.py kills --folder kept      # a part of it, with the runs that are made for it kept

Each row starts real processes on this machine, which join by `jax.distributed` and reduce over gloo. Held against one
process are the lines of metrics.jsonl (losses, gradient norms, held-out figures of both stages) and the final figures;
against an undisturbed run of as many processes metrics.jsonl byte for byte.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from distill import AdamW, Experiment, Learner, Stage, WarmupCosine, launch
from distill.cluster import COORDINATOR, HEARTBEAT, NOTICED, PROCESS, PROCESSES
from distill.metrics import read
from distill.reading import portion, stage_loader
from distill.rows import Rows
from distill.run import load_run
from distill.stored import Store
from distill.supervise import _free_port
from models.config import SCOUT_PICO, Layer, tiny

ROOT = Path(__file__).parents[1]
BEAT, PATIENCE = 10, 600
"""seconds of the heartbeat, and for which a run is waited for"""
CLOSE = 2e-5
"""the largest difference of a figure, as a share of it where it is more than 1"""
FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""compiling is most of what small processes do"""
MODEL = replace(tiny(SCOUT_PICO), pattern=(Layer(rope=True, moe=True), Layer(rope=False, moe=False)), layers=2)
RATE = AdamW(rate=WarmupCosine(peak=5e-3))
EXPERIMENT = Experiment(
    name="processes",
    stages=(
        Stage(
            name="teach",
            learners=(Learner(name="teacher", model=replace(MODEL, width=64), optimizer=RATE),),
            steps=10, rows=8, length=32, log_every=1, save_every=5,
        ),
        Stage(
            name="distil",
            learners=(Learner(name="student", model=MODEL, optimizer=RATE),),
            teacher="teacher", steps=60, rows=16, accumulate=2, readers=4, length=32, stream=1, log_every=1,
            save_every=10,
        ),
    ),
    held_out=2,
    glance=1,
)  # fmt: skip
"""its second stage cuts batches into micro-batches, which four readers fill"""
MESHES = {1: (), 2: ("--mesh.data", "2"), 4: ("--mesh.data", "2", "--mesh.fsdp", "2")}
ONE = [sys.executable, str(Path(__file__)), "train"]


class Group:
    """Processes that were told of each other and run one command."""

    def __init__(self, command: list[str], count: int, devices: int = 1, supervised: bool = False) -> None:
        flags = f"--xla_force_host_platform_device_count={devices} {FLAGS}"
        known = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, HEARTBEAT: str(BEAT), "PYTHONPATH": str(ROOT)}
        known |= {COORDINATOR: f"localhost:{_free_port()}", PROCESSES: str(count)} if count > 1 else {}
        watch = [sys.executable, "-m", "distill.supervise", "--grace", "2", "--"] if supervised else []
        self.processes = [
            subprocess.Popen(
                [*watch, *command], env=known | ({PROCESS: str(number)} if count > 1 else {}), cwd=ROOT,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )
            for number in range(count)
        ]  # fmt: skip

    def end(self, wanted: int = 0) -> "Group":
        """Waits for all, each of which must end with this code."""
        try:
            said = [process.communicate(timeout=PATIENCE)[1] for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        codes = [process.returncode for process in self.processes]
        if codes != [wanted] * len(codes):
            raise SystemExit(f"processes ended with {codes}, not {wanted}: {said[0][-3000:]}\n---\n{said[-1][-3000:]}")
        self.said = said
        return self


def train(folder: Path, count: int, *options: str, devices: int = 1) -> Group:
    """Processes that train, with as many devices in all as the mesh has."""
    asked = options or MESHES[count]
    return Group([*ONE, "--run", str(folder), *asked], count, devices)


def reached(folder: Path, stage: str, step: int) -> None:
    """Waits until this step is written down."""
    end = time.monotonic() + PATIENCE
    while not any((one["stage"], one["step"]) == (stage, step) for one in read(folder / "metrics.jsonl")):
        if time.monotonic() > end:
            raise SystemExit(f"{folder} never came to step {step} of {stage}")
        time.sleep(0.02)


def distance(one: Path, other: Path) -> float:
    """The largest difference between the lines and the figures of two runs; infinite where one lacks something."""
    left, right = read(one / "metrics.jsonl"), read(other / "metrics.jsonl")
    left += load_run(one).results["models"]
    right += load_run(other).results["models"]
    worst = 0.0 if len(left) == len(right) else float("inf")
    for a, b in zip(left, right, strict=False):
        if a.keys() != b.keys() or [a[name] for name in ("stage", "step") if name in a] != [
            b[name] for name in ("stage", "step") if name in b
        ]:
            return float("inf")
        for name in a.keys() - {"seconds"}:
            if isinstance(a[name], float):
                worst = max(worst, abs(a[name] - b[name]) / max(1.0, abs(a[name])))
    return worst


def same(one: Path, other: Path) -> bool:
    """Whether two runs have the same lines, byte for byte."""
    return (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


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


class Table:
    """Rows of figures with what they must be."""

    def __init__(self) -> None:
        self.good, self.began = True, time.monotonic()
        print(f"{'what':78} {'found':>10} {'must be':>10} {'seconds':>8}", flush=True)

    def row(self, what: str, found: float, must: Callable[[float], bool], said: str) -> None:
        """One more, with the seconds since the last."""
        good, now = must(found), time.monotonic()
        self.good &= good
        print(f"{what:78} {found:10.3g} {said:>10} {now - self.began:8.1f}{'' if good else '   FAILED'}", flush=True)
        self.began = now

    def close(self, what: str, found: float) -> None:
        """A difference that must be small."""
        self.row(what, found, lambda x: x <= CLOSE, f"<= {CLOSE:g}")

    def none(self, what: str, found: float) -> None:
        """A number that must be 0."""
        self.row(what, found, lambda x: x == 0, "0")

    def yes(self, what: str, found: bool) -> None:
        """Something that must be."""
        self.row(what, float(found), lambda x: x == 1.0, "1")


def reference(root: Path, count: int) -> Path:
    """An undisturbed run of so many processes; once."""
    if not (root / f"{count}" / "report.html").exists():
        train(root / f"{count}", count).end()
    return root / f"{count}"


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


def stores(root: Path, table: Table) -> None:
    """Captured by 2 processes that hold the teacher together, and by 1; learned from by 1 and 2."""
    taken = []
    for count in (1, 2):
        to = root / f"store{count}"
        capture = [sys.executable, "-m", "distill.store", "capture", __file__, str(reference(root, 1)), str(to)]
        Group([*capture, "--stage", "distil", "--dtype", "float32", "--", *MESHES[count]], count).end()
        rows = Rows(Store(to))
        taken.append([rows[number] for number in range(len(rows))])
    exact = all(np.array_equal(a[name], b[name]) for a, b in zip(*taken, strict=True) for name in ("tokens", "labels"))
    table.yes("stores captured by 1 and by 2 processes: the same rows in the same places", exact)
    worst = max(float(np.max(np.abs(a["log_probs"] - b["log_probs"]))) for a, b in zip(*taken, strict=True))
    table.close("  largest difference of a log-probability", worst)
    for count in (1, 2):
        train(root / f"read{count}", count, "--stages.1.store", str(root / "store2"), *MESHES[count]).end()
    table.close("that of 2, learned from by 2 processes and by 1: difference", distance(root / "read1", root / "read2"))


PARTS = {each.__name__: each for each in (data, numbers, notice, kills, stores)}


def main() -> None:
    """All of it, or some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="of it; all, if none is named")
    parser.add_argument("--folder", type=Path, help="in which the runs stay; else they go")
    asked, began = parser.parse_args(), time.monotonic()
    with tempfile.TemporaryDirectory() as where:
        root, table = asked.folder or Path(where), Table()
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{root.absolute()}/compiled")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
        for part in asked.parts or PARTS:
            PARTS[part](root, table)
        print(json.dumps({"good": table.good, "seconds": round(time.monotonic() - began)}))
    sys.exit(0 if table.good else 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        launch(EXPERIMENT, sys.argv[2:])
    else:
        main()
