"""Groups of real processes on this machine: they join by `jax.distributed`, reduce over gloo and run the experiment."""

import os
import subprocess
import sys
import time
from pathlib import Path

from distill.cluster import COORDINATOR, HEARTBEAT, PROCESS, PROCESSES
from distill.metrics import read
from distill.supervise import free_port

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).with_name("experiment.py")
ONE = [sys.executable, str(FILE)]
BEAT, PATIENCE = 10, 3600
"""seconds of the heartbeat, and for which a run is waited for"""
FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""compiling is most of what small processes do"""
MESHES = {1: (), 2: ("--mesh.data", "2"), 4: ("--mesh.data", "2", "--mesh.fsdp", "2")}


class Group:
    """Processes that were told of each other and run one command."""

    def __init__(self, command: list[str], count: int, devices: int = 1, supervised: bool = False) -> None:
        flags = f"--xla_force_host_platform_device_count={devices} {FLAGS}"
        known = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, HEARTBEAT: str(BEAT), "PYTHONPATH": str(ROOT)}
        known |= {COORDINATOR: f"localhost:{free_port()}", PROCESSES: str(count)} if count > 1 else {}
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


def reference(root: Path, count: int) -> Path:
    """An undisturbed run of so many processes; once."""
    if not (root / f"{count}" / "report.html").exists():
        train(root / f"{count}", count).end()
    return root / f"{count}"
