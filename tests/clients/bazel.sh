#!/usr/bin/env bash
# Builds and tests a workspace with a real Bazel: locally, remotely, from the cache, with a server that goes away.
#
# usage: tests/clients/bazel.sh ADDRESS|--start [fulgurite|oldcasd]
#
# With an ADDRESS (host:port) the server is somebody's; the step that kills and restarts it is then left out.
#   BAZEL=PATH           another Bazel than the one on PATH
#   EXPECTED=FILE        steps that this server is known to fail, one `name: why` a line (oldcasd: bazel/oldcasd.expected)
#   ONLY="NAME..."       only these groups of steps: remote cached variants failing cache cancel restart
#   KEEP=1               keeps the scratch directory and says where it is
set -uo pipefail
# shellcheck source=tests/clients/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

bazel_program=${BAZEL:-bazel}
need "$bazel_program" java g++ "$venv/bin/python"

scratch=$(mktemp -d "${TMPDIR:-/tmp}/fulgurite-bazel.XXXXXX")
workspace=$scratch/workspace
unique=86400.$$$RANDOM
round=0

bazel() { # SECONDS VERB ARGUMENT...: output goes to $log
  local bound=$1 verb=$2
  shift 2
  (
    cd "$workspace" && exec timeout -k 20 "$bound" "$bazel_program" --nohome_rc --noworkspace_rc \
      "--bazelrc=$workspace/bazelrc" "--output_user_root=$scratch/root" --host_jvm_args=-Xmx1g --max_idle_secs=300 \
      "$verb" "$@"
  ) >"$log" 2>&1
}

cleanup() {
  log=$scratch/shutdown.log
  bazel 60 shutdown
  server_kill KILL
  if [ -n "${KEEP:-}" ]; then
    say "kept $scratch"
  else
    leftovers "$scratch"
  fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM

wanted() { case " ${ONLY:-remote cached variants failing cache cancel restart} " in *" $1 "*) ;; *) return 1 ;; esac; }

# What this server is known to fail is counted apart; that it suddenly works is a failure of the list.
expected=${EXPECTED:-}
known() { [ -n "$expected" ] && grep -q "^$1:" "$expected"; }
# The code comes before the reason, because a `$(...)` in the reason would change `$?`.
step() { # NAME CODE WHY-NOT
  if [ "$2" -eq 0 ]; then
    if known "$1"; then failed "$1: works, though $expected says it does not"; else ok "$1"; fi
  elif known "$1"; then
    skip "$1: known: $(sed -n "s/^$1: //p" "$expected")"
  else
    failed "$1: $3"
    shown 25 <"$log"
  fi
}

# --- steps -------------------------------------------------------------------------------------------------------------

