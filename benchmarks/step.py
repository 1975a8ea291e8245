"""The distillation step against its peers: every side alive at once, asked in turn, ratios within a round.

    python -m benchmarks.step                            all of it, 9 rounds
    python -m benchmarks.step --only torch herd --rounds 15

Each side is a process of its own (worker.py) that is idle while another runs. A round asks every side for one step,
in the opposite order of the round before; a step during which something else ran on the machine is asked again.
"""

import argparse
import datetime
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine
from benchmarks.sides import BARS, CEILING, FLOORS, QUIET, SIDES, Bar, Side, chosen
from benchmarks.sizes import DENSE_STEP
from benchmarks.worker import Took, Worker

ROOT = Path(__file__).parent.parent


@dataclass
class Row:
    """A side with its process and what it took, round by round."""

    side: Side
    worker: Worker
    took: list[Took]
    quiet: list[bool]

    @property
    def seconds(self) -> float:
        """The median of the steps that nothing disturbed; of all, where there is none."""
        return statistics.median(self._fair())

    @property
    def best(self) -> float:
        """The fastest of them."""
        return min(self._fair())

    def _once(self) -> tuple[Took, bool]:
        before = machine.read(self.worker.pid)
        took = self.worker.step()
        return took, machine.others(before, machine.read(self.worker.pid)) < QUIET

    def _fair(self) -> list[float]:
        fair = [took.seconds for took, quiet in zip(self.took, self.quiet, strict=True) if quiet]
        return fair or [took.seconds for took in self.took]

    @property
    def rate(self) -> float:
        """Counted FLOP/s of the median step."""
        return self.worker.about["flops"] / self.seconds

    def ask(self, tries: int) -> None:
        """Runs one step; asks again, up to `tries` times in all, while something else kept the machine busy."""
        took, quiet = self._once()
        while not quiet and tries > 1:
            took, quiet = self._once()
            tries -= 1
        self.took.append(took)
        self.quiet.append(quiet)


