#!/bin/bash
#SBATCH --job-name=dien
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --signal=TERM@120

run=/shared/runs/first
if [ -e "$run/config.json" ]; then
  what=(--resume "$run")
else
  what=(--data /shared/data --run-dir "$run")
fi
# If one task fails, the others get time to report it.
srun --kill-on-bad-exit=0 python -m dien_jax.train "${what[@]}" --distributed.auto
