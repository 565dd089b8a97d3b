#!/usr/bin/env bash
# Writes what is too much or too unique to be kept: package //generated of a workspace.
#
# usage: generate.sh WORKSPACE UNIQUE-SECONDS
set -euo pipefail
place=$1/generated unique=$2
mkdir -p "$place/many"
# A thousand small inputs in ten directories.
for directory in 0 1 2 3 4 5 6 7 8 9; do
  mkdir -p "$place/many/$directory"
  for ((i = 0; i < 100; i++)); do
    echo "input $directory $i" >"$place/many/$directory/$i.txt"
  done
done
{
  cat <<'BUILD'
package(default_visibility = ["//visibility:public"])

filegroup(
    name = "inputs",
    srcs = glob(["many/**"]),
)

genrule(
    name = "many",
    srcs = [":inputs"],
    outs = ["many.sha256"],
    cmd = "cat $(SRCS) | sha256sum > $@",
)
BUILD
  # Forty actions of about a third of a second: a build that is long enough to lose its server.
  for ((i = 0; i < 40; i++)); do
    printf '\ngenrule(\n    name = "slow%d",\n    outs = ["slow%d.txt"],\n' "$i" "$i"
    # The dollar sign is for Make and the shell of the action.
    # shellcheck disable=SC2016
    printf '    cmd = "echo slow %d > $@; sleep 0.3",\n    tags = ["manual"],\n)\n' "$i"
  done
  printf '\nfilegroup(\n    name = "slow",\n    srcs = [":slow%%d" %% i for i in range(40)],\n    tags = ["manual"],\n)\n'
  printf '\ngenrule(\n    name = "endless",\n    outs = ["endless.txt"],\n    tags = ["manual"],\n'
  # shellcheck disable=SC2016
  printf '    cmd = "sleep %s; echo > $@",\n)\n' "$unique"
} >"$place/BUILD"
