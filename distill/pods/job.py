"""A run as every host of a pod starts it: the command of a laptop, supervised, in a run folder that all can reach."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from distill.experiment import Experiment
from distill.mesh import Mesh
from distill.options import load, parse
from distill.place import BUCKET

GRACE = 300
"""seconds from the notice that a host will go until it is gone: for a checkpoint"""
RESTARTS = 100
"""how often a job is started again, each time from its last checkpoint"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is run, and where it keeps what it makes.

    Args:
      experiment: its file, from the root of the project.
      arguments: its command line, without --run.
      name: of the job and of its run folder.
      home: a bucket, or a folder that all hosts share: the run folder and compiled programs are in it.
      image: of the container that has the project in it, where containers are used.
      spot: whether it runs on machines that may be taken away.
    """

    experiment: str
    arguments: tuple[str, ...] = ()
    name: str
    home: str
    image: str = "${IMAGE}"
    spot: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", self.name):
            raise ValueError(
                f"--name {self.name}: a job is named by at most 40 small letters, digits and hyphens, a letter first"
            )
        if not self.home.startswith((BUCKET, "/")) or self.home.strip("/") in ("", "gs:"):
            raise ValueError(f"--bucket {self.home}: name gs://BUCKET, or the path of a folder that all hosts share")
        if not re.fullmatch(r"(gs:/)?[\w./-]+", self.home, re.ASCII):  # the files name it where a shell reads
            raise ValueError(f"--bucket {self.home!r}: write it with letters, digits and . _ - / alone, without spaces")
        if not re.fullmatch(r"\$\{IMAGE\}|[\w./:@-]+", self.image, re.ASCII):
            raise ValueError(f"--image {self.image!r}: name a container as HOST/PATH:TAG or HOST/PATH@DIGEST")
        if any(one == "--run" or one.startswith("--run=") for one in self.arguments):
            raise ValueError(f"--run is {self.folder}, by --bucket and --name; leave it out")

    @property
    def folder(self) -> str:
        """The run folder."""
        return f"{self.home.rstrip('/')}/{self.name}"

    @property
    def command(self) -> tuple[str, ...]:
        """What every worker runs."""
        run = ("python", self.experiment, "--run", self.folder, "--quiet", *self.arguments)
        return ("python", "-m", "distill.supervise", "--", *run)

    @property
    def line(self) -> str:
        """The command as a shell reads it."""
        return shlex.join(self.command)

    @property
    def environment(self) -> dict[str, str]:
        """What every worker finds in its environment."""
        return {"JAX_COMPILATION_CACHE_DIR": f"{self.home.rstrip('/')}/cache"}


def check(job: Job, devices: int) -> Experiment:
    """The job's experiment as its command line leaves it, once its meshes are known to fill the devices.

    Raises:
      ValueError: they need more devices or leave some idle; says which flags would fit. Or the experiment is refused
        by itself.
    """
    experiment = parse(load(Path(job.experiment)), job.arguments).experiment
    used = _used(experiment)
    if used != devices:
        raise ValueError(
            f"{job.experiment} uses {used} devices ({experiment.mesh}), the topology has {devices}; set "
            f"{_fitting(experiment.mesh, devices)} (and rows of a batch to match), or name a topology of {used}"
        )
    return experiment


def _fitting(mesh: Mesh, devices: int) -> str:
    """Flags of a mesh like this one that fills the devices: more copies of the model, or more parts of each."""
    copy, others = mesh.size // mesh.data, mesh.size // (mesh.data * mesh.fsdp)
    if devices % copy == 0 and copy > 1:
        return f"--mesh.data {devices // copy}"
    if devices % others == 0:
        return f"--mesh.data 1 --mesh.fsdp {devices // others}"
    return f"axes of --mesh whose product is {devices}"


def _used(experiment: Experiment) -> int:
    """Devices up to the last that a mesh of the experiment, or of one of its stages, takes."""
    own = [value for stage in experiment.stages for value in vars(stage).values() if isinstance(value, Mesh)]
    return max(one.first + one.size for one in (experiment.mesh, *own))
