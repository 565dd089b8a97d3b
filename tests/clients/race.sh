#!/usr/bin/env bash
# Builds bazel.sh's workspace with a real Bazel by an endpoint that races this machine against a second server: cold,
# with a warm cluster, with one that is killed and comes back in the middle of the build, and with one that is not there.
#
# usage: tests/clients/race.sh [--start]
#
#   BAZEL=PATH           another Bazel than the one on PATH
#   ONLY="NAME..."       only these groups of steps: cold warm failing cancel dying dead
#   KEEP=1               keeps the scratch directory and says where it is
#
# The outputs of every build must be those of Bazel's own local one, by their digests.
set -uo pipefail
# shellcheck source=tests/clients/bazel.sh
. "$(dirname "${BASH_SOURCE[0]}")/bazel.sh"

racing_pid='' racing_state='' racing_log=''

cleanup() {
  log=$scratch/shutdown.log
  bazel 60 shutdown
  racing_stop KILL
  server_kill KILL
  if [ -n "${KEEP:-}" ]; then
    say "kept $scratch"
  else
    leftovers "$scratch"
  fi
}

wanted() { case " ${ONLY:-cold warm failing cancel dying dead} " in *" $1 "*) ;; *) return 1 ;; esac; }

# racing_start NAME CLUSTER FLAG...: a racing endpoint that has seen nothing yet; sets $address to its own.
racing_start() {
  local name=$1 cluster=$2 port server
  shift 2
  racing_state=$scratch/racing-$name racing_log=$scratch/racing-$name.log
  mkdir -p "$racing_state"
  port=$(free_port)
  server_command "$port" "$racing_state"
  server+=(--unix "$scratch/racing.socket" --remote "grpc://$cluster" "$@")
  setsid "${server[@]}" >>"$racing_log" 2>&1 </dev/null &
  racing_pid=$!
  disown "$racing_pid"
  address=127.0.0.1:$port
  server_answers "$address" && return
  say "the racing endpoint did not come up: ${server[*]}" >&2
  shown 20 <"$racing_log" >&2
  exit 1
}

racing_stop() { # SIGNAL
  [ -n "$racing_pid" ] || return 0
  local tenth
  kill "-$1" "$racing_pid" 2>/dev/null || true
  for ((tenth = 0; tenth < 300; tenth++)); do
    kill -0 "$racing_pid" 2>/dev/null || break
    sleep 0.1
  done
  ! kill -KILL -- "-$racing_pid" 2>/dev/null || [ "$1" = KILL ] || say "  the racing endpoint had to be killed"
  racing_pid=''
}

# counted NAME: a counter of the racing endpoint's.
counted() {
  "${server[0]}" status --daemon "$scratch/racing.socket" | sed -n "s/^$1  *\([0-9]*\)$/\1/p" | grep . || echo 0
}

# What came of the races so far, in a line.
counts() {
  say "  $(counted races) races, $(counted raced) with both sides, $(counted 'local wins') won here," \
    "$(counted 'remote wins') there ($(counted 'remote hits') of them hits)"
}

# fresh_cluster NAME: a second server that has seen nothing yet.
fresh_cluster() {
  server_kill TERM
  server_port=''
  server_start "$scratch/cluster-$1" || exit 1
  cluster=$address
}

# raced NAME: a build by the racing endpoint, all of whose actions it must have run, with Bazel's own outputs.
raced() {
  clean
  log=$scratch/$1.log
  # shellcheck disable=SC2046
  bazel 600 build $(remote_flags) "${good[@]}"
  step "$1-build" $? 'the build failed'
  raced_well "$1"
}

raced_well() { # NAME
  local ran
  ran=$(($(processes remote) + $(processes 'remote cache hit')))
  [ "$ran" -gt 60 ] && [ "$(ran_locally)" -eq 0 ]
  step "$1-ran-by-the-endpoint" $? "$ran by it, $(ran_locally) by Bazel"
  counts
  # Actions that are alike run once.
  [ "$(counted races)" -gt 60 ] && [ $(($(counted 'local wins') + $(counted 'remote wins'))) -eq "$(counted races)" ]
  step "$1-each-race-has-a-winner" $? "$(counted races) races"
  same "$1"
}

# --- steps -------------------------------------------------------------------------------------------------------------

cold() {
  fresh_cluster cold
  racing_start cold "$cluster"
  raced cold
  racing_stop TERM
}

