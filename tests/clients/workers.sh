#!/usr/bin/env bash
# Real Bazel asks for persistent workers: by exec_properties, of the server as its remote executor.
#
# usage: tests/clients/workers.sh ADDRESS|--start [fulgurite]
#
# A rule compiles Java files by tests/fakes/java_worker, one action a file; another has the package @bazel/worker make
# upper case. Everything is compared with Bazel's own local build. Who made a result is read from the server's
# ExecutionDetails in Bazel's log of its calls; how many workers were started, from the server's log.
#
#   BAZEL=PATH   another Bazel than the one on PATH
#   FILES=N      Java files (24)
#   ONLY="NAME..."   only these groups of steps: proto json multiplex failing protocol kill tools node
#   KEEP=1       keeps the scratch directory and says where it is
set -uo pipefail
# shellcheck source=tests/clients/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

bazel_program=${BAZEL:-bazel}
need "$bazel_program" java javac jar "$venv/bin/python"
files=${FILES:-24}
scratch=$(mktemp -d "${TMPDIR:-/tmp}/fulgurite-workers.XXXXXX")
workspace=$scratch/workspace
# What is compiled here is compiled nowhere else: no result is of an earlier run.
unique=$$_$RANDOM

bazel() { # SECONDS VERB ARGUMENT...: output goes to $log
  local bound=$1 verb=$2
  shift 2
  (
    cd "$workspace" && exec timeout -k 20 "$bound" "$bazel_program" --nohome_rc --noworkspace_rc \
      "--bazelrc=$workspace/bazelrc" "--output_user_root=$scratch/root" --host_jvm_args=-Xmx1g --max_idle_secs=300 \
      "$verb" "$@"
  ) >"$log" 2>&1
}

# shellcheck disable=SC2317 # called by the trap
cleanup() {
  log=$scratch/shutdown.log
  bazel 60 shutdown
  server_kill TERM
  if [ -n "${KEEP:-}" ]; then
    say "kept $scratch"
  else
    leftovers "$scratch"
  fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM

only=${ONLY:-proto json multiplex failing protocol kill tools node}
wanted() { case " $only " in *" $1 "*) ;; *) return 1 ;; esac; }
# The code comes before the reason, because a `$(...)` in the reason would change `$?`.
step() { # NAME CODE WHY-NOT
  if [ "$2" -eq 0 ]; then
    ok "$1"
  else
    failed "$1: $3"
    shown 25 <"$log"
  fi
}

# --- the workspace ---------------------------------------------------------------------------------------------------

rules() {
  cat <<'STARLARK'
"""One input, one output, one action, which the properties of its target send to a worker."""

def _unit(ctx):
    out = ctx.actions.declare_file(ctx.label.name + ctx.attr.ending)
    lines = [line.replace("{src}", ctx.file.src.path).replace("{out}", out.path) for line in ctx.attr.lines]
    arguments = ctx.actions.declare_file(ctx.label.name + ".args")
    ctx.actions.write(arguments, "\n".join(lines) + "\n")
    ctx.actions.run(
        outputs = [out],
        inputs = depset([ctx.file.src, ctx.file.tool, arguments], transitive = [depset(ctx.files.libraries)]),
        executable = ctx.file.launcher,
        arguments = [ctx.file.tool.path] + ctx.attr.startup + ["@" + arguments.path],
        mnemonic = "Unit",
    )
    return [DefaultInfo(files = depset([out]))]

unit = rule(
    implementation = _unit,
    attrs = {
        "src": attr.label(allow_single_file = True),
        "tool": attr.label(allow_single_file = True),
        "libraries": attr.label_list(allow_files = True),
        "launcher": attr.label(allow_single_file = True),
        "startup": attr.string_list(),
        "lines": attr.string_list(),
        "ending": attr.string(),
    },
)

def java(name, src, startup = [], lines = [], properties = {}):
    unit(
        name = name,
        src = src,
        tool = "java_worker.jar",
        launcher = "tools/java.sh",
        startup = startup,
        lines = ["{src}", "--jar", "{out}"] + lines,
        ending = ".jar",
        exec_properties = properties,
    )

def javas(name, count, **others):
    for number in range(count):
        java(name = "%s%d" % (name, number), src = "src/Unit%d.java" % number, **others)
    native.filegroup(name = name, srcs = [":%s%d" % (name, number) for number in range(count)])
STARLARK
}

