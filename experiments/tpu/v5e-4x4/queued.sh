#!/bin/bash
# herd on v5e:4x4: 16 chips, 4 hosts (ct5lp-hightpu-4t)
# Made by `python -m distill.pods`; the run folder is gs://my-bucket/herd
#
#   PROJECT=... ZONE=... bash queued.sh book       # then wait until `queued.sh state` says ACTIVE
#   PROJECT=... ZONE=... bash queued.sh set-up     # in the project: what is committed goes to every worker
#   PROJECT=... ZONE=... bash queued.sh run        # again after a maintenance or a preemption: it goes on where it was
#   PROJECT=... ZONE=... bash queued.sh log | stop | free
#
# Zones: https://cloud.google.com/tpu/docs/regions-zones
set -euo pipefail
: "${PROJECT:?the project to book in}" "${ZONE:?a zone that has v5e}"
at=(--project="$PROJECT" --zone="$ZONE")

workers() {  # runs a command on each of the 4 workers at once
    gcloud compute tpus tpu-vm ssh herd "${at[@]}" --worker="$1" --command="$2"
}

case "${1:-}" in
book)
    gcloud compute tpus queued-resources create herd "${at[@]}" --node-id=herd \
        --accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite
    ;;
state)
    gcloud compute tpus queued-resources describe herd "${at[@]}" --format='value(state.state)'
    ;;
set-up)
    git archive --format=tar.gz HEAD | gcloud storage cp - gs://my-bucket/herd.tar.gz
    # The virtual machines bring Python 3.10, the project needs 3.11.
    workers all 'set -e
        sudo apt-get -qq update && sudo apt-get -qq install -y python3.11-venv
        mkdir -p herd && gcloud storage cat gs://my-bucket/herd.tar.gz | tar -xz -C herd && cd herd
        python3.11 -m venv .venv && .venv/bin/pip -q install -c constraints.txt -e ".[tpu,gcs]"'
    ;;
run)
    # The run outlives the connection; `log` shows what process 0 says.
    workers all 'cd herd && export PATH="$PWD/.venv/bin:$PATH" JAX_COMPILATION_CACHE_DIR=gs://my-bucket/cache
        setsid nohup python -m distill.supervise -- python experiments/herd.py --run gs://my-bucket/herd --quiet --mesh.data 2 --mesh.fsdp 8 --stages.0.rows 16 --stages.1.rows 16 --stages.2.rows 16 > herd.log 2>&1 < /dev/null &
        echo $! > herd.pid'
    ;;
log)
    workers 0 'tail -n 100 -f herd/herd.log'
    ;;
stop)
    # Saves first, and goes on from there at the next `run`.
    workers all 'kill -TERM "$(cat herd/herd.pid)"'
    ;;
free)
    gcloud compute tpus queued-resources delete herd "${at[@]}" --force --quiet
    ;;
*)
    sed -n '2,10p' "$0"
    exit 2
    ;;
esac
