#!/bin/sh
# Every recipe's tiny config: prepare, three steps a stage, stop and resume, evaluate, export, reload.
# usage: [PYTHON=...] [RECIPES=...] launch/smoke.sh [--dry_run] [FOLDER]
set -eu
. "$(dirname "$0")/common.sh"
dry_run=no
[ "${1:-}" != --dry_run ] || { dry_run=yes; shift; }
python=${PYTHON:-python3}
folder=${1:-}
[ -n "$folder" ] || { [ $dry_run = yes ] && folder=FOLDER || folder=$(mktemp -d); }
# What one command compiles, the next finds.
export JAX_COMPILATION_CACHE_DIR="$folder/compiled" JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0

for recipe in ${RECIPES:-joint_dst dpo_ln auxiliary}; do
  work=$folder/$recipe
  case $recipe in
    dpo_ln)  # goes on from the tracker
      set -- --config=configs/dpo_ln.py:tiny_dst --config.data_dir="$folder/joint_dst/data" \
        --config.base="$folder/joint_dst/run/joint" ;;
    *) set -- --config="configs/$recipe.py:tiny" --config.data_dir="$work/data" ;;
  esac
  echo "# $recipe"
  run "$python" -m speechdst.prepare "$@"
  run "$python" -m speechdst.train "$@" --workdir="$work/run" --stop_after=2
  run "$python" -m speechdst.train "$@" --workdir="$work/run"
  run "$python" -m speechdst.evaluate "$@" --workdir="$work/run"
  run "$python" -m speechdst.export "$@" --workdir="$work/run" --out="$work/exported"
  run "$python" -m speechdst.generate --model="$work/exported" --turns=launch/smoke_turns.json
done
[ $dry_run = yes ] || echo "smoke: all recipes went through, in $folder"
