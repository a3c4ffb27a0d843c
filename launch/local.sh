#!/usr/bin/env bash
# Several processes on this machine that train as one run, as several hosts would.
# usage: [PYTHON=...] [PORT=...] launch/local.sh [--dry_run] PROCESSES COMMAND [ARGUMENT ...]
#
#   JAX_NUM_CPU_DEVICES=2 launch/local.sh 2 train --config=configs/joint_dst.py:tiny --workdir=runs/two
#
# On a machine with accelerators one process takes them all: this is for CPUs, to try things out.
# SIGTERM and Ctrl-C reach every process; when one fails, the others are asked to leave.
set -euo pipefail
. "$(dirname "$0")/common.sh"
dry_run=no
[[ ${1:-} != --dry_run ]] || { dry_run=yes; shift; }
[[ $# -ge 2 && $1 =~ ^[1-9][0-9]*$ ]] ||
  fail "usage: local.sh [--dry_run] PROCESSES COMMAND [ARGUMENT ...]"
count=$1 command=$2
shift 2
port=${PORT:-8476}
line=("${PYTHON:-python3}" -m "speechdst.$command" "$@" "--coordinator_address=localhost:$port"
  "--num_processes=$count")

if [[ $dry_run == yes ]]; then
  for ((i = 0; i < count; i++)); do run "${line[@]}" "--process_id=$i"; done
  exit
fi

pids=()
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
for ((i = 0; i < count; i++)); do
  "${line[@]}" "--process_id=$i" &
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do
  # A signal that the trap answers ends `wait` as well, with the process still there.
  while true; do
    code=0
    wait "$pid" || code=$?
    kill -0 "$pid" 2>/dev/null || break
  done
  if [[ $code -ne 0 && $status -eq 0 ]]; then
    status=$code
    kill -TERM "${pids[@]}" 2>/dev/null || true
  fi
done
exit "$status"