def surroundings(threads: int) -> dict[str, str]:
    """The environment of every side: its threads, large pages, no accelerator."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }


def start(said: argparse.Namespace, logs: Path) -> list[Row]:
    """Starts every side asked for and runs its first steps, which compile and fill caches."""
    environment = surroundings(said.threads)
    shape = [f"--{name}={getattr(said, name)}" for name in ("vocab", "batch", "length", "threads")]
    rows = []
    for number, side in enumerate(chosen(said.only)):
        python = said.peers if side.peer else Path(sys.executable)
        arguments = [*shape, f"--dtype={side.dtype}", *side.arguments]
        worker = Worker(python, side.module, arguments, environment, logs / f"{number}.log")
        first = [worker.step() for _ in range(said.warmup)]
        print(f"{side.name:15} first step {first[0].seconds:.2f} s, loss {first[0].loss:.4f}", flush=True)
        rows.append(Row(side, worker, [], []))
    return rows


def compare(rows: list[Row], bars: tuple[Bar, ...] = BARS) -> list[dict]:
    """The ratio of each bar whose two sides ran: its median and quartiles over the rounds quiet for both.

    Where fewer than half of the rounds were, and fewer than two, there is no ratio: a side whose threads wait for each
    other loses far more to a busy machine than one whose do not.
    """
    by_name = {row.side.name: row for row in rows}
    out = []
    for bar in bars:
        if bar.ours not in by_name or bar.theirs not in by_name:
            continue
        ours, theirs = by_name[bar.ours], by_name[bar.theirs]
        both = zip(ours.took, ours.quiet, theirs.took, theirs.quiet, strict=True)
        ratios = [b.seconds / a.seconds for a, a_quiet, b, b_quiet in both if a_quiet and b_quiet]
        judged = {"ours": bar.ours, "theirs": bar.theirs, "atleast": round(bar.atleast, 3), "quiet_rounds": len(ratios)}
        if len(ratios) >= max(2, len(ours.took) / 2):
            low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
            judged |= {"ratio": middle, "quartiles": [low, high], "best": theirs.best / ours.best}
            judged |= {"met": middle >= bar.atleast}
        out.append(judged)
    return out


def describe(bar: dict) -> str:
    """A bar in a line."""
    start = f"{bar['ours']} vs {bar['theirs']}: "
    if "ratio" not in bar:
        return start + f"not judged, only {bar['quiet_rounds']} rounds were quiet"
    low, high = bar["quartiles"]
    verdict = "met" if bar["met"] else "MISSED"
    return start + (
        f"{bar['ratio']:.2f}x [{low:.2f}, {high:.2f}], best {bar['best']:.2f}x; "
        f"at least {bar['atleast']:.2f}x: {verdict} ({bar['quiet_rounds']} quiet rounds)"
    )


def report(rows: list[Row], tokens: int) -> list[dict]:
    """Prints one line for each side and returns the same as data."""
    ceilings = {row.side.name: row.rate for row in rows}
    print(f"\n{'':15} {'s/step':>8} {'best':>8} {'tok/s':>8} {'GFLOP/s':>8} {'MFU':>5}  disturbed")
    out = []
    for row in rows:
        ceiling = ceilings.get(CEILING[row.side.dtype])
        share = row.rate / ceiling if ceiling else None
        step = row.side.name not in CEILING.values()
        disturbed = row.quiet.count(False)
        floor = FLOORS.get(row.side.name)
        below = ""
        if floor is not None and share is not None and share < floor and disturbed <= len(row.took) / 2:
            below = f"  below {floor:.0%}"
        print(
            f"{row.side.name:15} {row.seconds:8.3f} {row.best:8.3f} {tokens / row.seconds if step else 0:8.0f} "
            f"{row.rate / 1e9:8.1f} {f'{share:5.0%}' if share else '':5}  {disturbed}/{len(row.took)}{below}"
        )
        out.append(
            {"side": row.side.name, "seconds": [round(took.seconds, 4) for took in row.took], "mfu": share}
            | {"quiet": row.quiet, "loss": row.took[-1].loss, **row.worker.about}
        )
    return out


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="The distillation step against its peers.")
    parser.add_argument("--only", nargs="*", metavar="SIDE", help="run these: " + ", ".join(s.name for s in SIDES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--warmup", type=int, default=3, help="steps of each side that are not counted")
    parser.add_argument("--tries", type=int, default=3, help="how often a disturbed step is asked for")
    parser.add_argument("--quiet", type=float, default=30.0, help="seconds to wait for a quiet machine before a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vocab", type=int, default=DENSE_STEP.teacher.vocab)
    parser.add_argument("--batch", type=int, default=DENSE_STEP.batch)
    parser.add_argument("--length", type=int, default=DENSE_STEP.length)
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-bench/bin/python", help="the peers' Python")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results.jsonl")
    said = parser.parse_args()
    wrong = set(said.only or ()) - {word for side in SIDES for word in (side.name, side.name.split()[0])}
    if wrong:
        parser.error(f"--only does not know {', '.join(sorted(wrong))}; it knows {', '.join(s.name for s in SIDES)}")
    if said.rounds < 2:
        parser.error(f"--rounds was {said.rounds}; quartiles need at least 2")
    if not said.peers.exists() and any(side.peer for side in chosen(said.only)):
        parser.error(f"there is no Python at {said.peers}; `make bench` creates it, or name one with --peers")
    return said


def main() -> None:
    """Starts the sides, asks them in turn, prints and appends what came out."""
    said = parse()
    machine.keep(said.threads)  # the workers inherit it, on both sides
    with tempfile.TemporaryDirectory() as logs:
        rows = start(said, Path(logs))
        busy = []
        for number in range(said.rounds):
            busy.append(machine.wait_until_quiet(said.quiet))
            for row in rows if number % 2 == 0 else rows[::-1]:
                row.ask(said.tries)
        sides = report(rows, said.batch * said.length)
        for row in rows:
            row.worker.stop()
    bars = compare(rows)
    print("", *map(describe, bars), sep="\n")
    record = {
        "benchmark": "step",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine.describe(),
        "shape": {name: getattr(said, name) for name in ("vocab", "batch", "length", "threads")},
        "busy_cores_before_rounds": [round(cores, 2) for cores in busy],
        "sides": sides,
        "bars": bars,
    }
    with said.out.open("a") as file:
        file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
