"""GPUs of a Slurm cluster: a batch script that saves before its time is up, and queues itself again.

Options: https://slurm.schedmd.com/sbatch.html, https://slurm.schedmd.com/scancel.html
"""

from distill.pods.job import GRACE, Job
from distill.pods.topology import Cluster

TEXT = r"""#!/bin/bash
# {title}
# {made}
#
#   sbatch slurm.sh            # from the root of the project, with .venv in it; scancel --signal=TERM --batch JOB saves
#
#SBATCH --job-name={name}
#SBATCH --nodes={hosts}
#SBATCH --ntasks-per-node={tasks}
#SBATCH --gpus-per-node={gpus}
#SBATCH --exclusive
#SBATCH --time={hours}:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={name}-%j.log
#SBATCH --signal=B:USR1@{grace}
set -uo pipefail
export PATH="$PWD/.venv/bin:$PATH"
export {setting}

# Every worker saves when time is nearly up (USR1), and the job is queued again; and when it is told to go (TERM): Slurm
# itself queues a preempted job again, and one that its owner stopped stays away.
again=0
save() {{
    scancel --signal=TERM "$SLURM_JOB_ID.0"
}}
trap 'again=1; save' USR1
trap save TERM

srun --kill-on-bad-exit=0 {line} &
step=$!
code=0
wait "$step" || code=$?
while kill -0 "$step" 2> /dev/null; do  # a signal ends `wait`, and not the step
    code=0
    wait "$step" || code=$?
done

if (( again && code )); then
    scontrol requeue "$SLURM_JOB_ID" && exit 0
fi
exit "$code"
"""


def batch(job: Job, on: Cluster, title: str, made: str, *, hours: int = 24, by_host: bool = False) -> str:
    """The script: a process a GPU, or with `by_host` one a host, which has all of its GPUs.

    Raises:
      ValueError: it is given no time.
    """
    if hours < 1:
        raise ValueError(f"--hours {hours}: a job needs at least 1, of which the last {GRACE} s are for saving")
    known = dict(job.environment)
    if by_host:  # else JAX takes of each task the one GPU of its number
        known["JAX_LOCAL_DEVICE_IDS"] = ",".join(map(str, range(on.per_host)))
    return TEXT.format(
        title=title, made=made, name=job.name, hosts=on.hosts, tasks=1 if by_host else on.per_host, gpus=on.per_host,
        hours=hours, grace=GRACE, setting=" ".join(f"{name}={value}" for name, value in known.items()), line=job.line,
    )  # fmt: skip
