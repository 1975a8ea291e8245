"""Twenty kill -9 at random moments leave the final numbers of an uninterrupted run, bit for bit.

    make proofs            # or: python proofs/kills.py --kills 20

Runs `experiments/herd.py --tiny` once in peace; then again in another folder, killed at random moments (set-up of the
run, compilation, training, checkpoints, evaluation) and started again until it has been killed often enough; then lets
it finish. metrics.jsonl must be equal byte for byte, results.json in everything but date and seconds. After the kills
another run is interrupted by Ctrl-C, which must end it with exit code 130 and the same numbers. About 14 minutes.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOVING = ("date", "seconds")


def start(folder: Path) -> subprocess.Popen:
    """A run of the tiny herd in `folder`."""
    command = [sys.executable, "experiments/herd.py", "--tiny", "--quiet", "--run", str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(folder: Path) -> float:
    """Run to the end; seconds it took.

    Raises:
      RuntimeError: it failed.
    """
    begun = time.monotonic()
    process = start(folder)
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the run in {folder} ended with {process.returncode}: {errors[-2000:]}")
    return time.monotonic() - begun


def figures(folder: Path) -> object:
    """results.json without what depends on the clock."""

    def still(value: object) -> object:
        if isinstance(value, dict):
            return {name: still(one) for name, one in value.items() if name not in MOVING}
        return [still(one) for one in value] if isinstance(value, list) else value

    return still(json.loads((folder / "results.json").read_text()))


def stands(folder: Path) -> str:
    """Where a run was killed: its last line of metrics."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    row = json.loads(lines[-1]) if lines and lines[-1].endswith("}") else {"stage": "set-up", "step": 0}
    return f"{row['stage']} {row['step']}"


def kill(folder: Path, kills: int, seconds: float) -> list[str]:
    """Kill -9 the run at random moments until it was hit `kills` times; where each hit it."""
    found, chance = [], random.Random(0)
    while len(found) < kills:
        process = start(folder)
        try:
            process.wait(timeout=chance.uniform(1.0, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            found.append(stands(folder))
            print(f"kill {len(found):2}: {found[-1]}", flush=True)
            continue
        if process.returncode:
            raise RuntimeError(f"the run in {folder} failed by itself: {process.communicate()[1][-2000:]}")
        (folder / "results.json").unlink()  # it finished before it was hit: take back its last stage and go on
        subprocess.run(["rm", "-rf", folder / "checkpoints" / "alone", folder / "checkpoints" / "distil"], check=True)
    return found


def interrupt(folder: Path, seconds: float) -> int:
    """Ctrl-C in the middle; the exit code."""
    process = start(folder)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    process.communicate()
    return process.returncode


def main() -> None:
    """Compare, say what was seen, fail if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    kills = parser.parse_args().kills
    with tempfile.TemporaryDirectory() as folder:
        whole, hit, stopped = Path(folder) / "whole", Path(folder) / "hit", Path(folder) / "stopped"
        finish(Path(folder) / "first")  # compiles
        seconds = finish(whole)
        print(f"uninterrupted, programs compiled before: {seconds:.0f} s")
        kill(hit, kills, seconds)
        finish(hit)
        code = interrupt(stopped, seconds / 2)
        print(f"Ctrl-C at {stands(stopped)}: exit code {code}")
        finish(stopped)
        lines = (whole / "metrics.jsonl").read_bytes()
        for other in (hit, stopped):
            assert (other / "metrics.jsonl").read_bytes() == lines, f"metrics.jsonl of {other.name} differs"
            assert figures(other) == figures(whole), f"results.json of {other.name} differs"
        assert code == 130, f"Ctrl-C ended the run with {code}, not 130"
        print(f"{kills} kills and a Ctrl-C: {len(lines.splitlines())} lines of metrics and all results are equal")


if __name__ == "__main__":
    main()
