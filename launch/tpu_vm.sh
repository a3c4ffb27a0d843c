#!/usr/bin/env bash
# A slice of TPU VMs: made, set up, and one command run on all of its hosts.
#
#   launch/tpu_vm.sh [--dry_run] create  NAME ZONE TOPOLOGY [gcloud option ...]   TOPOLOGY: v5e:4x4
#   launch/tpu_vm.sh [--dry_run] install NAME ZONE               this commit and its lock, on every host
#   launch/tpu_vm.sh [--dry_run] run     NAME ZONE TOPOLOGY COMMAND [ARGUMENT ...]
#   launch/tpu_vm.sh [--dry_run] logs    NAME ZONE
#   launch/tpu_vm.sh [--dry_run] stop    NAME ZONE               saves a checkpoint and leaves
#
# For instance  launch/tpu_vm.sh run me us-west4-a v5e:4x4 train --config=configs/joint_dst.py:gemma3_1b
# --workdir=/mnt/share/g1 . --workdir and the data must be on a file system of all hosts (Filestore,
# Cloud Storage FUSE). Keys are read from ~/speechdst.env on the hosts (NAME=value lines), if it is there.
# Nothing is deleted: a slice that exists is not made anew, and a host that runs one command refuses
# another. What runs is a systemd unit: it outlives the connection, and an orderly shutdown of the
# host, as before maintenance, ends it by SIGTERM.
set -euo pipefail
here=$(dirname "$0")
. "$here/common.sh"
dry_run=no
[[ ${1:-} != --dry_run ]] || { dry_run=yes; shift; }
[[ $# -ge 3 ]] || fail "usage: tpu_vm.sh [--dry_run] create|install|run|logs|stop NAME ZONE ..."
action=$1 name=$2 zone=$3
shift 3
tpu=(gcloud compute tpus tpu-vm)

# Nothing changes under a command that runs.
idle="if systemctl is-active --quiet speechdst; then echo 'something runs here already' >&2; exit 1; fi"

everywhere() {
  run "${tpu[@]}" ssh "$name" "--zone=$zone" --worker=all "--command=$1"
}

case $action in
  create)
    [[ $# -ge 1 ]] || fail "usage: tpu_vm.sh create NAME ZONE TOPOLOGY [gcloud option ...]"
    type=$(python3 "$here/chips.py" type "$1")
    runtime=$(python3 "$here/chips.py" runtime "$1")
    shift
    look=("${tpu[@]}" describe "$name" "--zone=$zone" '--format=value(state)')
    if [[ $dry_run == yes ]]; then
      run "${look[@]}"
    elif state=$("${look[@]}" 2>/dev/null); then
      echo "$name is there already: $state"
      exit
    fi
    run "${tpu[@]}" create "$name" "--zone=$zone" "--accelerator-type=$type" \
      "--version=$runtime" "$@"
    ;;
  install)
    root=$(git -C "$here" rev-parse --show-toplevel)
    if [[ $dry_run == yes ]]; then
      archive=speechdst.tar.gz
    else
      folder=$(mktemp -d)
      trap 'rm -r "$folder"' EXIT
      archive=$folder/speechdst.tar.gz
    fi
    run git -C "$root" archive --format=tar.gz "--output=$archive" HEAD
    run "${tpu[@]}" scp "$archive" "$name:speechdst.tar.gz" "--zone=$zone" --worker=all
    # The image's own Python is too old; uv brings one.
    everywhere "$idle"'
set -e; mkdir -p speechdst; tar -xzf speechdst.tar.gz -C speechdst; cd speechdst
python3 -m pip install --quiet --user uv
test -e .venv || python3 -m uv venv --python 3.12 .venv
python3 -m uv pip install --python .venv -r requirements.txt "jax[tpu]"
python3 -m uv pip install --python .venv --no-deps --no-build-isolation -e .'
    ;;
  run)
    [[ $# -ge 2 ]] || fail "usage: tpu_vm.sh run NAME ZONE TOPOLOGY COMMAND [ARGUMENT ...]"
    flags=$(python3 "$here/chips.py" flags "$1")
    command=$2
    shift 2
    # Port 8476 is open in Google Cloud's default firewall; newer JAX would take another.
    script="export JAX_COORDINATOR_PORT=8476 LIBTPU_INIT_ARGS=$(quoted "$flags")
exec .venv/bin/python -m $(quoted "speechdst.$command" "$@")"
    everywhere "$idle
set -e; cd speechdst
printf '%s\n' $(quoted "$script") > run.sh
sudo systemd-run --unit=speechdst --collect --uid=\"\$(id -u)\" --working-directory=\"\$PWD\" \
--property=EnvironmentFile=-\"\$HOME/speechdst.env\" --property=KillMode=mixed \
--property=TimeoutStopSec=900 bash run.sh"
    ;;
  logs) everywhere 'journalctl --unit=speechdst --no-pager --lines=50' ;;
  stop) everywhere 'sudo systemctl stop speechdst' ;;
  *) fail "no action $action: create, install, run, logs or stop" ;;
esac