# The cluster has all results, the endpoint none.
warm() {
  fresh_cluster warm
  clean
  log=$scratch/warming.log
  address=$cluster
  # shellcheck disable=SC2046
  bazel 600 build $(remote_flags) "${good[@]}"
  step warm-cluster $? 'the build by the cluster alone failed'
  # Once there was a hit, the local side waits: what is counted then does not depend on the speed of this machine.
  racing_start warm "$cluster" --dynamic_local_execution_delay=10m
  raced warm
  # The first ones start on both sides, as nothing is known yet.
  [ "$(counted 'remote hits')" -ge $(($(counted races) * 3 / 4)) ]
  step warm-mostly-hits $? "$(counted 'remote hits') hits of $(counted races)"
  racing_stop TERM
}

raced_failures() {
  fresh_cluster failing
  racing_start failing "$cluster"
  local more=()
  expect_failure raced-failing-action 1 build //shell:fails 'stderr of the failing action' \
    'stdout of the failing action' '[Ee]xit 7'
  expect_failure raced-compile-error 1 build //cc:does_not_compile 'this_name_is_not_declared'
  expect_failure raced-forgotten-output 1 build //shell:forgets 'forgets.txt'
  racing_stop TERM
}

# Ctrl-C: the action goes from both sides.
raced_cancel() {
  fresh_cluster cancel
  racing_start cancel "$cluster" --dynamic_local_execution_delay=0
  cancel
  racing_stop TERM
}

slow_done() { find "$workspace/out-bin/generated" -name 'slow*.txt' 2>/dev/null | wc -l; }

until_slow() { # COUNT CLIENT
  local deadline=$((SECONDS + 120))
  while [ "$(slow_done)" -lt "$1" ]; do
    [ "$SECONDS" -lt "$deadline" ] && kill -0 "$2" 2>/dev/null || return 0
    sleep 0.05
  done
}

# kill -9 of the cluster in the middle of a build, twice, and each time a new one on the same state and address.
dying() {
  fresh_cluster dying
  racing_start dying "$cluster"
  clean
  log=$scratch/dying.log
  # Not one action more than that at a time, so that some are under way at each death and most are still to come.
  # shellcheck disable=SC2046
  bazel 600 build $(remote_flags) --jobs=4 "${good[@]}" &
  local client=$! before after
  until_slow 6 "$client"
  before=$(slow_done)
  server_kill KILL
  until_slow 14 "$client"
  server_run
  until_slow 24 "$client"
  after=$(slow_done)
  server_kill KILL
  server_run
  wait "$client"
  step dying-build $? 'the build did not survive the deaths of the cluster'
  say "  $before and $after of 40 slow actions were done when the cluster was killed"
  [ "$before" -lt 40 ] && [ "$after" -lt 40 ]
  step dying-was-in-the-middle $? 'the build was over before the cluster died'
  raced_well dying
  say "  $(grep -c 'taken to be gone' "$racing_log") times the cluster was taken to be gone"
  racing_stop TERM
}

dead() {
  server_kill TERM
  racing_start dead "127.0.0.1:$(free_port)"
  raced dead
  [ "$(counted 'remote wins')" -eq 0 ] && [ "$(counted 'local wins')" -eq "$(counted races)" ]
  step dead-all-won-here $? "$(counted 'local wins') of $(counted races)"
  local noticed
  noticed=$(grep -c 'taken to be gone' "$racing_log")
  [ "$noticed" -ge 1 ] && [ "$noticed" -le 15 ]
  step dead-noticed-once-not-each-time $? "noticed $noticed times in $(counted races) races"
  say "  $noticed times the cluster was taken to be gone or found so again"
  racing_stop TERM
}

race_main() {
  [ "$server_kind" = fulgurite ] || { skip "race: only fulgurite races"; finish; return; }
  local cluster server started=$SECONDS
  ours=yes
  server_command 0 "$scratch"
  prepare
  good+=(//:links //generated:slow)
  clean
  log=$scratch/local.log
  bazel 600 build --spawn_strategy=local "${good[@]}"
  step local-build $? 'the reference itself does not build'
  manifest "$scratch/outputs.local"
  [ "$(wc -l <"$scratch/outputs.local")" -gt 70 ]
  step local-outputs-are-many $? "only $(wc -l <"$scratch/outputs.local") outputs"
  wanted cold && cold
  wanted warm && warm
  wanted failing && raced_failures
  wanted cancel && raced_cancel
  wanted dying && dying
  wanted dead && dead
  say "took $((SECONDS - started)) s"
  finish
}
race_main "$@"; exit
