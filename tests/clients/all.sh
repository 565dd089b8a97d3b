#!/usr/bin/env bash
# All that real clients have to say about a server: one after the other, each with a server of its own.
#
# usage: tests/clients/all.sh [fulgurite|casd]
#
# With casd, which is somebody else's server, it is the checks that are checked.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kind=${1:-fulgurite}
bazel_kind=$kind
# Bazel 4 speaks REAPI 2.0 only, and casd does not.
[ "$kind" != casd ] || bazel_kind=oldcasd
failed=()
run() {
  local name=$1 started=$SECONDS
  shift
  printf '\n==> %s\n' "$name"
  "$@" || failed+=("$name")
  printf '==> %s took %d s\n' "$name" "$((SECONDS - started))"
}
run conformance "$here/conformance.sh" --start "$kind"
run bazel "$here/bazel.sh" --start "$bazel_kind"
run second "$here/second.sh" --start "$kind"
[ "$kind" != fulgurite ] || run race "$here/race.sh" --start
# Nobody else's server here keeps workers.
[ "$kind" != fulgurite ] || run workers "$here/workers.sh" --start "$kind"
if [ "${#failed[@]}" -gt 0 ]; then
  printf '\nFAILED: %s\n' "${failed[*]}"
  exit 1
fi
printf '\nall clients are content\n'
