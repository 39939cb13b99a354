#!/usr/bin/env bash
# The part of tpu-vm.sh that runs on the hosts of the TPU, from the home of the user.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/tpu-vm-host.sh COMMAND      (launch/tpu-vm.sh calls this on every host)

  setup HOST:/PATH        mount the NFS share at /mnt/bert_jax; a Python, and bert_jax with the versions of its tests
  start NAME=VALUE …      start training in the background, with these variables
  outcome                 the exit code of the training that ended; else what systemd says of it, e.g. active
  status, logs, stop
TEXT
}

checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
exit_file="$HOME/bert_jax.exit"

setup() {
  if [[ "${1:-}" != *:/* ]]; then
    printf 'error: %s is no NFS share: give HOST:/PATH, e.g. 10.0.0.2:/share\n' "${1:-nothing}" >&2
    exit 2
  fi
  if ! mountpoint -q /mnt/bert_jax; then
    if ! command -v mount.nfs >/dev/null; then
      sudo apt-get update --quiet=2
      sudo apt-get install --yes --quiet=2 nfs-common
    fi
    sudo mkdir -p /mnt/bert_jax
    sudo mount -t nfs -o hard,noatime "$1" /mnt/bert_jax # hard: a pause of the server is waited for, no error in a save
  fi
  # The Python of the TPU images is older than 3.11; uv brings the one that constraints.txt is made for.
  python3 -m pip install --quiet --user uv
  cd "$checkout"
  if [[ ! -d .venv ]]; then python3 -m uv venv --quiet --python=3.11 .venv; fi
  python3 -m uv pip install --quiet --python=.venv/bin/python --constraint=constraints.txt --editable='.[tpu,gcs,zh]'
  .venv/bin/python -m bert_jax --version
}

start() {
  local setting options=()
  if systemctl is-active --quiet bert-jax; then
    echo 'training is under way already: launch/tpu-vm.sh stop ends it' >&2
    return 1
  fi
  for setting in "$@"; do options+=(--setenv="$setting"); done
  sudo systemctl reset-failed bert-jax 2>/dev/null || true
  rm -f "$exit_file"
  # A unit outlives the ssh session, and gets SIGTERM when the machine goes down. KillMode=mixed: that goes to supervise.sh
  # alone, which hands it on; TimeoutStopSec is the time for the save.
  sudo systemd-run --unit=bert-jax --uid="$(id -un)" --working-directory="$checkout" \
    --property=KillMode=mixed --property=TimeoutStopSec=300 \
    --setenv=BERT_JAX_PYTHON="$checkout/.venv/bin/python" --setenv=BERT_JAX_EXIT_FILE="$exit_file" \
    ${options[@]+"${options[@]}"} "$checkout/launch/supervise.sh" "$checkout/launch/entrypoint.sh"
}

outcome() { cat "$exit_file" 2>/dev/null || systemctl is-active bert-jax || true; }

case "${1:-}" in
  -h | --help) usage ;;
  setup | start) "$@" ;;
  outcome) outcome ;;
  status) printf '%s: %s: %s\n' "$(hostname)" "$(outcome)" "$(journalctl --unit=bert-jax --lines=1 --output=cat)" ;;
  logs) journalctl --unit=bert-jax --lines=100 --follow --output=cat ;;
  stop) sudo systemctl stop bert-jax ;;
  *) usage >&2 && exit 2 ;;
esac
