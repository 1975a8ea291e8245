"""A slice by the Cloud TPU API: a script that books it as a queued resource, sets every worker up, and starts the run.

Options: https://cloud.google.com/sdk/gcloud/reference/compute/tpus/queued-resources/create and .../tpus/tpu-vm/ssh
"""

import shlex

from distill.pods.job import Job
from distill.pods.topology import Slice

TEXT = r"""#!/bin/bash
# {title}
# {made}
#
#   PROJECT=... ZONE=... bash queued.sh book       # then wait until `queued.sh state` says ACTIVE
#   PROJECT=... ZONE=... bash queued.sh set-up     # in the project: what is committed goes to every worker
#   PROJECT=... ZONE=... bash queued.sh run        # again after a maintenance or a preemption: it goes on where it was
#   PROJECT=... ZONE=... bash queued.sh log | stop | free
#
# Zones: https://cloud.google.com/tpu/docs/regions-zones
set -euo pipefail
: "${{PROJECT:?the project to book in}}" "${{ZONE:?a zone that has {generation}}}"
at=(--project="$PROJECT" --zone="$ZONE")

workers() {{  # runs a command on each of the {hosts} workers at once
    gcloud compute tpus tpu-vm ssh {name} "${{at[@]}}" --worker="$1" --command="$2"
}}

case "${{1:-}}" in
book)
    gcloud compute tpus queued-resources create {name} "${{at[@]}}" --node-id={name} \
        {kind} --runtime-version={runtime}{spot}
    ;;
state)
    gcloud compute tpus queued-resources describe {name} "${{at[@]}}" --format='value(state.state)'
    ;;
set-up)
    git archive --format=tar.gz HEAD | gcloud storage cp - {home}/{name}.tar.gz
    # The virtual machines bring Python 3.10, the project needs 3.11.
    workers all 'set -e
        sudo apt-get -qq update && sudo apt-get -qq install -y python3.11-venv
        mkdir -p herd && gcloud storage cat {home}/{name}.tar.gz | tar -xz -C herd && cd herd
        python3.11 -m venv .venv && .venv/bin/pip -q install -c constraints.txt -e ".[tpu,gcs]"'
    ;;
run)
    # The run outlives the connection; `log` shows what process 0 says.
    workers all {start}
    ;;
log)
    workers 0 'tail -n 100 -f herd/{name}.log'
    ;;
stop)
    # Saves first, and goes on from there at the next `run`.
    workers all 'kill -TERM "$(cat herd/{name}.pid)"'
    ;;
free)
    gcloud compute tpus queued-resources delete {name} "${{at[@]}}" --force --quiet
    ;;
*)
    sed -n '2,10p' "$0"
    exit 2
    ;;
esac
"""


def queued(job: Job, on: Slice, title: str, made: str) -> str:
    """The script.

    Raises:
      ValueError: the Cloud TPU API does not have this generation, or no name for this shape.
    """
    name, kind = on.chip.name, on.booking
    if kind.runtime is None:
        raise ValueError(f"the Cloud TPU API does not have {name}; GKE does (jobset.yaml, xpk.sh)")
    if kind.named is not None and on.shape not in kind.named:
        raise ValueError(
            f"the Cloud TPU API names a slice of {name} by its cores, and {on.accelerator} is not known to be "
            f"{on.topology}; GKE takes it (jobset.yaml, xpk.sh)"
        )
    setting = " ".join(f"{name}={shlex.quote(value)}" for name, value in job.environment.items())
    start = (
        f'cd herd && export PATH="$PWD/.venv/bin:$PATH" {setting}\n'
        f"        setsid nohup {job.line} > {job.name}.log 2>&1 < /dev/null &\n"
        f"        echo $! > {job.name}.pid"
    )
    return TEXT.format(
        title=title, made=made, name=job.name, hosts=on.hosts, home=job.home.rstrip("/"), generation=name,
        kind=f"--type={name} --topology={on.topology}" if kind.shaped else f"--accelerator-type={on.accelerator}",
        runtime=kind.runtime, spot=" --spot" if job.spot else "", start=shlex.quote(start),
    )  # fmt: skip
