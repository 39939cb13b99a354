#!/usr/bin/env bash
# A run on Cloud TPU VMs by queued resources: from a laptop with gcloud to a pod and back.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/tpu-vm.sh COMMAND

  create    ask for the TPU (a queued resource with one node of the same name)
  wait      until it is there
  install   copy this checkout to every host, install it, mount TPU_SHARE at /mnt/bert_jax
  run       start training on every host, in the background, restarted when it is interrupted
  keep      all of the above, and again with a new TPU whenever this one was taken away, until training is done
  status    state of the TPU, and of the run on every host
  logs      follow the log of host 0
  stop      SIGTERM to the run on every host: it saves and ends
  fetch DIR export the newest checkpoint on host 0 and copy the Hugging Face folder to DIR
  delete    give the TPU back (gcloud asks first); TPU_SHARE stays as it is

  TPU_NAME          name of the queued resource and of the TPU                     required
  TPU_ZONE          e.g. us-west4-a                                                required
  TPU_TYPE          e.g. v5litepod-16, v5p-32, v6e-8                               for create, keep
  TPU_VERSION       software version                                               default: the one for TPU_TYPE
  TPU_SPOT          1: spot; 0: on demand                                          default 1
  TPU_SHARE         NFS share, HOST:/PATH, that all hosts mount                    for install, keep
  TPU_PROJECT       Google Cloud project                                           default: gcloud's own
  TPU_POLL_SECONDS  pause between two looks at the state                           default 30
  BERT_JAX_CONFIG, BERT_JAX_WORKDIR (below /mnt/bert_jax), BERT_JAX_FLAGS, BERT_JAX_DOCTOR, BERT_JAX_MAX_RESTARTS,
  BERT_JAX_TOKEN, JAX_COMPILATION_CACHE_DIR, XLA_FLAGS and LIBTPU_INIT_ARGS are handed to the run: see launch/entrypoint.sh --help
TEXT
}

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

say() { printf 'tpu-vm: %s\n' "$*" >&2; }

need() {
  local name
  for name in "$@"; do
    [[ -n "${!name:-}" ]] || fail "$name is not set (launch/tpu-vm.sh --help lists the variables)"
  done
}

tpus() { gcloud compute tpus "$@" --zone="$TPU_ZONE" ${TPU_PROJECT:+"--project=$TPU_PROJECT"}; }

host=bert_jax/launch/tpu-vm-host.sh # on the hosts, from their home
on_hosts() { tpus tpu-vm ssh "$TPU_NAME" --worker="$1" --command="$2"; }

# https://cloud.google.com/tpu/docs/runtimes
software_version() {
  case "$1" in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    *) fail "TPU_TYPE=$1 is not known here: v2-, v3-, v4-, v5litepod-, v5p- and v6e- are. Newer ones come by GKE only (launch/gke-tpu.yaml); for another software version set TPU_VERSION" ;;
  esac
}

create() {
  need TPU_TYPE
  local version spot=()
  version="${TPU_VERSION:-$(software_version "$TPU_TYPE")}"
  if [[ "${TPU_SPOT:-1}" == 1 ]]; then spot=(--spot); fi
  tpus queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" --accelerator-type="$TPU_TYPE" \
    --runtime-version="$version" ${spot[@]+"${spot[@]}"}
}

# ACTIVE, SUSPENDED, …; empty where there is no such queued resource.
state() { tpus queued-resources describe "$TPU_NAME" --format='value(state.state)' 2>/dev/null || true; }

wait_for() {
  local now before=''
  while true; do
    now="$(state)"
    if [[ "$now" != "$before" ]]; then say "$TPU_NAME: ${now:-not there}" && before="$now"; fi
    case "$now" in
      ACTIVE) return ;;
      '')
        tpus queued-resources describe "$TPU_NAME" >/dev/null || true # says why
        fail "there is no queued resource $TPU_NAME in $TPU_ZONE: launch/tpu-vm.sh create"
        ;;
      FAILED | SUSPENDED | SUSPENDING | DELETING)
        say "it will not come: launch/tpu-vm.sh delete, then create"
        return 1
        ;;
    esac
    sleep "${TPU_POLL_SECONDS:-30}"
  done
}

install() {
  need TPU_SHARE
  local archive root
  archive="$(mktemp --suffix=.tar.gz)" && root="$(dirname "${BASH_SOURCE[0]}")/.." || return
  # What git knows of, as it stands on this disk: no data, no runs, no credentials that happen to lie around.
  git -C "$root" ls-files -z --cached --deduplicate |
    tar --directory="$root" --null --files-from=- --create --gzip --file="$archive" || return
  tpus tpu-vm scp "$archive" "$TPU_NAME:bert_jax.tar.gz" --worker=all || return
  rm "$archive"
  on_hosts all "mkdir -p bert_jax && tar -xzf bert_jax.tar.gz -C bert_jax && $host setup $(printf %q "$TPU_SHARE")"
}

