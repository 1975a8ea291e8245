"""Files that book machines and start an experiment on every host of them.

    python -m distill.pods experiments/herd.py --topology v5e:4x4 --name herd --bucket gs://my-bucket \\
        --mesh.data 2 --mesh.fsdp 8 --stages.0.rows 16 --stages.1.rows 16 --stages.2.rows 16

Options that are not the generator's are the experiment's own. Each file says in its first lines how it is used:
queued.sh (Cloud TPU API), xpk.sh and jobset.yaml (GKE) for TPUs, slurm.sh for GPUs (--topology h100:4x8).
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from distill.place import BUCKET
from distill.pods.batch import batch
from distill.pods.job import Job, check
from distill.pods.jobset import jobset
from distill.pods.queued import queued
from distill.pods.topology import Cluster, Slice, read_topology
from distill.pods.xpk import xpk


def generate(job: Job, on: Slice | Cluster, *, hours: int = 24, by_host: bool = False) -> tuple[dict[str, str], str]:
    """The files by name, and which could not be made, and why.

    Raises:
      ValueError: the experiment's meshes do not fill the devices, or a service cannot be asked for this.
    """
    check(job, on.devices)
    made = f"Made by `python -m distill.pods`; the run folder is {job.folder}"
    if isinstance(on, Cluster):
        title = f"{job.name} on {on.devices} GPUs ({on.gpu}): {on.hosts} hosts of {on.per_host}"
        return {"slurm.sh": batch(job, on, title, made, hours=hours, by_host=by_host)}, ""
    if not job.home.startswith(BUCKET):
        raise ValueError(f"--bucket {job.home}: hosts of a TPU slice share no folder; name a bucket, gs://BUCKET")
    title = f"{job.name} on {on}: {on.chips} chips, {on.hosts} hosts ({on.machine})"
    files = {"xpk.sh": xpk(job, on, title, made), "jobset.yaml": jobset(job, on, title, made)}
    try:
        files["queued.sh"] = queued(job, on, title, made)
    except ValueError as error:
        return files, str(error)
    return files, ""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("experiment", help="its file, from the root of the project")
    parser.add_argument("--topology", required=True, help="v5p:8x8x8 (TPU chips), h100:4x8 (hosts x GPUs)")
    parser.add_argument("--name", required=True, help="of the job and of its run folder")
    parser.add_argument("--bucket", required=True, help="gs://BUCKET, or a folder that all hosts share")
    parser.add_argument("--image", default="${IMAGE}", help="container of jobset.yaml")
    parser.add_argument("--spot", action="store_true", help="on machines that may be taken away")
    parser.add_argument("--hours", type=int, default=24, help="of a Slurm job, before it queues itself again")
    parser.add_argument("--by-host", action="store_true", help="Slurm: a process a host instead of one a GPU")
    parser.add_argument("--output", type=Path, help="folder for the files (default: pods/NAME)")
    options, rest = parser.parse_known_args(arguments)
    try:
        on = read_topology(options.topology)
        job = Job(
            experiment=options.experiment, arguments=tuple(rest), name=options.name, home=options.bucket,
            image=options.image, spot=options.spot,
        )  # fmt: skip
        files, left_out = generate(job, on, hours=options.hours, by_host=options.by_host)
        folder = options.output or Path("pods") / options.name
        folder.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    for name, text in sorted(files.items()):
        (folder / name).write_text(text)
        print(folder / name)
    if left_out:
        print(f"no queued.sh: {left_out}")
    print(f"every worker runs: {shlex.join(job.command)}")


if __name__ == "__main__":
    main()
