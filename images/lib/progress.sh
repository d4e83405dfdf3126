# Jobs that run side by side, with one progress line for all of them.
#
#   jobs_begin DIR        logs and phases go to DIR
#   job_start NAME CMD…   runs CMD in the background, its output goes to DIR/NAME.log
#   jobs_wait [NAME…]     shows progress until the named jobs (default: all) have ended;
#                         1, with the end of the log on stderr, as soon as any job fails
#   jobs_stop             ends what still runs
#   phase TEXT, detail TEXT   called within a job: what it does now, and how far it is
#
# On a terminal the line updates in place; elsewhere each new phase is a line of its own.
# shellcheck shell=bash disable=SC2030,SC2031
# (a job's name is set in its own subshell, on purpose)

jobs_begin() {
  export WRENN_JOBS=$1
  mkdir -p "$WRENN_JOBS"
  declare -gA job_pid=() job_shown=()
  job_order=()
  jobs_tty=
  # A copy: within $(…) standard output is not the terminal.
  [ ! -t 1 ] || exec {jobs_tty}>&1
}

# Each job is a process group, so that jobs_stop reaches all of it.
job_start() {
  local name=$1
  shift
  rm -f "$WRENN_JOBS/$name".{log,phase,detail,rc}
  set -m
  (
    set +m
    export WRENN_JOB=$name
    trap 'echo $? >"$WRENN_JOBS/$name.rc"' EXIT
    "$@"
  ) >"$WRENN_JOBS/$name.log" 2>&1 </dev/null &
  set +m
  # The second job of a name takes the place of the first.
  [ -n "${job_pid[$name]:-}" ] || job_order+=("$name")
  job_pid[$name]=$!
}

phase() {
  echo "== $1"
  [ -n "${WRENN_JOB:-}" ] || return 0
  rm -f "$WRENN_JOBS/$WRENN_JOB.detail"
  echo "$1" >"$WRENN_JOBS/$WRENN_JOB.phase.new"
  mv "$WRENN_JOBS/$WRENN_JOB.phase.new" "$WRENN_JOBS/$WRENN_JOB.phase"
}

detail() {
  [ -z "${WRENN_JOB:-}" ] || echo "$1" >"$WRENN_JOBS/$WRENN_JOB.detail"
}

jobs_wait() {
  local name ended
  [ $# -gt 0 ] || set -- "${job_order[@]}"
  while :; do
    ended=1
    for name in "${job_order[@]}"; do
      job_ended "$name" || continue
      [ "$(job_status "$name")" = 0 ] || { job_failed "$name"; return 1; }
    done
    for name in "$@"; do job_ended "$name" || ended=; done
    jobs_show
    [ -z "$ended" ] || return 0
    sleep 0.2
  done
}

job_ended() { [ -e "$WRENN_JOBS/$1.rc" ] || ! kill -0 "${job_pid[$1]}" 2>/dev/null; }

# A job killed outright leaves no status file: that is a failure too.
job_status() { cat "$WRENN_JOBS/$1.rc" 2>/dev/null || echo 137; }

job_failed() {
  jobs_clear
  {
    echo "$1 failed ($(job_phase "$1")). The last lines of its log:"
    tail -n 20 "$WRENN_JOBS/$1.log" | sed 's/^/  | /'
    echo "The whole log: $WRENN_JOBS/$1.log"
  } >&2
}

job_phase() { cat "$WRENN_JOBS/$1.phase" 2>/dev/null || echo starting; }

jobs_show() {
  local name phase detail line=''
  for name in "${job_order[@]}"; do
    phase=$(job_phase "$name")
    if [ -z "$jobs_tty" ]; then
      [ "${job_shown[$name]:-}" = "$phase" ] || echo "$(elapsed) $name: $phase"
      job_shown[$name]=$phase
    elif ! job_ended "$name"; then
      detail=$(cat "$WRENN_JOBS/$name.detail" 2>/dev/null) || true
      line+="${line:+ | }$name: $phase${detail:+, $detail}"
    fi
  done
  [ -z "$jobs_tty" ] || line_update "$(elapsed) $line"
}

elapsed() { printf '[%2d:%02d]' $((SECONDS / 60)) $((SECONDS % 60)); }

line_update() {
  local width
  width=$(stty size <&"$jobs_tty" | cut -d' ' -f2)
  printf '\r\033[K%s' "${1:0:$((${width:-80} - 1))}"
}

jobs_clear() { [ -z "${jobs_tty:-}" ] || printf '\r\033[K'; }

jobs_stop() {
  local name
  for name in "${job_order[@]}"; do
    ! job_ended "$name" || continue
    kill -TERM -- "-${job_pid[$name]}" 2>/dev/null || true
    wait "${job_pid[$name]}" 2>/dev/null || true
  done
  jobs_clear
}
