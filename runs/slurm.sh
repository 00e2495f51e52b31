#!/usr/bin/env bash
# One training on two nodes of eight GPUs, with preemption:  sbatch runs/slurm.sh cad-i-l:ta_ia runs/cad-i-l-ta_ia
#
# Slurm starts one process for each GPU; tessera reads the same variables as torchrun sets. Three minutes before the end
# of its time, or at preemption, Slurm sends SIGUSR1 to the processes: they finish the step, write a checkpoint and end,
# and the job goes back into the queue. The same command resumes there, on any number of nodes that divides 1024.
#SBATCH --job-name=tessera
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -uo pipefail
preset=${1:?say which PRESET:ARM} out=${2:?say where the run goes}
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000)) WORLD_SIZE=$SLURM_NTASKS OMP_NUM_THREADS=4

sets=(--plain encoded/ta)
[[ $preset != *:aio && $preset != *:ta ]] && sets+=(--augmented encoded/ta_ia)
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec "$@"' tessera-rank \
  tessera train "$preset" "${sets[@]}" --peak-tflops 989 --out "$out" &
wait $!
code=$?
# 0: trained to the end. 2: stopped and saved, or a mistake, which the next start says at once; SLURM_RESTART_COUNT ends
# the circle then.
if [ "$code" -ne 0 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ] && [ -d "$out/checkpoints" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
