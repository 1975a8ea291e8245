"""A slice of a GKE cluster by xpk (https://github.com/AI-Hypercomputer/xpk): one command, and what it stands on."""

import shlex

from distill.pods.job import GRACE, RESTARTS, Job
from distill.pods.topology import Slice

TEXT = r"""#!/bin/bash
# {title}
# {made}
#
#   PROJECT=... ZONE=... CLUSTER=... IMAGE=... bash xpk.sh [--dry-run]
#
# The cluster: xpk cluster create --cluster "$CLUSTER" --tpu-type {kind} --num-slices 1
# The image:   docker build -f experiments/tpu/Dockerfile -t "$IMAGE" . && docker push "$IMAGE"
set -euo pipefail
: "${{PROJECT:?}}" "${{ZONE:?}}" "${{CLUSTER:?}}" "${{IMAGE:?}}"

xpk workload create --workload {name} --cluster "$CLUSTER" --project "$PROJECT" --zone "$ZONE" \
    --tpu-type {kind} --num-slices 1 --docker-image "$IMAGE" \
    --max-restarts {restarts} --termination-grace-period-seconds {grace}{spot} \
{setting}    --command {line} "$@"
"""


def xpk(job: Job, on: Slice, title: str, made: str) -> str:
    """The script. Types are named by their shape, which leaves nothing to guess; single chips have no such name."""
    setting = "".join(f"    --env {shlex.quote(f'{name}={value}')} \\\n" for name, value in job.environment.items())
    return TEXT.format(
        title=title, made=made, name=job.name, kind=f"{on.booking.called}-{on.topology}", restarts=RESTARTS,
        grace=GRACE, spot=" --spot" if job.spot else "", setting=setting, line=shlex.quote(job.line),
    )  # fmt: skip
