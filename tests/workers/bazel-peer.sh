#!/usr/bin/env bash
# Measures what real Bazel needs for small Java compiles: one-shot in its sandbox, and by its own local worker strategy.
#
# usage: tests/workers/bazel-peer.sh WORKER.JAR SOURCES
#
# WORKER.JAR is what scripts/java-worker prints; SOURCES is a directory of Java files that need nothing of each other, as
# fulgurite-java-units writes them. Each file is an action: our Java worker in its own archive, with the same flags and
# arguments in every mode. On stdout: one object of JSON; milliseconds a compile, medians over the rounds:
#
#   oneshot_ms_per_compile    --strategy=JavaUnit=sandboxed, a JVM an action
#   worker_cold_ms            a sandboxed worker, all files, the JVM's start and warming included
#   worker_warm_ms            the same worker, all files again with other contents
#   worker_unsandboxed_warm_ms   without --worker_sandboxing
#   files, oneshot_files, rounds, jobs, bazel, java_flags
#
#   BAZEL=PATH          another Bazel than the one on PATH
#   JAVA_FLAGS=FLAGS    of the JVM, in every mode (-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto)
#   JOBS=N              actions at a time, and workers (1)
#   ROUNDS=N            (3)
#   ONESHOT_FILES=N     how many of the files are compiled one-shot in a round (40)
#   KEEP=1              keeps the scratch directory and says where it is
#
# A build's time is its wall time less that of a build of the same with nothing to do. Every round gives all files other
# contents, so that nothing is cached. Exit code 2, with a line SKIP on stderr, where Bazel or Java is missing.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
overrides=$here/../clients/bazel/overrides
bazel_program=${BAZEL:-bazel}
for tool in "$bazel_program" java; do
  command -v "$tool" >/dev/null || { echo "SKIP bazel-peer: $tool is not installed: run scripts/setup bench" >&2; exit 2; }