run() {
  need BERT_JAX_CONFIG BERT_JAX_WORKDIR
  [[ "$BERT_JAX_WORKDIR" == /mnt/bert_jax/?* ]] ||
    fail "BERT_JAX_WORKDIR=$BERT_JAX_WORKDIR must lie below /mnt/bert_jax, the share of all hosts: every host writes its part of a checkpoint, and the disk of a spot TPU goes with it"
  local name settings=''
  for name in BERT_JAX_CONFIG BERT_JAX_WORKDIR BERT_JAX_FLAGS BERT_JAX_DOCTOR BERT_JAX_MAX_RESTARTS BERT_JAX_TOKEN \
    JAX_COMPILATION_CACHE_DIR XLA_FLAGS LIBTPU_INIT_ARGS; do
    if [[ -n "${!name:-}" ]]; then settings+=" $(printf %q "$name=${!name}")"; fi
  done
  on_hosts all "$host start$settings"
}

keep() {
  need TPU_TYPE TPU_SHARE BERT_JAX_CONFIG BERT_JAX_WORKDIR
  local attempts=0 max_restarts="${BERT_JAX_MAX_RESTARTS:-50}" outcome
  while true; do
    case "$(state)" in
      '')
        create || { attempts=$((attempts + 1)) && say "gcloud could not ask for it; trying again"; }
        ;;
      FAILED | SUSPENDED) # deleting it makes room for a new one of the same name
        say "$TPU_NAME was taken away, or not given"
        tpus queued-resources delete "$TPU_NAME" --force --quiet || say "gcloud could not delete it; trying again"
        ;;
      ACTIVE)
        outcome="$(on_hosts 0 "$host outcome" 2>/dev/null | tail -n 1)" || outcome=''
        case "$outcome" in
          active | activating | deactivating) ;;
          0) say "training is done: launch/tpu-vm.sh fetch DIR, then delete" && return ;;
          1 | 2 | 79 | 126 | 127 | 130) say "exit code $outcome is final: launch/tpu-vm.sh logs says what to mend" && return 1 ;;
          *) # a new TPU, or a run that was interrupted
            attempts=$((attempts + 1))
            if ! { install && run; }; then say "could not start; trying again"; fi
            ;;
        esac
        ;;
    esac
    if ((attempts > max_restarts)); then
      say "BERT_JAX_MAX_RESTARTS=$max_restarts restarts are used up; the TPU may still be there: launch/tpu-vm.sh status"
      return 1
    fi
    sleep "${TPU_POLL_SECONDS:-30}"
  done
}

fetch() {
  need BERT_JAX_WORKDIR
  [[ -n "${1:-}" ]] || fail 'fetch needs the folder to copy to: launch/tpu-vm.sh fetch my-bert'
  # On the CPU: the TPU may be in use by the run.
  on_hosts 0 "JAX_PLATFORMS=cpu bert_jax/.venv/bin/python -m bert_jax export --workdir=$(printf %q "$BERT_JAX_WORKDIR") --out=bert_jax.export"
  tpus tpu-vm scp --recurse "$TPU_NAME:bert_jax.export" "$1" --worker=0
}

case "${1:-}" in
  -h | --help) usage && exit 0 ;;
  create | wait | install | run | keep | status | logs | stop | fetch | delete) need TPU_NAME TPU_ZONE ;;
  *) usage >&2 && exit 2 ;;
esac
[[ "${BERT_JAX_MAX_RESTARTS:-50}" =~ ^(0|[1-9][0-9]{0,8})$ ]] ||
  fail "BERT_JAX_MAX_RESTARTS=$BERT_JAX_MAX_RESTARTS must be a whole number"
[[ "${TPU_POLL_SECONDS:-30}" =~ ^[0-9]{1,8}([.][0-9]+)?$ ]] ||
  fail "TPU_POLL_SECONDS=$TPU_POLL_SECONDS must be a number of seconds"
[[ "${TPU_SPOT:-1}" =~ ^[01]$ ]] || fail "TPU_SPOT=$TPU_SPOT must be 0 or 1"
[[ "${BERT_JAX_DOCTOR:-0}" =~ ^[01]$ ]] || fail "BERT_JAX_DOCTOR=$BERT_JAX_DOCTOR must be 0 or 1"
case "$1" in
  wait) wait_for ;;
  status)
    say "$TPU_NAME: $(state)"
    on_hosts all "$host status"
    ;;
  logs) on_hosts 0 "$host logs" ;;
  stop) on_hosts all "$host stop" ;;
  fetch) fetch "${2:-}" ;;
  delete) tpus queued-resources delete "$TPU_NAME" --force ;;
  *) "$1" ;;
esac