# The targets of each group: the same files, and other properties.
targets() {
  cat <<BUILD
load("//:unit.bzl", "java", "javas", "unit")
javas("proto", $files, properties = {"persistentWorkerKey": "proto-$unique"})
javas("json", $files, startup = ["--protocol=json"],
      properties = {"persistentWorkerKey": "json-$unique", "persistentWorkerProtocol": "json"})
javas("multiplex", $files, properties = {
    "supports-multiplex-workers": "1", "supports-multiplex-sandboxing": "1", "supports-worker-cancellation": "1"})
# Long enough for a worker to be killed in the middle.
javas("slow", $files, lines = ["--pause_ms=300"], properties = {"persistentWorkerKey": "slow-$unique"})
javas("weak", 4, properties = {"supports-workers": "1"})
javas("smoke", 2, properties = {"persistentWorkerKey": "smoke", "persistentWorkerProtocol": "smoke"})
java("broken", src = "src/Broken.java", properties = {"persistentWorkerKey": "proto-$unique"})
BUILD
  [ -e "$workspace/node/worker.js" ] || return 0
  cat <<BUILD
[unit(name = "node%d" % number, src = "src/Unit%d.java" % number, tool = "node/worker.js", launcher = "tools/node.sh",
      libraries = glob(["node/node_modules/**"]), lines = ["--output={out}", "{src}"], ending = ".txt",
      exec_properties = {"persistentWorkerKey": "node-$unique"}) for number in range($files)]
filegroup(name = "node", srcs = [":node%d" % number for number in range($files)])
BUILD
}

# Other contents for every file, so that every action has to run.
sources() { # GENERATION
  local number
  for ((number = 0; number < files; number++)); do
    cat >"$workspace/src/Unit$number.java" <<JAVA
// $unique, generation $1.
import java.util.*;
import java.util.stream.*;

public final class Unit$number {
  record Entry(String name, int weight) {}

  private final Map<String, List<Entry>> entries = new TreeMap<>();

  public Unit$number add(String name, int weight) {
    entries.computeIfAbsent(name, ignored -> new ArrayList<>()).add(new Entry(name, weight + $number));
    return this;
  }

  public String shown() {
    return "$unique $1 " + entries.values().stream().flatMap(List::stream).filter(entry -> entry.weight() > $number)
        .map(Entry::toString).collect(Collectors.joining(", "));
  }
}
JAVA
  done
  printf 'class Broken { int value = "no number of %s %s"; }\n' "$unique" "$1" >"$workspace/src/Broken.java"
}

node_tool() {
  local worker
  command -v node >/dev/null && worker=$("$repository/scripts/node-worker" 2>"$scratch/node-worker.log") || return 1
  mkdir -p "$workspace/node"
  cp -r "$(dirname "$worker")/worker.js" "$(dirname "$worker")/node_modules" "$workspace/node"
  # Packages of Bazel's in the middle of ours would hide their files from the glob.
  find "$workspace/node" \( -name BUILD -o -name BUILD.bazel \) -delete
}

prepare() {
  local overridden archive
  mkdir -p "$workspace/src" "$workspace/tools"
  archive=$("$repository/scripts/java-worker") || exit 1
  cp "$archive" "$workspace/java_worker.jar"
  chmod u+w "$workspace/java_worker.jar"
  echo 'workspace(name = "workers")' >"$workspace/WORKSPACE"
  {
    echo 'build --incompatible_strict_action_env --color=no --curses=no --symlink_prefix=out- --jobs=4 --keep_going'
    echo 'build --javabase=@local_jdk//:jdk --host_javabase=@local_jdk//:jdk'
    for overridden in rules_cc rules_java rules_proto remote_coverage_tools; do
      echo "build --override_repository=$overridden=$clients/bazel/overrides/$overridden"
    done
  } >"$workspace/bazelrc"
  # The archive is an argument of the start: it is a part of the key even where nobody declares one.
  printf '#!/bin/sh\nexec %s -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto -jar "$@"\n' \
    "$(command -v java)" >"$workspace/tools/java.sh"
  printf '#!/bin/sh\nexec %s "$@"\n' "$(command -v node)" >"$workspace/tools/node.sh"
  chmod +x "$workspace/tools/java.sh" "$workspace/tools/node.sh"
  if wanted node && ! node_tool; then skip "node: neither node nor its package is here: run scripts/setup test"; fi
  rules >"$workspace/unit.bzl"
  targets >"$workspace/BUILD"
  sources 0
}

# --- observing -------------------------------------------------------------------------------------------------------

manifest() { # GROUP [COUNT]: the digests of its outputs, by number
  local number ending=jar
  [ "$1" != node ] || ending=txt
  for ((number = 0; number < ${2:-$files}; number++)); do
    echo "$number $(sha256sum "$workspace/out-bin/$1$number.$ending" 2>&1 | cut -d ' ' -f 1)"
  done
}

