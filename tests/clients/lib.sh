# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# What the scripts here have in common: places, results, servers. To be sourced by bash.
#
# A step ends in exactly one line: `ok NAME`, `FAILED NAME: why`, or `SKIP NAME: why`. `finish` gives the exit code.

clients=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$clients/../.." && pwd)
# Packages that others made, installed by `scripts/setup clients`.
cache=${FULGURITE_CLIENTS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fulgurite-clients}
venv=$cache/venv

failures=0 passes=0 skips=0
say() { printf '%s\n' "$*"; }
ok() { passes=$((passes + 1)); say "ok $*"; }
failed() { failures=$((failures + 1)); say "FAILED $*"; }
skip() { skips=$((skips + 1)); say "SKIP $*"; }
# verdict NAME WHY COMMAND...: the line for a step that is one command.
verdict() {
  local name=$1 why=$2
  shift 2
  if "$@"; then ok "$name"; else failed "$name: $why"; fi
}
finish() {
  say "$passes passed, $failures failed, $skips skipped"
  [ "$failures" -eq 0 ] || exit 1
}
shown() { sed 's/^/  | /' | tail -n "${1:-15}"; }

# --- the server under test ---------------------------------------------------------------------------------------------

# The command line that serves REAPI on 127.0.0.1:$1 with its state in $2: the only place that knows it. The kinds are
# fulgurite and, to try the checks out on somebody else's server, casd, or casd behind an old face for clients of REAPI 2.0.
server_command() {
  local port=$1 state=$2
  case "$server_kind" in
    fulgurite)
      local program=${FULGURITE_BIN:-${CARGO_TARGET_DIR:-$repository/target}/release/fulgurite}
      server=("$program" serve --listen "127.0.0.1:$port" --state-dir "$state")
      # Clients may write the action cache, as Bazel does that only caches remotely.
      server+=(--set 'instances."".action_cache_writers=clients')
      read -ra extra <<<"${FULGURITE_SERVE_FLAGS:-}"
      server+=("${extra[@]}")
      ;;
    casd | oldcasd)
      local tools
      tools=$(dirname "$(find "$venv" -name buildbox-casd -type f | head -n 1)")
      server=(env "PATH=$tools:$PATH" "$tools/buildbox-casd" "--bind=127.0.0.1:$port" --quota-high=2G --reserved=1G
        "--buildbox-run=$tools/buildbox-run" --runner-arg=--ro-bind-mount=/usr:/usr
        --runner-arg=--ro-bind-mount=/usr/bin:/bin --runner-arg=--ro-bind-mount=/usr/lib:/lib
        --runner-arg=--ro-bind-mount=/usr/lib64:/lib64 --jobs=2 --log-level=warning "$state")
      ;;
    *)
      say "unknown kind of server '$server_kind': fulgurite, casd or oldcasd" >&2
      exit 2
      ;;
  esac
}

server_kind=${FULGURITE_CLIENTS_SERVER:-fulgurite}
server_pid='' server_port='' server_state='' server_log=''

free_port() {
  "${venv}/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# server_start DIRECTORY: starts one with its state and log below it, and waits until it answers.
server_start() {
  server_state=$1/server-state server_log=$1/server.log
  mkdir -p "$server_state"
  [ -n "$server_port" ] || server_port=$(free_port)
  address=127.0.0.1:$server_port
  server_run
}

# Starts it on the port and directory it already has: what a restart needs.
server_run() {
  local server
  server_command "$server_port" "$server_state"
  if [ "$server_kind" = oldcasd ]; then
    local behind
    behind=$(free_port)
    server_command "$behind" "$server_state"
    # The two are one process group, and end together.
    server=(bash -c '"$@" & exec "$PYTHON" "$FACE" "$PORT" "$BEHIND"' oldcasd "${server[@]}")
    export PYTHON=$venv/bin/python FACE=$clients/oldface.py PORT=$server_port BEHIND=127.0.0.1:$behind
  fi
  # A process group of its own, so that it can be killed with its children.
  setsid "${server[@]}" >>"$server_log" 2>&1 </dev/null &
  server_pid=$!
  # So that the shell has nothing to say when it is killed.
  disown "$server_pid"
  if ! server_answers "$address"; then
    say "the server did not come up: ${server[*]}" >&2
    shown 20 <"$server_log" >&2
    return 1
  fi
}

# Whether GetCapabilities is answered, within half a minute.
server_answers() {
  PYTHONPATH="$clients/conformance" timeout 60 "$venv/bin/python" "$clients/conformance/answers.py" "$1" 30
}

# server_kill SIGNAL: to the server and its children. One that has not ended in ten seconds is killed.
server_kill() {
  [ -n "$server_pid" ] || return 0
  local tenth
  kill "-$1" -- "-$server_pid" 2>/dev/null || true
  for ((tenth = 0; tenth < 100; tenth++)); do
    kill -0 "$server_pid" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL -- "-$server_pid" 2>/dev/null || true
  server_pid=''
}

# leftovers DIRECTORY: removes it, with what a killed server of somebody else's may have left mounted in it.
leftovers() {
  awk -v below="$1/" 'index($2, below) == 1 { print $2 }' /proc/mounts | xargs -r umount -l 2>/dev/null
  chmod -R u+w "$1" 2>/dev/null
  rm -rf "$1"
}

# Without what a client needs nothing is tested, which is said loudly. FULGURITE_CLIENTS_MISSING=1 makes it a failure.
need() { # COMMAND...
  local command
  for command in "$@"; do
    if ! command -v "$command" >/dev/null 2>&1; then
      printf '\nSKIP %s: %s is not installed: run scripts/setup clients\n\n' "$(basename "$0" .sh)" "$command"
      exit "${FULGURITE_CLIENTS_MISSING:-0}"
    fi
  done
}

# serve_or_use ADDRESS|--start [KIND]: sets $address and whether the server is ours.
ours=no
serve_or_use() {
  case "${1:-}" in
    --start)
      server_kind=${2:-$server_kind}
      ours=yes
      server_start "$scratch"
      ;;
    '' | -*)
      say "usage: $(basename "$0") ADDRESS|--start [fulgurite|casd]" >&2
      exit 2
      ;;
    *)
      address=${1#grpc://}
      server_answers "$address" || { say "no REAPI server answers at $address" >&2; exit 1; }
      ;;
  esac
}
