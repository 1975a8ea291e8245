"""A run in a bucket is the run in a folder: same numbers, kill -9 included, through gcsfs and orbax's own writer.

    make proofs            # or: python proofs/bucket.py --kills 3

A server of Google Cloud Storage's protocol runs here (peers/google_storage.py, in memory): gcsfs and tensorstore, which
orbax writes arrays with, speak to it as they would to Google's; only sign-in is left out. A short `experiments/herd.py
--tiny` runs once with `--run` in a folder; then in gs://herd-proof/run, killed at random moments while it is set up and
trains and started again, and then to its end, with compiled programs and profiles in the bucket. metrics.jsonl must be
equal byte for byte, results.json in everything but date and seconds; a second process must be refused the folder while
one is at work in it.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from etils import epath
from kills import ROOT, figures

PORT, RUN, CACHE = 9123, "gs://herd-proof/run", "gs://herd-proof/cache"
HOST = f"http://localhost:{PORT}"
SPEAKING = {
    "STORAGE_EMULATOR_HOST": HOST,
    "TENSORSTORE_GCS_HTTP_URL": HOST,
    "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
    "GOOGLE_CLOUD_PROJECT": "none",
    "GCE_METADATA_HOST": "localhost:1",
    "NO_GCE_CHECK": "true",
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
}
SHORT = [f"--stages.{n}.{option}" for n in range(3) for option in ("steps=4", "save-every=2")]


def start(folder: str) -> subprocess.Popen:
    """A run of the tiny herd."""
    command = [sys.executable, "experiments/herd.py", "--tiny", "--quiet", "--profile", "1:2", "--run", folder, *SHORT]
    if folder == RUN:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(folder: str) -> float:
    """Run to the end; seconds it took.

    Raises:
      RuntimeError: it failed.
    """
    begun, process = time.monotonic(), start(folder)
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the run in {folder} ended with {process.returncode}: {errors[-3000:]}")
    return time.monotonic() - begun


def wait(process: subprocess.Popen, what: str, there: Callable[[], bool]) -> None:
    """Until something is in the bucket.

    Raises:
      RuntimeError: the run was over before.
    """
    while not there():
        if process.poll() is not None:
            _, errors = process.communicate()
            raise RuntimeError(f"the run ended with {process.returncode} and without {what}: {errors[-3000:]}")
        time.sleep(0.2)


def written() -> int:
    """Lines of metrics in the bucket."""
    file = epath.Path(RUN) / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def kill(behind: int, pause: float) -> None:
    """A run, killed so many seconds after so many lines of metrics are in the bucket."""
    process = start(RUN)
    wait(process, f"{behind} lines of metrics", lambda: written() >= behind)
    time.sleep(pause)
    over = process.poll()
    process.kill()
    process.communicate()
    if over is not None:
        raise RuntimeError(f"the run was over {pause:.1f} s behind line {behind}, before it was to be killed")


def refuse() -> None:
    """While a run is at work, which ends, another is refused.

    Raises:
      RuntimeError: it was not, or the first one failed.
    """
    one, lease = start(RUN), epath.Path(RUN) / ".lease"
    wait(one, "a lease of its own", lambda: lease.exists() and f"process {one.pid} " in lease.read_text())
    other = start(RUN)
    _, said = other.communicate()
    _, errors = one.communicate()
    if other.returncode != 1 or "in use by process" not in said or one.returncode:
        raise RuntimeError(f"of two at once: {other.returncode} {said[-500:]!r}, {one.returncode} {errors[-3000:]!r}")
    print(f"a second process was refused: {said.strip().splitlines()[-1]}", flush=True)


def prove(kills: int, seed: int, scratch: Path) -> None:
    """The whole proof.

    Raises:
      RuntimeError: something differs.
    """
    peace = finish(str(scratch / "here"))
    lines = len((scratch / "here" / "metrics.jsonl").read_text().splitlines())
    print(f"in a folder: {peace:.0f} s, {lines} lines of metrics", flush=True)
    random.seed(seed)
    for number in range(kills):
        behind, pause = number * lines // (kills + 1), random.uniform(0.0, peace / lines)
        pause += number == 0 and 0.3 * peace  # the first while it is set up
        kill(behind, pause)
        print(f"killed {pause:.1f} s behind line {behind}: {written()} lines are in the bucket", flush=True)
    refuse()
    copy = scratch / "there"
    for file in ("metrics.jsonl", "results.json"):
        copy.mkdir(exist_ok=True)
        (copy / file).write_bytes((epath.Path(RUN) / file).read_bytes())
    same = (copy / "metrics.jsonl").read_bytes() == (scratch / "here" / "metrics.jsonl").read_bytes()
    if not same or figures(copy) != figures(scratch / "here"):
        raise RuntimeError("the run in the bucket has other numbers than the one in the folder")
    print("metrics.jsonl is equal byte for byte, and results.json but for dates and seconds")
    traces = [*epath.Path(RUN).glob("profiles/*/plugins/profile/*/perfetto_trace.json.gz")]
    kept = [one for one in epath.Path(CACHE).iterdir() if one.name.endswith("-cache")]
    if not traces or not kept:
        raise RuntimeError(f"in the bucket are {len(traces)} profiles and {len(kept)} compiled programs")
    names = sorted(one.name for one in epath.Path(RUN).iterdir())
    print(f"in the bucket: {len(traces)} profiles, {len(kept)} compiled programs; {', '.join(names)}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ |= SPEAKING
    serve = [sys.executable, Path(__file__).parent / "peers" / "google_storage.py", str(PORT)]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None and server.stdout.readline() == b"up\n", "the server did not start"
        try:
            with tempfile.TemporaryDirectory() as scratch:
                prove(options.kills, options.seed, Path(scratch))
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
