"""The trials of a sweep as an array of Slurm jobs, by submitit (extra: `cluster`).

Jobs outlive the process that waits for them: the same command takes up those that are queued or at work. A job whose
time is up, or that makes room for another, saves its trial and is queued again; it goes on where it was.
"""

import getpass
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

JOBS = "jobs.json"
"""of the sweep's folder: the job of each trial"""


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """What a job asks for; the folder of the sweep must be one that all nodes see.

    Attributes:
      partition: of the cluster; its default, if None.
      minutes: at least 3, of which 90 seconds are kept for saving; a trial that takes longer goes on in another job.
      cpus: of a job.
      gpus: of a job.
      memory: GiB of a job; the cluster's default, if None.
      at_once: jobs of the array at a time.
      requeues: how often a job may run out of time.
      extra: other options of sbatch, by their long names: `account`, `qos`, `constraint`.
      cluster: `local` runs the jobs on this machine, without Slurm, all at once: to try things out.
    """

    partition: str | None = None
    minutes: int = 60
    cpus: int = 4
    gpus: int = 0
    memory: int | None = None
    at_once: int = 16
    requeues: int = 100
    extra: dict[str, str] = field(default_factory=dict)
    cluster: Literal["slurm", "local"] = "slurm"

    def __post_init__(self) -> None:
        if self.minutes < 3:
            raise ValueError(f"minutes is {self.minutes}; it must be at least 3: 90 seconds are kept for saving")

    def executor(self, folder: Path) -> Any:
        """Submitit's, with its files in `folder`.

        Raises:
            ValueError: submitit is not installed, or there is no Slurm here.
        """
        try:
            import submitit
        except ImportError as error:
            raise ValueError("jobs on Slurm need submitit: pip install 'herd-distill[cluster]'") from error
        try:
            found = submitit.AutoExecutor(folder, cluster=self.cluster, slurm_max_num_timeout=self.requeues)
        except RuntimeError as error:
            raise ValueError(f"no Slurm here ({error}); start the sweep on a login node, or leave out --on") from error
        found.update_parameters(
            name="herd",
            timeout_min=self.minutes,
            cpus_per_task=self.cpus,
            gpus_per_node=self.gpus or None,
            mem_gb=self.memory,
            slurm_partition=self.partition,
            slurm_array_parallelism=self.at_once,
            slurm_additional_parameters=self.extra,
        )
        return found


class Job:
    """A command as a job: when submitit says that its time is up, the process saves, and the job is queued again."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.command, self.log = list(command), log

    def __call__(self) -> int:
        """Its exit code."""
        with open(self.log, "ab") as file:
            self.process = subprocess.Popen(self.command, stdout=file, stderr=file)
        return self.process.wait()

    def checkpoint(self) -> Any:
        """What is to be submitted when the process has saved and stopped."""
        from submitit.helpers import DelayedSubmission

        # a signal handler calls this inside __call__: Popen's own wait would wait for itself
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.process.pid, signal.SIGTERM)
            os.waitpid(self.process.pid, 0)
        return DelayedSubmission(Job(self.command, self.log))


def submit(asked: dict[str, Job], folder: Path, slurm: Slurm) -> dict[str, Any]:
    """Submitit's jobs by name: those still queued or at work since an earlier call, and the others, as one array."""
    import submitit

    executor = slurm.executor(folder / "jobs")
    kind = submitit.SlurmJob if slurm.cluster == "slurm" else submitit.LocalJob
    note = folder / JOBS
    old = json.loads(note.read_text()) if note.exists() else {}
    jobs = alive({name: kind(folder / "jobs", old[name]) for name in asked if name in old}, slurm)
    new = {name: job for name, job in asked.items() if name not in jobs}
    for job in new.values():
        job.log.parent.mkdir(parents=True, exist_ok=True)
    if new:
        with executor.batch():
            made = [executor.submit(job) for job in new.values()]
        jobs |= dict(zip(new, made, strict=True))
    beside = folder / f".{JOBS}"
    beside.write_text(json.dumps(old | {name: job.job_id for name, job in jobs.items()}))
    beside.replace(note)
    return jobs


def alive(jobs: dict[str, Any], slurm: Slurm) -> dict[str, Any]:
    """Those that are queued or at work, as squeue says: submitit asks sacct, which not every cluster keeps."""
    if slurm.cluster == "local":
        return {name: job for name, job in jobs.items() if not job.done()}
    ask = ["squeue", "--noheader", "--array", "--format=%i", f"--user={getpass.getuser()}"]
    found = set(subprocess.run(ask, capture_output=True, text=True, check=True, timeout=60).stdout.split())
    return {name: job for name, job in jobs.items() if job.job_id in found}


def wait(jobs: dict[str, Any], slurm: Slurm, say: Callable[[dict[str, Any]], None], pause: float = 5.0) -> None:
    """Until all have ended; `say` is told at every look which have not. Ctrl-C leaves the jobs to go on."""
    while left := alive(jobs, slurm):
        say(left)
        time.sleep(pause)
