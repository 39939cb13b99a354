#!/usr/bin/env bash
# Starts a command again for as long as its exit code asks for that: for machines without a scheduler that would.
set -uo pipefail

usage() {
  cat <<'TEXT'
usage: launch/supervise.sh COMMAND [ARGUMENT ...]      e.g. launch/supervise.sh launch/entrypoint.sh

Starts COMMAND again until it is done (0), fails for a reason that a restart does not mend
(1 a person has to mend it, 2 usage, 79 what was trained is not finite, 126 and 127 no such
command, 130 Ctrl-C), or was started too often. Everything else is a machine that failed:
70 an unknown error, 74 storage, 75 preempted, 76 or JAX's 134 another process was lost, 77
stood still, 137 and 139 killed. After SIGTERM, SIGHUP or Ctrl-C COMMAND gets SIGTERM, saves,
and is not started again. The exit code is that of the last start.

  BERT_JAX_MAX_RESTARTS      restarts at most                                   default 50
  BERT_JAX_RESTART_SECONDS   pause before a restart                             default 10
  BERT_JAX_EXIT_FILE         file that the last exit code is written to         default none
TEXT
}

case "${1:-}" in
  -h | --help) usage && exit 0 ;;
  '') usage >&2 && exit 2 ;;
esac

max_restarts="${BERT_JAX_MAX_RESTARTS:-50}"
pause="${BERT_JAX_RESTART_SECONDS:-10}"
for setting in "BERT_JAX_MAX_RESTARTS=$max_restarts" "BERT_JAX_RESTART_SECONDS=$pause"; do
  if [[ ! "$setting" =~ =(0|[1-9][0-9]{0,8})$ ]]; then
    printf 'error: %s must be a whole number\n' "$setting" >&2
    exit 2
  fi
done

child='' ended='' signals=0
stop() {
  signals=$((signals + 1)) ended="$1"
  # A command in the background ignores SIGINT: whatever came, it is asked by SIGTERM, and saves.
  if [[ -n "$child" ]]; then kill -s TERM "$child" 2>/dev/null; fi
}
trap 'stop SIGTERM' TERM
trap 'stop SIGINT' INT
trap 'stop SIGHUP' HUP # under nohup it is ignored, and stays so

finish() {
  if [[ -n "${BERT_JAX_EXIT_FILE:-}" ]]; then printf '%d\n' "$1" >"$BERT_JAX_EXIT_FILE"; fi
  exit "$1"
}

# Sets `code` to the child's exit code. A signal interrupts `wait`, which then tells nothing of the child.
wait_for_child() {
  local before
  while true; do
    before=$signals
    wait "$child"
    code=$?
    if ((signals == before)); then break; fi
  done
}

if [[ -n "${BERT_JAX_EXIT_FILE:-}" ]]; then rm -f "$BERT_JAX_EXIT_FILE"; fi
restarts=0
while true; do
  "$@" &
  child=$!
  # A signal between the two lines above has found no child to pass it on to.
  if [[ -n "$ended" ]]; then kill -s TERM "$child" 2>/dev/null; fi
  wait_for_child
  child=''
  case "$code" in
    0) finish 0 ;;
    1 | 2 | 79 | 126 | 127 | 130)
      printf 'supervise: exit code %d is final\n' "$code" >&2
      finish "$code"
      ;;
  esac
  if [[ -n "$ended" ]]; then
    printf 'supervise: ended by %s, the command left with exit code %d\n' "$ended" "$code" >&2
    finish "$code"
  fi
  if ((restarts >= max_restarts)); then
    printf 'supervise: exit code %d, and BERT_JAX_MAX_RESTARTS=%d restarts are used up\n' "$code" "$max_restarts" >&2
    finish "$code"
  fi
  restarts=$((restarts + 1))
  printf 'supervise: exit code %d, restart %d of at most %d in %d s\n' "$code" "$restarts" "$max_restarts" "$pause" >&2
  sleep "$pause" &
  wait $!
  if [[ -n "$ended" ]]; then
    kill $! 2>/dev/null
    finish "$code"
  fi
done
