#!/usr/bin/env bash
# The one way in: every launcher here ends in this script, and it ends in Python.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/entrypoint.sh [FLAG ...]

Checks the machine if asked to, then becomes `python -m bert_jax pretrain`. Run the same
command again after an interruption: training goes on from the newest checkpoint.

  BERT_JAX_CONFIG            config file, FILE.py[:variant]                      required
  BERT_JAX_WORKDIR           run folder; the same one for all processes          required
  BERT_JAX_FLAGS             more flags of pretrain, parted by white space       e.g. --config.data.corpus=/data/wiki
  BERT_JAX_DOCTOR            1: run `bert_jax doctor --quick` first, stop if it fails   default 0
  BERT_JAX_PYTHON            the Python that has bert_jax                        default python3
  BERT_JAX_COORDINATOR       HOST:PORT of process 0     \  all three or none; none on one machine,
  BERT_JAX_NUM_PROCESSES     processes of the run        > under srun and on a TPU pod, where
  BERT_JAX_PROCESS_ID        which of them this is      /  JAX finds out by itself
  BERT_JAX_TOKEN             a word that all processes of the run are given, and nobody else   default: Slurm's job id, JobSet's name
  JAX_COMPILATION_CACHE_DIR  compiled programs, best kept where the next start finds them

Flags given here are passed on after BERT_JAX_FLAGS. launch/README.md has the rest.
TEXT
}

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

case "${1:-}" in
  -h | --help) usage && exit 0 ;;
esac
[[ -n "${BERT_JAX_CONFIG:-}" ]] || fail 'BERT_JAX_CONFIG is not set: give a config file, e.g. BERT_JAX_CONFIG=configs/bert_base.py:phase1 (--help lists all variables)'
[[ -n "${BERT_JAX_WORKDIR:-}" ]] || fail 'BERT_JAX_WORKDIR is not set: give the run folder, e.g. BERT_JAX_WORKDIR=/runs/base-128 (--help lists all variables)'

for name in BERT_JAX_NUM_PROCESSES BERT_JAX_PROCESS_ID; do
  [[ "${!name:-0}" =~ ^(0|[1-9][0-9]{0,8})$ ]] || fail "$name=${!name} must be a whole number"
done

python="${BERT_JAX_PYTHON:-python3}"
command -v "$python" >/dev/null || fail "BERT_JAX_PYTHON=$python is not there: give the Python that bert_jax is installed for"
run=(--config="$BERT_JAX_CONFIG" --workdir="$BERT_JAX_WORKDIR")
read -r -d '' -a flags <<<"${BERT_JAX_FLAGS:-}" || true # -d '': newlines part flags too
export PYTHONUNBUFFERED=1                               # the log is read while the run goes on

case "${BERT_JAX_DOCTOR:-0}" in
  0 | '') ;;
  1)
    shared=() # of pretrain's flags those that doctor has too
    for flag in ${flags[@]+"${flags[@]}"} "$@"; do
      case "$flag" in
        --config.* | --coordinator=* | --num[_-]processes=* | --process[_-]id=*) shared+=("$flag") ;;
      esac
    done
    "$python" -m bert_jax doctor --quick "${run[@]}" ${shared[@]+"${shared[@]}"} &
    doctor=$!
    # Nothing is lost yet when the machine is taken away now, so this counts as preempted: start me again.
    trap 'kill -TERM "$doctor" 2>/dev/null; wait "$doctor" || true; exit 75' TERM
    code=0
    wait "$doctor" || code=$?
    trap - TERM
    if ((code)); then exit "$code"; fi
    ;;
  *) fail "BERT_JAX_DOCTOR=$BERT_JAX_DOCTOR must be 0 or 1" ;;
esac

# exec: SIGTERM must reach Python, and its exit code must reach whoever started us.
exec "$python" -m bert_jax pretrain "${run[@]}" ${flags[@]+"${flags[@]}"} "$@"
