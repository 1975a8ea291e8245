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
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from distill.workers import PARENT, alone

JOBS = "jobs.json"
"""of the sweep's folder: the job of each trial, and the trials of an array that was asked for last"""


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
      cluster: `local` runs the jobs on this machine, without Slurm, all at once, to try things out: such jobs are not
        taken up by a later command.
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
            name=title(folder.parent),
            timeout_min=self.minutes,
            cpus_per_task=self.cpus,
            gpus_per_node=self.gpus or None,
            mem_gb=self.memory,
            slurm_partition=self.partition,
            slurm_array_parallelism=self.at_once,
            slurm_additional_parameters=self.extra,
            # srun of Slurm 22.05 and after does not take this over from sbatch
            slurm_srun_args=[f"--cpus-per-task={self.cpus}"],
        )
        return found


class Job:
    """A command as a job: when submitit says that its time is up, the process saves, and the job is queued again."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.command, self.log = list(command), log

    def __call__(self) -> int:
        """Its exit code."""
        with open(self.log, "ab") as file:
            known = os.environ | {PARENT: str(os.getpid())}
            self.process = subprocess.Popen(self.command, stdout=file, stderr=file, env=known)
        return self.process.wait()

    def checkpoint(self) -> Any:
        """What is to be submitted when the process has saved and stopped."""
        from submitit.helpers import DelayedSubmission

        # a signal handler calls this inside __call__: Popen's own wait would wait for itself
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.process.pid, signal.SIGTERM)
            os.waitpid(self.process.pid, 0)
        return DelayedSubmission(Job(self.command, self.log))


def title(folder: Path) -> str:
    """The name of a sweep's jobs in the queue: by it they are found again, whatever was written down."""
    return f"herd-{sha256(str(folder.absolute()).encode()).hexdigest()[:10]}"


def submit(asked: dict[str, Job], folder: Path, slurm: Slurm) -> dict[str, Any]:
    """Submitit's jobs by name: those still queued or at work since an earlier call, and the others, as one array.

    Raises:
        ValueError: Slurm does not answer, or does not take the jobs.
    """
    executor = slurm.executor(folder / "jobs")
    import submitit
    from submitit.core.utils import FailedJobError

    with alone(folder):
        queue = {} if slurm.cluster == "local" else queued()
        known = _known(folder, queue)
        jobs = {name: submitit.SlurmJob(folder / "jobs", known[name]) for name in asked if known.get(name) in queue}
        new = {name: job for name, job in asked.items() if name not in jobs}
        if new:
            for job in new.values():
                job.log.parent.mkdir(parents=True, exist_ok=True)
            _note(folder, known, list(new))
            try:
                with executor.batch():
                    made = [executor.submit(job) for job in new.values()]
            except FailedJobError as error:
                raise ValueError(f"Slurm did not take the jobs: {str(error).strip().splitlines()[-1]}") from error
            jobs |= dict(zip(new, made, strict=True))
        _note(folder, known | {name: job.job_id for name, job in jobs.items()}, [])
    return jobs


def queued() -> dict[str, str]:
    """The user's jobs that are queued or at work: name by id, as squeue says; sacct is not kept by every cluster.

    Raises:
        ValueError: Slurm does not answer.
    """
    ask = ["squeue", "--noheader", "--array", "--format=%i %j", f"--user={getpass.getuser()}"]
    try:
        said = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=60).stdout
    except (subprocess.SubprocessError, OSError) as error:
        why = (getattr(error, "stderr", None) or str(error)).strip()
        raise ValueError(f"squeue does not answer ({why}); try again, or ask whoever keeps the cluster") from error
    return dict(line.split(maxsplit=1) for line in said.splitlines() if len(line.split()) > 1)


def wait(jobs: dict[str, Any], slurm: Slurm, say: Callable[[dict[str, Any]], None], pause: float = 5.0) -> None:
    """Until all have ended; `say` is told at every look which have not. Ctrl-C leaves Slurm's jobs to go on."""
    left = jobs
    while left:
        say(left)
        time.sleep(pause)
        if slurm.cluster == "local":
            left = {name: job for name, job in left.items() if not job.done()}
            continue
        with suppress(ValueError):  # an hour's wait outlives a moment without an answer
            queue = queued()
            left = {name: job for name, job in left.items() if job.job_id in queue}


def _known(folder: Path, queue: dict[str, str]) -> dict[str, str]:
    """Ids by trial, as written down; and those of an array whose asker did not live to write them down."""
    note = json.loads((folder / JOBS).read_text()) if (folder / JOBS).exists() else {"jobs": {}, "asked": []}
    lost = [job for job, name in queue.items() if name == title(folder) and job not in note["jobs"].values()]
    places = {job: int(job.partition("_")[2] or 0) for job in lost}
    return note["jobs"] | {note["asked"][i]: job for job, i in places.items() if i < len(note["asked"])}


def _note(folder: Path, jobs: dict[str, str], asked: list[str]) -> None:
    beside = folder / f".{JOBS}"
    beside.write_text(json.dumps({"jobs": jobs, "asked": asked}))
    beside.replace(folder / JOBS)
