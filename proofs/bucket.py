"""A run in a bucket is the run in a folder: same numbers, kill -9 included, through gcsfs and orbax's own writer.

    make proofs            # or: python proofs/bucket.py --kills 3

A server of Google Cloud Storage's protocol runs here (peers/google_storage.py, in memory): gcsfs and tensorstore, which
orbax writes arrays with, speak to it as they would to Google's; only sign-in is left out. A short `experiments/herd.py
--tiny` runs once with `--run` in a folder; then in gs://herd-proof/run, killed at random moments and started again, and
then to its end, with compiled programs and profiles in the bucket. metrics.jsonl must be equal byte for byte,
results.json in everything but date and seconds; a second process must be refused the folder while one is at work in it.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
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


def prove(kills: int, seed: int, scratch: Path) -> None:
    """The whole proof.

    Raises:
      RuntimeError: something differs.
    """
    peace = finish(str(scratch / "here"))
    print(f"in a folder: {peace:.0f} s")
    random.seed(seed)
    for kill in range(kills):
        process, wait = start(RUN), random.uniform(0.3, 1.1) * peace
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
        lines = epath.Path(RUN) / "metrics.jsonl"
        seen = len(lines.read_text().splitlines()) if lines.exists() else 0
        print(f"kill {kill + 1} after {wait:.0f} s: {seen} lines of metrics in the bucket")
    one = start(RUN)
    time.sleep(0.6 * peace)
    other = start(RUN)
    _, said = other.communicate()
    _, errors = one.communicate()
    if other.returncode != 1 or "in use by process" not in said or one.returncode:
        raise RuntimeError(f"of two at once: {other.returncode} {said[-500:]!r}, {one.returncode} {errors[-3000:]!r}")
    print(f"a second process was refused: {said.strip().splitlines()[-1]}")
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