good=(//:good)
remote_flags() { echo "--remote_executor=grpc://$address --spawn_strategy=remote --remote_timeout=60 --remote_retries=5"; }
clean() { log=$scratch/clean.log && bazel 60 clean; }

# Of the line `N processes: ...`, how many were of one kind: hits "remote cache hit", "remote", "local".
processes() { # KIND
  sed -n 's/^INFO: [0-9]* process[es]*: \(.*\)\.$/\1/p' "$log" | tail -n 1 | tr ',' '\n' |
    sed -n "s/^ *\([0-9]*\) $1\$/\1/p" | grep . || echo 0
}
ran_locally() { echo $(($(processes local) + $(processes linux-sandbox) + $(processes processwrapper-sandbox))); }

# Without parameter files, which Bazel writes to disk for local actions alone.
manifest() {
  "$venv/bin/python" "$clients/bazel/manifest.py" "$workspace/out-bin/" | grep -v '^[^ ]*-[0-9]*\.params ' >"$1"
}

# same NAME: the outputs are those of the local build.
same() {
  manifest "$scratch/outputs.$1"
  if diff "$scratch/outputs.local" "$scratch/outputs.$1" >"$scratch/difference"; then
    step "$1-outputs-equal-local" 0 ''
  else
    cp "$scratch/difference" "$log"
    step "$1-outputs-equal-local" 1 'digests, modes or links differ (< local, > this build)'
  fi
}

prepare() {
  cp -a "$clients/bazel/workspace" "$workspace"
  local overridden
  for overridden in rules_cc rules_java rules_proto remote_coverage_tools; do
    # Not under `common`: shutdown does not know the flag.
    for verb in build query; do
      echo "$verb --override_repository=$overridden=$clients/bazel/overrides/$overridden" >>"$workspace/bazelrc"
    done
  done
  "$clients/bazel/generate.sh" "$workspace" "$unique"
}

# Symbolic links as outputs are asked for on their own first, so that a server without them is tested with the rest.
probe_links() {
  log=$scratch/links.log
  # shellcheck disable=SC2046
  bazel 300 build $(remote_flags) //:links
  local code=$?
  step remote-symlink-outputs "$code" 'the server returned no usable symbolic links'
  [ "$code" -ne 0 ] || good+=(//:links)
}

local_build() {
  clean
  log=$scratch/local.log
  bazel 600 build --spawn_strategy=local "${good[@]}"
  step local-build $? 'the reference itself does not build'
  manifest "$scratch/outputs.local"
  [ "$(wc -l <"$scratch/outputs.local")" -gt 30 ]
  step local-outputs-are-many $? "only $(wc -l <"$scratch/outputs.local") outputs"
  bazel 300 build --spawn_strategy=local //:links
  step local-links-build $? 'the targets with symbolic links do not build even here'
}

remote_build() {
  clean
  log=$scratch/remote.log
  # Not from the cache, even where the address is of a server that has seen this workspace.
  # shellcheck disable=SC2046
  bazel 600 build $(remote_flags) --noremote_accept_cached "${good[@]}"
  step remote-build $? 'the build failed'
  remote_actions=$(processes remote)
  [ "$remote_actions" -gt 20 ] && [ "$(ran_locally)" -eq 0 ]
  step remote-build-ran-remotely $? "$remote_actions remote, $(ran_locally) local"
  same remote
}

cached_build() {
  clean
  log=$scratch/cached.log
  # shellcheck disable=SC2046
  bazel 600 build $(remote_flags) "--execution_log_json_file=$scratch/execution.json" "${good[@]}"
  step cached-build $? 'the build failed'
  local hits
  hits=$(processes 'remote cache hit')
  [ "$(processes remote)" -eq 0 ] && [ "$(ran_locally)" -eq 0 ] && [ "$hits" -eq "${remote_actions:-$hits}" ]
  step cached-build-all-hits $? "$hits hits of $remote_actions actions, $(processes remote) ran remotely"
  # The same by the log of every spawn, which the summary line can't hide anything from.
  local spawns cached
  spawns=$(grep -cs '"remoteCacheHit":' "$scratch/execution.json")
  cached=$(grep -cs '"remoteCacheHit": true' "$scratch/execution.json")
  [ "${spawns:-0}" -gt 0 ] && [ "$spawns" -eq "$cached" ]
  step cached-build-log-all-hits $? "$cached of $spawns spawns"
  same cached
}

# The other ways in which a client can be told to speak. Each is a build of its own, kept apart by a variable of the
# environment, which is part of every command.
variant() { # NAME FLAG...
  local name=$1
  shift
  round=$((round + 1))
  clean
  log=$scratch/variant-$name.log
  # shellcheck disable=SC2046
  bazel 600 build $(remote_flags) "--action_env=ROUND=$unique.$round" "$@" "${targets[@]}"
  local code=$?
  [ "$code" -ne 0 ] || [ "$(processes remote)" -gt 10 ] || code=1
  step "variant-$name" "$code" "exit code $code, $(processes remote) ran remotely"
}

variants() {
  local targets=("${good[@]}")
  variant keepalive --experimental_remote_execution_keepalive
  variant priority --remote_execution_priority=0 --remote_result_cache_priority=0
  variant toplevel --remote_download_toplevel
  variant platform --remote_default_exec_properties=OSFamily=linux
  variant upload-none --noremote_upload_local_results
  variant siblings --experimental_sibling_repository_layout
  # Bazel 4 refuses symbolic links among the outputs that it does not download.
  targets=(//:good)
  variant minimal --remote_download_minimal
}

# expect_failure NAME CODE TARGET PATTERN...: the build fails with this exit code, and says all these.
expect_failure() {
  local name=$1 code=$2 verb=$3 target=$4 pattern got
  shift 4
  log=$scratch/$name.log
  # shellcheck disable=SC2046
  bazel 300 "$verb" $(remote_flags) "${more[@]}" "$target"
  got=$?
  [ "$got" -eq "$code" ]
  step "$name" $? "exit code $got instead of $code"
  for pattern in "$@"; do
    grep -q -- "$pattern" "$log"
    step "$name-says-${pattern//[^a-zA-Z0-9]/-}" $? "no '$pattern' in its output"
  done
}

failing() {
  local more=()
  expect_failure failing-action 1 build //shell:fails 'stderr of the failing action' 'stdout of the failing action' \
    '[Ee]xit 7'
  # A failure is never taken from the cache: it runs, and fails, again.
  expect_failure failing-action-again 1 build //shell:fails 'stderr of the failing action' '[Ee]xit 7'
  expect_failure forgotten-output 1 build //shell:forgets 'forgets.txt'
  expect_failure compile-error 1 build //cc:does_not_compile 'this_name_is_not_declared'

  log=$scratch/tests-pass.log
  # shellcheck disable=SC2046
  bazel 300 test $(remote_flags) //cc:passes_test //shell:passes_test
  step tests-pass $? 'a test that passes locally failed'
  grep -q 'the passing test ran' "$workspace/out-testlogs/cc/passes_test/test.log"
  step tests-log-comes-back $? 'no line of the test in its test.log'
  expect_failure test-fails 3 test //cc:fails_test 'stdout of the failing test' 'stderr of the failing test'
  expect_failure script-test-fails 3 test //shell:fails_test 'stderr of the failing script'
  more=(--test_timeout=2)
  expect_failure test-times-out 3 test //shell:slow_test 'TIMEOUT'
  grep -rq 'printed before the timeout' "$workspace/out-testlogs/shell/slow_test/" "$log"
  step timeout-keeps-output $? 'what the test had printed is lost'
}

# The server as a cache alone: the client runs everything, and stores it.
cache_only() {
  local flags=("--remote_cache=grpc://$address" --spawn_strategy=local "--action_env=ROUND=$unique.cache")
  clean
  log=$scratch/cache-fill.log
  bazel 600 build "${flags[@]}" "${good[@]}"
  step cache-only-fills $? 'the build failed'
  # What does not depend on the round's variable may be there from earlier steps.
  local ran
  ran=$(($(ran_locally) + $(processes 'remote cache hit')))
  [ "$(ran_locally)" -gt 5 ]
  step cache-only-ran-locally $? "only $(ran_locally) actions ran here"
  ! grep -qi 'warning.*\(remote cache\|upload\)' "$log"
  step cache-only-no-warning $? 'Bazel warns that it can not store results'
  clean
  log=$scratch/cache-hits.log
  bazel 600 build "${flags[@]}" "${good[@]}"
  step cache-only-second-build $? 'the build failed'
  [ "$(ran_locally)" -eq 0 ] && [ "$(processes 'remote cache hit')" -eq "$ran" ]
  step cache-only-all-hits $? "$(processes 'remote cache hit') hits of $ran, $(ran_locally) ran again"
  same cache-hits
}

# Processes of the endless action, anywhere on this machine, but not of Bazel or of this script.
endless() {
  local entry found=''
  for entry in /proc/[0-9]*; do
    # Processes end while the list is read.
    case "$({ tr '\0' ' ' <"$entry/cmdline"; } 2>/dev/null)" in
      "sleep $unique "*) found+=" ${entry#/proc/}" ;;
    esac
  done
  printf '%s' "$found"
}

until_endless() { # SECONDS yes|no
  local deadline=$((SECONDS + $1))
  while [ "$SECONDS" -lt "$deadline" ]; do
    case "$2:$(endless)" in
      yes:?* | no:) return 0 ;;
    esac
    sleep 0.2
  done
  return 1
}

# Ctrl-C in the middle of an action. Old Bazels end the stream without CancelOperation, so that a server may wait some
# time for the client to come back: two minutes are allowed, half a minute to ours, and how long it took is said.
cancel() {
  log=$scratch/cancel.log
  # shellcheck disable=SC2046
  bazel 300 build $(remote_flags) //generated:endless &
  local client=$! started
  if ! until_endless 60 yes; then
    step cancel-kills-action 1 'the endless action never started'
    kill "$client" 2>/dev/null
    return
  fi
  # `timeout` runs Bazel in a process group of its own and passes the signal on.
  pkill -INT -P "$client" 2>/dev/null || kill -INT "$client"
  started=$SECONDS
  wait "$client"
  local patience=120
  [ "$ours:$server_kind" != yes:fulgurite ] || patience=30
  until_endless "$patience" no
  step cancel-kills-action $? "still alive after $((SECONDS - started)) s:$(endless)"
  say "  the action was gone $((SECONDS - started)) s after the client"
  local left
  for left in $(endless); do kill -9 "$left"; done
}

# kill -9 in the middle of a build, and a new server on the same state and address.
restart() {
  if [ "$ours" = no ]; then
    skip "restart-mid-build: the server is not ours"
    return
  fi
  clean
  log=$scratch/restart.log
  # shellcheck disable=SC2046
  bazel 300 build $(remote_flags) --remote_retries=20 --jobs=4 "--action_env=ROUND=$unique.restart" \
    "$@" //generated:slow &
  local client=$! deadline=$((SECONDS + 60))
  # Some actions are done, most are not.
  while [ "$(find "$workspace/out-bin/generated" -name 'slow*.txt' 2>/dev/null | wc -l)" -lt 6 ]; do
    [ "$SECONDS" -lt "$deadline" ] && kill -0 "$client" 2>/dev/null || break
    sleep 0.1
  done
  local done_before
  done_before=$(find "$workspace/out-bin/generated" -name 'slow*.txt' 2>/dev/null | wc -l)
  server_kill KILL
  server_run
  wait "$client"
  step "restart-mid-build${1:+-keepalive}" $? 'the build did not survive its server'
  say "  $done_before of 40 actions were done when the server was killed"
  [ "$(find "$workspace/out-bin/generated" -name 'slow*.txt' -size +0 | wc -l)" -eq 40 ]
  step "restart-outputs-whole${1:+-keepalive}" $? 'outputs are missing or empty'
}

# A function, so that the whole script is read before any of it runs.
main() {
  prepare
  serve_or_use "$@" || exit 1
  [ -n "$expected" ] || { [ "$ours:$server_kind" = yes:oldcasd ] && expected=$clients/bazel/oldcasd.expected; }
  started=$SECONDS
  remote_actions=0
  probe_links
  local_build
  wanted remote && remote_build
  wanted cached && cached_build
  wanted variants && variants
  wanted failing && failing
  wanted cache && cache_only
  wanted cancel && cancel
  if wanted restart; then
    restart
    restart --experimental_remote_execution_keepalive
  fi
  say "took $((SECONDS - started)) s"
  finish
}
# race.sh takes the steps from here, and has others.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  main "$@"
  exit
fi