remote() { # GROUP TARGET: a build by the server, with nothing from its cache
  log=$scratch/$1.log
  rm -f "$scratch/$1.grpc"
  bazel 400 build "--remote_executor=grpc://$address" --spawn_strategy=remote --remote_timeout=60 \
    --noremote_accept_cached "--experimental_remote_grpc_log=$scratch/$1.grpc" "${@:2}"
}

# Of the last build of the group, by Python over `d`.
told() { # GROUP EXPRESSION
  "$venv/bin/python" "$clients/bazel/details.py" "$scratch/$1.grpc" >"$scratch/$1.json"
  "$venv/bin/python" -c 'import json, sys; d = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' \
    "$scratch/$1.json" "$2"
}

# Workers that were ever started. Its log is read only where the server is ours.
started() { [ "$ours" = no ] || grep -c 'a worker has started' "$server_log"; }

# The JVMs that serve below the server, but not the shells and inits between.
jvms() {
  local entry pid parent
  for entry in /proc/[0-9]*; do
    pid=${entry#/proc/}
    case "$({ tr '\0' ' ' <"$entry/cmdline"; } 2>/dev/null)" in
      *java*" -jar "*java_worker.jar*--persistent_worker*) ;;
      *) continue ;;
    esac
    parent=$pid
    while [ "${parent:-1}" -gt 1 ] && [ "$parent" != "$server_pid" ]; do
      parent=$(sed -n 's/^PPid:\t//p' "/proc/$parent/status" 2>/dev/null)
    done
    [ "${parent:-1}" -le 1 ] || echo "$pid"
  done
}

# --- steps -----------------------------------------------------------------------------------------------------------

# What Bazel makes of the same by itself, without any worker.
local_build() {
  log=$scratch/local.log
  bazel 400 build --spawn_strategy=local //:proto
  local code=$?
  step local-build "$code" 'the reference itself does not build'
  [ "$code" -eq 0 ] || finish
  manifest proto >"$scratch/outputs.local"
}

same() { # GROUP REFERENCE
  manifest "$1" >"$scratch/outputs.$1"
  diff "$scratch/outputs.$2" "$scratch/outputs.$1" >"$scratch/difference"
  local code=$?
  [ "$code" -eq 0 ] || cp "$scratch/difference" "$log"
  step "$1-outputs-equal-local" "$code" 'digests differ (< local, > this build)'
}

# A group of targets goes to workers as a whole: few of them.
by_workers() { # GROUP REFERENCE
  local before=0 after=0 made
  # What was built locally is to be built again.
  log=$scratch/clean.log && bazel 60 clean
  before=$(started)
  remote "$1" "//:$1"
  step "$1-build" $? 'the build failed'
  after=$(started)
  same "$1" "$2"
  made=$(told "$1" 'd["by_workers"]')
  [ "$made" = "$files" ]
  step "$1-results-are-of-workers" $? "$made of $files; $(cat "$scratch/$1.json")"
  # At most as many as actions at a time.
  [ "$(told "$1" 'len(d["workers"])')" -le 4 ]
  step "$1-few-workers" $? "$(cat "$scratch/$1.json")"
  if [ "$ours" = yes ]; then
    [ $((after - before)) -ge 1 ] && [ $((after - before)) -le 4 ]
    step "$1-few-processes-started" $? "$((after - before)) processes for $files actions"
  fi
  say "  $files actions by $((after - before)) new processes; requests of each: $(told "$1" 'd["workers"]')"
}

failing() {
  local before made
  remote broken //:broken
  [ $? -eq 1 ]
  step compile-error-fails-the-build $? 'another exit code than 1'
  grep -q 'incompatible types: String cannot be converted to int' "$log"
  step compile-error-says-why $? 'the message of the compiler is lost'
  grep -q 'Exit 1' "$log" && ! grep -qi 'crash\|WorkResponse' "$log"
  step compile-error-is-ordinary $? 'it is not exit code 1'
  made=$(told broken 'd["by_workers"]')
  [ "$made" -eq 1 ]
  step compile-error-is-of-a-worker $? "$(cat "$scratch/broken.json")"
  # Somebody's worker may be there already; the failure must not have ended it.
  before=$(started)
  printf '\n' >>"$workspace/src/Broken.java"
  remote broken //:broken
  if [ "$ours" = yes ]; then
    [ "$(started)" -eq "$before" ]
    step compile-error-keeps-the-worker $? "$(($(started) - before)) new processes"
  fi
}

