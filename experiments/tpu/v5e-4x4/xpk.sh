#!/bin/bash
# herd on v5e:4x4: 16 chips, 4 hosts (ct5lp-hightpu-4t)
# Made by `python -m distill.pods`; the run folder is gs://my-bucket/herd
#
#   PROJECT=... ZONE=... CLUSTER=... IMAGE=... bash xpk.sh [--dry-run]
#
# The cluster: xpk cluster create --cluster "$CLUSTER" --tpu-type v5litepod-4x4 --num-slices 1
# The image:   docker build -f experiments/tpu/Dockerfile -t "$IMAGE" . && docker push "$IMAGE"
set -euo pipefail
: "${PROJECT:?}" "${ZONE:?}" "${CLUSTER:?}" "${IMAGE:?}"

xpk workload create --workload herd --cluster "$CLUSTER" --project "$PROJECT" --zone "$ZONE" \
    --tpu-type v5litepod-4x4 --num-slices 1 --docker-image "$IMAGE" \
    --max-restarts 100 --termination-grace-period-seconds 300 \
    --env JAX_COMPILATION_CACHE_DIR=gs://my-bucket/cache \
    --command 'python -m distill.supervise -- python experiments/herd.py --run gs://my-bucket/herd --quiet --mesh.data 2 --mesh.fsdp 8 --stages.0.rows 16 --stages.1.rows 16 --stages.2.rows 16' "$@"