done
[ $# -eq 2 ] || { echo "usage: bazel-peer.sh WORKER.JAR SOURCES" >&2; exit 3; }
jar=$(realpath "$1")
sources=$(realpath "$2")
jobs=${JOBS:-1} rounds=${ROUNDS:-3} oneshot_files=${ONESHOT_FILES:-40}
java_flags=${JAVA_FLAGS:--XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto}

scratch=$(mktemp -d "${TMPDIR:-/tmp}/fulgurite-bazel-peer.XXXXXX")
workspace=$scratch/workspace log=$scratch/log

bazel() { # VERB ARGUMENT...: output goes to $log
  local verb=$1
  shift
  (
    cd "$workspace" && exec timeout -k 20 1200 "$bazel_program" --nohome_rc --noworkspace_rc \
      "--bazelrc=$workspace/bazelrc" "--output_user_root=$scratch/root" --host_jvm_args=-Xmx1g --max_idle_secs=300 \
      "$verb" "$@"
  ) >"$log" 2>&1
}

# shellcheck disable=SC2317 # called by the trap
cleanup() {
  bazel shutdown || true
  if [ -n "${KEEP:-}" ]; then
    echo "kept $scratch" >&2
  else
    chmod -R u+w "$scratch" && rm -rf "$scratch"
  fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM

fail() {
  echo "bazel-peer: $*" >&2
  tail -n 25 "$log" | sed 's/^/  | /' >&2
  exit 1
}

# --- the workspace -----------------------------------------------------------------------------------------------------

prepare() {
  mkdir -p "$workspace/src"
  cp -r "$sources"/. "$workspace/src"
  cp "$jar" "$workspace/java_worker.jar"
  mapfile -t files < <(cd "$workspace/src" && find . -name '*.java' | sed 's|^\./||' | LC_ALL=C sort)
  [ "${#files[@]}" -gt 0 ] || { echo "bazel-peer: no Java file in $sources" >&2; exit 3; }
  [ "$oneshot_files" -le "${#files[@]}" ] || oneshot_files=${#files[@]}
  echo 'workspace(name = "peer")' >"$workspace/WORKSPACE"
  # The Bazel of a distribution brings no rules, and none of them is needed.
  local overridden verb
  {
    echo "build --incompatible_strict_action_env --color=no --curses=no --symlink_prefix=out-"
    echo "build --javabase=@local_jdk//:jdk --host_javabase=@local_jdk//:jdk"
    for overridden in rules_cc rules_java rules_proto remote_coverage_tools; do
      echo "build --override_repository=$overridden=$(realpath "$overrides/$overridden")"
    done
  } >"$workspace/bazelrc"
  cat >"$workspace/worker.sh" <<SCRIPT
#!/bin/sh
exec $(command -v java) $java_flags -jar "\$0.runfiles/peer/java_worker.jar" "\$@"
SCRIPT
  chmod +x "$workspace/worker.sh"
  cat >"$workspace/unit.bzl" <<'STARLARK'
"""One Java file, one archive, one action, which may go to a worker."""

def _java_unit(ctx):
    archive = ctx.actions.declare_file(ctx.label.name + ".jar")
    arguments = ctx.actions.declare_file(ctx.label.name + ".args")
    ctx.actions.write(arguments, "\n".join([ctx.file.src.path, "--jar", archive.path]) + "\n")
    ctx.actions.run(
        outputs = [archive],
        inputs = [ctx.file.src, arguments],
        executable = ctx.executable.worker,
        arguments = ["@" + arguments.path],
        mnemonic = "JavaUnit",
        execution_requirements = {"supports-workers": "1"},
    )
    return [DefaultInfo(files = depset([archive]))]

java_unit = rule(
    implementation = _java_unit,
    attrs = {
        "src": attr.label(allow_single_file = [".java"]),
        "worker": attr.label(default = "//:worker", executable = True, cfg = "host"),
    },
)
STARLARK
  {
    echo 'load("//:unit.bzl", "java_unit")'
    echo 'sh_binary(name = "worker", srcs = ["worker.sh"], data = ["java_worker.jar"])'
    local number=0 file
    for file in "${files[@]}"; do
      echo "java_unit(name = \"unit$number\", src = \"src/$file\")"
      number=$((number + 1))
    done
    targets all "${#files[@]}"
    targets some "$oneshot_files"
  } >"$workspace/BUILD"
}

targets() { # NAME COUNT
  echo "filegroup(name = \"$1\", srcs = [\":unit%d\" % number for number in range($2)])"
}

# --- measuring ---------------------------------------------------------------------------------------------------------

generation=0
# Other contents for every file, so that every action has to run.
change() {
  generation=$((generation + 1))
  local file
  for file in "${files[@]}"; do
    cp "$sources/$file" "$workspace/src/$file"
    printf '// Generation %d.\n' "$generation" >>"$workspace/src/$file"
  done
}

oneshot=(--strategy=JavaUnit=sandboxed)
worker=(--strategy=JavaUnit=worker "--worker_max_instances=JavaUnit=$jobs" --worker_sandboxing)
bare_worker=(--strategy=JavaUnit=worker "--worker_max_instances=JavaUnit=$jobs" --noworker_sandboxing)

micros() { local now=${EPOCHREALTIME/[.,]/}; echo "$now"; }

# timed KIND TARGET COUNT FLAG...: sets $millis, a compile; KIND is what Bazel has to say of its COUNT processes.
timed() {
  local kind=$1 target=$2 count=$3 start middle end
  shift 3
  change
  start=$(micros)
  bazel build "--jobs=$jobs" "$@" "$target" || fail "a build does not succeed"
  middle=$(micros)
  grep -Eq "^INFO: [0-9]+ process(es)?: .*\b$count $kind\b" "$log" || fail "not $count processes were '$kind'"
  bazel build "--jobs=$jobs" "$@" "$target" || fail "a build with nothing to do does not succeed"
  end=$(micros)
  millis=$(awk -v all=$((middle - start)) -v nothing=$((end - middle)) -v count="$count" \
    'BEGIN { printf "%.2f", (all - nothing) / count / 1000 }')
}

# After this, no worker is alive.
quit() { bazel build "--jobs=$jobs" "${worker[@]}" --worker_quit_after_build //:worker || fail "workers do not quit"; }

median() { printf '%s\n' "$@" | sort -n | awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'; }

measure() {
  local round all=${#files[@]}
  local shots=() colds=() warms=() bares=()
  # What Bazel itself has to load and to compile first is nobody's time.
  bazel build "--jobs=$jobs" "${oneshot[@]}" //:unit0 || fail "the first build does not succeed"
  for ((round = 0; round < rounds; round++)); do
    quit
    timed linux-sandbox //:some "$oneshot_files" "${oneshot[@]}"
    shots+=("$millis")
    timed worker //:all "$all" "${worker[@]}"
    colds+=("$millis")
    timed worker //:all "$all" "${worker[@]}"
    warms+=("$millis")
    timed worker //:all "$all" "${bare_worker[@]}"
    timed worker //:all "$all" "${bare_worker[@]}"
    bares+=("$millis")
    echo "round $round: one-shot ${shots[round]}, cold ${colds[round]}, warm ${warms[round]}, unsandboxed ${bares[round]} ms" >&2
  done
  printf '{"oneshot_ms_per_compile": %s, "worker_cold_ms": %s, "worker_warm_ms": %s, "worker_unsandboxed_warm_ms": %s, ' \
    "$(median "${shots[@]}")" "$(median "${colds[@]}")" "$(median "${warms[@]}")" "$(median "${bares[@]}")"
  printf '"files": %d, "oneshot_files": %d, "rounds": %d, "jobs": %d, "bazel": "%s", "java_flags": "%s"}\n' \
    "$all" "$oneshot_files" "$rounds" "$jobs" "$version" "$java_flags"
}

main() {
  prepare
  bazel info server_pid || fail "bazel does not start"
  # The Bazel of a distribution may not know its own version; its package does.
  version=$(command "$bazel_program" --version 2>/dev/null | cut -d ' ' -f 2)
  [ "$version" != no_version ] || version=$(dpkg-query -W -f '${Version}' bazel-bootstrap 2>/dev/null || echo unknown)
  measure
}
main; exit
