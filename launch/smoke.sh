#!/bin/sh
# Every recipe's tiny config: prepare, three steps a stage, stop and resume, evaluate, export, reload.
# usage: [PYTHON=...] launch/smoke.sh [--dry_run] [FOLDER]
set -eu
. "$(dirname "$0")/common.sh"
dry_run=no
[ "${1:-}" != --dry_run ] || { dry_run=yes; shift; }
python=${PYTHON:-python3}
folder=${1:-}
[ -n "$folder" ] || { [ $dry_run = yes ] && folder=FOLDER || folder=$(mktemp -d); }

show() {  # the commands that take a recipe through
  recipe=$1
  work=$folder/$recipe
  echo "# $recipe"
  case $recipe in
    dpo_ln)  # goes on from the tracker
      set -- --config=configs/dpo_ln.py:tiny_dst --config.data_dir="$folder/joint_dst/data" \
        --config.base="$folder/joint_dst/run/joint" ;;
    multistream)
      speechdst prepare_pairs --config=configs/preference_data.py:tiny \
        --config.work="$work/pairs" --config.out="$work/data/pairs"
      set -- --config=configs/dpo_ln.py:tiny --config.data_dir="$work/data" ;;
    *) set -- --config="configs/$recipe.py:tiny" --config.data_dir="$work/data" ;;
  esac
  speechdst prepare "$@" --processes=0
  speechdst train "$@" --workdir="$work/run" --stop_after=2
  speechdst train "$@" --workdir="$work/run"
  speechdst evaluate "$@" --workdir="$work/run"
  speechdst export "$@" --workdir="$work/run" --out="$work/exported"
  if [ "$recipe" = multistream ]; then  # hears one of the conversations of its evaluation
    speechdst generate --model="$work/exported" --out="$work/reply.wav" \
      --audio="$work/run/evaluation/conversations-test-live-preference-000003/audio/00000.flac"
  else
    speechdst generate --model="$work/exported" --turns=launch/smoke_turns.json
  fi
}

speechdst() {
  name=$1
  shift
  quoted "$python" -m "speechdst.$name" "$@"
  echo
}

if [ $dry_run = yes ]; then
  for recipe in joint_dst dpo_ln auxiliary multistream; do show $recipe; done
  exit
fi
# Most of it is compiling, on one core: side by side, what does not need the others. What one command
# compiles, the next finds.
XLA_FLAGS="${XLA_FLAGS:-} $("$python" launch/chips.py flags quick)"
export XLA_FLAGS JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
export JAX_COMPILATION_CACHE_DIR="$folder/compiled"
mkdir -p "$folder"
beside=
for recipe in auxiliary multistream; do
  show $recipe | "$python" launch/commands.py >"$folder/$recipe.log" 2>&1 &
  beside="$beside $!"
done
# shellcheck disable=SC2064,SC2086
trap "kill $beside 2>/dev/null || true" EXIT
{ show joint_dst; show dpo_ln; } | "$python" launch/commands.py
failed=0
for process in $beside; do wait "$process" || failed=$?; done
trap - EXIT
cat "$folder/auxiliary.log" "$folder/multistream.log"
[ $failed = 0 ] || exit $failed
echo "smoke: all recipes went through, in $folder"
