#!/bin/bash
# herd on 16 GPUs (h100): 2 hosts of 8
# Made by `python -m distill.pods`; the run folder is /shared/runs/herd
#
#   sbatch slurm.sh            # from the root of the project, with .venv in it; scancel --signal=TERM --batch JOB saves
#
#SBATCH --job-name=herd
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=herd-%j.log
#SBATCH --signal=B:USR1@300
set -uo pipefail
export PATH="$PWD/.venv/bin:$PATH"
export JAX_COMPILATION_CACHE_DIR=/shared/runs/cache

# Every worker saves when time is nearly up (USR1), and the job is queued again; and when it is told to go (TERM): Slurm
# itself queues a preempted job again, and one that its owner stopped stays away.
again=0
save() {
    scancel --signal=TERM "$SLURM_JOB_ID.0"
}
trap 'again=1; save' USR1
trap save TERM

srun --kill-on-bad-exit=0 python -m distill.supervise -- python experiments/herd.py --run /shared/runs/herd --quiet --mesh.data 2 --mesh.fsdp 8 --stages.0.rows 16 --stages.1.rows 16 --stages.2.rows 16 &
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
