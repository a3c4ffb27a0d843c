#!/bin/sh
# The main job on the embedded default: a simulated corpus, spoken, tracked, scored, shown, exported.
# usage: [PYTHON=...] launch/demo.sh [--dry_run] RUN_FOLDER
set -eu
. "$(dirname "$0")/common.sh"
dry_run=no
[ "${1:-}" != --dry_run ] || { dry_run=yes; shift; }
python=${PYTHON:-python3}
folder=${1:?usage: demo.sh [--dry_run] RUN_FOLDER}
config=configs/joint_dst.py:demo
# On a CPU under Linux, large pages spare a step up to a fifth of its time; elsewhere it does nothing.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"

run "$python" -m speechdst.prepare --config=$config
run "$python" -m speechdst.train --config=$config --workdir="$folder"
run "$python" -m speechdst.evaluate --config=$config --workdir="$folder"
run "$python" -m speechdst.export --config=$config --workdir="$folder" --out="$folder/exported"
run "$python" -m speechdst.report --run="$folder" --data=data/demo/simulated --split=test \
  --out="$folder/report.html"
[ $dry_run = yes ] || echo "report: $folder/report.html"
