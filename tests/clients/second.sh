#!/usr/bin/env bash
# Clients of another family: BuildGrid's bgd, and buildbox-casd as a proxy before the server.
#
# usage: tests/clients/second.sh ADDRESS|--start [fulgurite|casd]
set -uo pipefail
# shellcheck source=tests/clients/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need "$venv/bin/python" "$venv/bin/bgd" bwrap
scratch=$(mktemp -d "${TMPDIR:-/tmp}/fulgurite-second.XXXXXX")
log=$scratch/log
proxy_pid=''
cleanup() {
  [ -z "$proxy_pid" ] || kill -KILL -- "-$proxy_pid" 2>/dev/null
  server_kill KILL
  leftovers "$scratch"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# bgd GROUP ARGUMENT...: against $target; what it says goes to $log.
bgd() {
  local group=$1
  shift
  timeout -k 5 90 "$venv/bin/bgd" "$group" --remote "http://$target" "$@" >"$log" 2>&1
}
step() { # NAME CODE WHY-NOT
  if [ "$2" -eq 0 ]; then ok "$1"; else
    failed "$1: $3"
    shown 12 <"$log"
  fi
}
manifest() { "$venv/bin/python" "$clients/bazel/manifest.py" "$1"; }

directory() {
  local tree=$scratch/tree
  mkdir -p "$tree/sub/deep" "$tree/empty"
  echo "unique $$ $RANDOM" >"$tree/in.txt"
  printf '#!/bin/sh\necho ran\n' >"$tree/sub/run.sh"
  chmod 755 "$tree/sub/run.sh"
  head -c 3000000 /dev/urandom >"$tree/sub/deep/large"
  : >"$tree/sub/nothing"
}

round_trip() { # PREFIX
  bgd cas upload-dir "$scratch/tree"
  step "$1-upload-dir" $? 'the upload failed'
  # The last digest, HASH/SIZE, that it prints is the root's.
  local root
  root=$(grep -oE '[0-9a-f]{64}/[0-9]+' "$log" | tail -n 1)
  bgd cas download-dir "$root" "$scratch/$1-back"
  step "$1-download-dir" $? 'the download failed'
  diff <(manifest "$scratch/tree" | sed 's/ 0[0-7]* / /') <(manifest "$scratch/$1-back" | sed 's/ 0[0-7]* / /') >"$log"
  step "$1-directory-equal" $? 'what came back differs'
  test -x "$scratch/$1-back/sub/run.sh"
  step "$1-executable-bit" $? 'the executable bit is lost'
}

executes() {
  # bgd writes outputs below the directory it runs in.
  mkdir -p "$scratch/run"
  (cd "$scratch/run" && bgd execute command --output-file out.txt "$scratch/tree" -- \
    /bin/sh -c 'cat in.txt > out.txt')
  step execute-command $? 'the command failed'
  local made
  made=$(find "$scratch/run" -name out.txt -type f | head -n 1)
  cmp "${made:-/dev/null}" "$scratch/tree/in.txt" >>"$log" 2>&1
  step execute-output-fetched $? 'the output is not what the command wrote'
  bgd execute command "$scratch/tree" -- /bin/sh -c 'echo said by the failing command >&2; exit 9'
  # bgd prints the operation as text, with the response's bytes escaped: field 4 of the result, exit_code, is ` \t`.
  grep -q 'value: ".* \\t' "$log"
  step execute-exit-code-told $? 'no exit code 9 in the response'
  local said
  said=$(echo said by the failing command | sha256sum | cut -d ' ' -f 1)
  grep -q "$said" "$log" && bgd cas download-file "$said/28" "$scratch/said" && grep -q 'said by' "$scratch/said"
  step execute-stderr-fetched $? 'the stderr of the failing command can not be fetched'
}

cancels() {
  local seconds=86399.$$$RANDOM client code
  # Without the wrapper, so that the process is bgd itself and gets the signal; bgd cancels on SIGINT.
  "$venv/bin/python" -c 'import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
os.execv(sys.argv[1], sys.argv[1:])' "$venv/bin/bgd" execute --remote "http://$target" \
    command "$scratch/tree" -- /bin/sleep "$seconds" >"$log" 2>&1 &
  client=$!
  if ! until_sleeping "$seconds" 40 yes; then
    step cancel-by-interrupt 1 'the action never started here'
    kill -9 "$client" 2>/dev/null
    return
  fi
  kill -INT "$client"
  until_sleeping "$seconds" 30 no
  code=$?
  kill -9 "$client" 2>/dev/null
  wait "$client" 2>/dev/null
  step cancel-by-interrupt "$code" 'the action is alive 30 s after bgd was interrupted'
  local left
  for left in $(sleeping "$seconds"); do kill -9 "$left"; done
}

# Processes that sleep so many seconds; the number is unique.
sleeping() {
  local entry
  for entry in /proc/[0-9]*; do
    case "$({ tr '\0' ' ' <"$entry/cmdline"; } 2>/dev/null)" in
      *"sleep $1 "*bgd* | *bgd*"sleep $1 "*) ;;
      "/bin/sleep $1 " | "sleep $1 ") printf '%s ' "${entry#/proc/}" ;;
    esac
  done
}
until_sleeping() { # UNIQUE SECONDS yes|no
  local deadline=$((SECONDS + $2))
  while [ "$SECONDS" -lt "$deadline" ]; do
    case "$3:$(sleeping "$1")" in yes:?* | no:) return 0 ;; esac
    sleep 0.2
  done
  return 1
}

# casd keeps a store of its own, and fetches from and passes on to the server what it has not.
proxy() {
  local tools port
  tools=$(dirname "$(find "$venv" -name buildbox-casd -type f | head -n 1)")
  port=$(free_port)
  setsid env "PATH=$tools:$PATH" "$tools/buildbox-casd" "--bind=127.0.0.1:$port" "--cas-remote=http://$address" \
    --quota-high=1G --log-level=warning "$scratch/proxy" >"$scratch/proxy.log" 2>&1 </dev/null &
  proxy_pid=$!
  disown "$proxy_pid"
  server_answers "127.0.0.1:$port" >"$log" 2>&1
  step proxy-starts $? 'buildbox-casd does not start before this server'
  target=127.0.0.1:$port
  head -c 500000 /dev/urandom >"$scratch/tree/through-the-proxy"
  round_trip proxy
  target=$address
}

main() {
  serve_or_use "$@" || exit 1
  target=$address
  directory
  bgd capabilities
  step capabilities $? 'bgd can not read the capabilities'
  round_trip direct
  executes
  cancels
  proxy
  finish
}
main "$@"; exit
