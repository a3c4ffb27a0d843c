#!/bin/sh
# The main job on the embedded default: a simulated corpus, spoken, tracked, scored, shown, exported.
# usage: [PYTHON=...] launch/demo.sh RUN_FOLDER
set -eu
python=${PYTHON:-python3}
run=${1:?usage: demo.sh RUN_FOLDER}
config=configs/joint_dst.py:demo
# On a CPU under Linux, large pages spare a step up to a fifth of its time; elsewhere it does nothing.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"

"$python" -m speechdst.prepare --config=$config
"$python" -m speechdst.train --config=$config --workdir="$run"
"$python" -m speechdst.evaluate --config=$config --workdir="$run"
"$python" -m speechdst.export --config=$config --workdir="$run" --out="$run/exported"
"$python" -m speechdst.report --run="$run" --data=data/demo/simulated --split=test \
  --out="$run/report.html"
echo "report: $run/report.html"
