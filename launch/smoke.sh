#!/bin/sh
# Every recipe's tiny config: prepare, three steps a stage, stop and resume, evaluate, export, reload.
# usage: [PYTHON=...] launch/smoke.sh [FOLDER]
set -eu
python=${PYTHON:-python3}
folder=${1:-$(mktemp -d)}
# What one command compiles, the next finds.
export JAX_COMPILATION_CACHE_DIR="$folder/compiled" JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0

for recipe in joint_dst auxiliary; do
  config=configs/$recipe.py:tiny
  work=$folder/$recipe
  set -- --config=$config --config.data_dir="$work/data"
  echo "== $recipe"
  "$python" -m speechdst.prepare "$@"
  "$python" -m speechdst.train "$@" --workdir="$work/run" --stop_after=2
  "$python" -m speechdst.train "$@" --workdir="$work/run"
  "$python" -m speechdst.evaluate "$@" --workdir="$work/run"
  "$python" -m speechdst.export "$@" --workdir="$work/run" --out="$work/exported"
  "$python" -m speechdst.generate --model="$work/exported" --turns=launch/smoke_turns.json
done
echo "smoke: all recipes went through, in $folder"