# A protocol that nobody knows: the action runs by itself, and says why.
protocol() {
  remote smoke //:smoke
  step unknown-protocol-builds $? 'the build failed'
  diff <(head -n 2 "$scratch/outputs.local") <(manifest smoke 2) >"$scratch/difference"
  step unknown-protocol-outputs-equal-local $? 'digests differ'
  [ "$(told smoke '(d["by_workers"], ["smoke" in why for why in d["one_shot"]]) == (0, [True, True])')" = True ]
  step unknown-protocol-runs-one-shot $? "$(cat "$scratch/smoke.json")"
}

# Waits until so many of the slow outputs are there.
until_slow() { # COUNT CLIENT
  local deadline=$((SECONDS + 120))
  while [ "$(find "$workspace/out-bin/" -name 'slow*.jar' 2>/dev/null | wc -l)" -lt "$1" ]; do
    [ "$SECONDS" -lt "$deadline" ] && kill -0 "$2" 2>/dev/null || return 1
    sleep 0.05
  done
}

# kill -9 of two JVMs, one after the other, in the middle of requests.
killing() {
  if [ "$ours" = no ]; then
    skip 'killed-worker: the server is not ours'
    return
  fi
  local build before killed=0 victims
  before=$(started)
  jvms | sort >"$scratch/others"
  remote slow //:slow &
  build=$!
  log=$scratch/slow.log
  until_slow 4 "$build"
  # The second is none that has come in place of the first: a request whose second worker dies as well has no third.
  mapfile -t victims < <(jvms | sort | comm -13 "$scratch/others" - | head -n 2)
  [ "${#victims[@]}" -eq 0 ] || { kill -KILL "${victims[0]}" && killed=1; }
  until_slow 10 "$build"
  [ "${#victims[@]}" -lt 2 ] || { kill -KILL "${victims[1]}" && killed=$((killed + 1)); }
  wait "$build"
  step killed-workers-build $? 'the build did not survive its workers'
  [ "$killed" -eq 2 ]
  step killed-workers-were-there $? "$killed were killed"
  [ $(($(started) - before)) -gt 2 ]
  step killed-workers-are-replaced $? "$(($(started) - before)) were started, $killed killed"
  same slow local
  say "  $killed JVMs killed, $(($(started) - before)) started; requests of each: $(told slow 'd["workers"]')"
}

# Another archive is another worker, though nobody declares a key.
tools() {
  local before after line
  remote weak //:weak
  step tool-build $? 'the build failed'
  before=$(started)
  sources 1
  remote weak //:weak
  step tool-same-build $? 'the build failed'
  after=$(started)
  if [ "$ours" = yes ]; then
    [ "$after" -eq "$before" ]
    step tool-same-keeps-workers $? "$((after - before)) were started"
  fi
  echo "$unique" >"$scratch/note.txt"
  (cd "$scratch" && jar --update --file "$workspace/java_worker.jar" note.txt)
  sources 2
  remote weak //:weak
  step tool-changed-build $? 'the build failed'
  [ "$(told weak 'd["by_workers"]')" = 4 ]
  step tool-changed-results-are-of-workers $? "$(cat "$scratch/weak.json")"
  [ "$ours" = yes ] || return 0
  [ "$(started)" -gt "$after" ]
  step tool-changed-restarts-workers $? 'none was started'
  line=$(grep 'its files have changed on disk' -A 3 "$server_log" | grep -m 1 'java_worker.jar: .* -> ')
  [ -n "$line" ]
  step tool-changed-says-which $? 'the log names no file'
}

# The worker of somebody else.
node() {
  [ -e "$workspace/node/worker.js" ] || return 0
  log=$scratch/node-local.log
  bazel 400 build --spawn_strategy=local //:node
  step node-local-build $? 'the reference itself does not build'
  manifest node >"$scratch/outputs.nodelocal"
  by_workers node nodelocal
}

# A function, so that the whole script is read before any of it runs.
main() {
  prepare
  serve_or_use "$@" || exit 1
  local began=$SECONDS
  local_build
  if wanted proto; then by_workers proto local; fi
  if wanted json; then by_workers json local; fi
  if wanted multiplex; then by_workers multiplex local; fi
  if wanted failing; then failing; fi
  if wanted protocol; then protocol; fi
  if wanted kill; then killing; fi
  if wanted node; then node; fi
  # The last: it changes the sources.
  if wanted tools; then tools; fi
  say "took $((SECONDS - began)) s"
  finish
}
main "$@"; exit
