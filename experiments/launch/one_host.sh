#!/bin/bash
# One host with several GPUs: one process drives all of them, no start-up of processes is needed.
#
#   experiments/launch/one_host.sh lam-jax demo --out runs/host --mesh 2 4 1
#   GPUS=0,1,2,3 experiments/launch/one_host.sh lam-jax demo --mesh 1 4 1     # some of the GPUs
#   DRY_RUN=1 experiments/launch/one_host.sh lam-jax demo                      # prints what would be executed
#
# A run that was preempted, or that hung, is started again and goes on from its last checkpoint.
set -euo pipefail

if [ $# -eq 0 ]; then
  echo "one_host.sh: no command given, for example: lam-jax demo --out runs/host" >&2
  exit 2
fi
export PATH="$PWD/.venv/bin:$PATH"
line=(env ${GPUS:+CUDA_VISIBLE_DEVICES="$GPUS"} lam-jax watch --folder runs/heartbeats -- "$@")

if [ -n "${DRY_RUN:-}" ]; then
  printf '%q ' "${line[@]}"
  echo
  exit 0
fi
for attempt in 1 2 3 4 5; do
  code=0
  "${line[@]}" || code=$?
  case $code in
    12 | 134 | 137) echo "one_host.sh: ended with code $code, attempt $attempt of 5" >&2 ;;
    *) exit $code ;;
  esac
done
exit $code
