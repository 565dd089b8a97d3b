#!/bin/bash
# Run all tests of the workspace in guests: every kernel, as root and as an ordinary user. See README.md.
set -euo pipefail
shopt -s inherit_errexit
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
  cat <<'END'
usage: tests/vm/all.sh [OPTION...] [-- TEST-ARGUMENT...]

Builds the workspace's program and test binaries and runs them in a guest for each kernel and user. Fails if a test
fails, if a binary gives no result, or if the set of skipped tests is not the expected one. Of the root crate's large binaries
only what depends on the kernel most is run, see README.md.

  --kernel SERIES    only this kernel (6.12 or 6.1; may be repeated)
  --user USER        only this user (root or build; may be repeated)
  --binary LABEL     only this test binary, as its BEGIN line names it; skips are then not compared (may be repeated)
  --everything       the whole of the root crate's binaries as well
  --update-skips     write the skips that were seen to tests/vm/expected-skips, instead of comparing
  --timeout SECONDS  for a whole guest (5400); one test binary may take half of it
  --logs DIR         where the guests' output is kept (vm in cargo's target directory)
  --workspace DIR    another workspace (to try this script out)
  --expected DIR     another directory of expected skips
  -- ARGUMENT...     go to every test binary (a filter, --include-ignored); skips are then not compared, and no test
                     is left out but by these
END
}

note() { echo "vm: $*" >&2; }

fail() {
  echo "vm: error: $*" >&2
  exit 125
}

kernels=() users=() binaries=() arguments=()
update=0 everything=0 timeout=5400 workspace=$(realpath "$here/../..") expected=$here/expected-skips logs=''
# What is run of the root crate's large binaries: what depends on the kernel most, and what CI's machine cannot run.
declare -A essential=(
  [test-it]="hostile:: limits::"
  [test-serve]="starting:: planting:: poisoning:: outputs:: local::"
  [lib-fulgurite]="action:: commit:: exec:: output:: stage:: uring::"
)

while [[ $# -gt 0 ]]; do
  case $1 in
  --kernel | --user | --binary | --timeout | --workspace | --expected | --logs)
    [[ $# -ge 2 ]] || fail "$1 needs a value"
    case $1 in
    --kernel) kernels+=("$2") ;;
    --user) users+=("$2") ;;
    --binary) binaries+=("$2") ;;
    --timeout) timeout=$2 ;;
    --workspace) workspace=$(realpath "$2") ;;
    --expected) expected=$(realpath "$2") ;;
    --logs) logs=$2 ;;
    esac
    shift
    ;;
  --everything) everything=1 ;;
  --update-skips) update=1 ;;
  --help | -h)
    usage
    exit 0
    ;;
  --)
    shift
    arguments=("$@")
    break
    ;;
  *) fail "unknown argument $1; see all.sh --help" ;;
  esac
  shift
done
[[ ${#kernels[@]} -gt 0 ]] || kernels=(6.12 6.1)
[[ ${#users[@]} -gt 0 ]] || users=(root build)
whole=1
[[ ${#arguments[@]} == 0 && ${#binaries[@]} == 0 ]] || whole=0
[[ $update == 0 || $whole == 1 ]] || fail "--update-skips needs the whole set of tests: no --binary, no test arguments"
target=${CARGO_TARGET_DIR:-$workspace/target}
logs=${logs:-$target/vm}

# Whether a test binary is to be run. The shape of the sources is the same on every kernel.
is_wanted() {
  [[ $1 != test-tidy && ${#binaries[@]} == 0 || " ${binaries[*]} " == *" $1 "* ]]
}

# Print the name filters of a test binary; nothing if it is run whole.
filters_of() {
  if [[ $everything == 0 && ${#arguments[@]} == 0 ]]; then
    echo "${essential[$1]:-}"
  fi
}

# Build, and fill $work/stage with one link a binary and with tests.list. Sets links: where each program must also be,
# because tests have the path of the program compiled in.
build() {
  local line label directory executable kind name features=()
  note "building"
  # The programs that play an action are built once some crate declares the feature.
  if grep -qs '^test-fakes *=' "$workspace"/Cargo.toml "$workspace"/*/Cargo.toml; then
    features=(--features test-fakes)
  fi
  (cd "$workspace" && cargo build --release --quiet)
  (cd "$workspace" && cargo test --no-run "${features[@]}" --message-format=json --quiet) >"$work/cargo.json"
  mkdir "$work/stage"
  links=()
  while read -r line; do
    [[ $line == '{"reason":"compiler-artifact"'* && $line =~ \"executable\":\"([^\"]+)\" ]] || continue
    executable=${BASH_REMATCH[1]}
    [[ $line =~ \"manifest_path\":\"([^\"]+)/Cargo.toml\" ]] || fail "cargo names no manifest: $line"
    directory=${BASH_REMATCH[1]}
    [[ $line =~ \"target\":\{\"kind\":\[\"([^\"]+)\".*\"name\":\"([^\"]+)\",\"src_path\" ]] ||
      fail "cargo names no target: $line"
    kind=${BASH_REMATCH[1]} name=${BASH_REMATCH[2]}
    if [[ $line =~ \"profile\":\{[^}]*\"test\":true ]]; then
      label=$kind-$name
      [[ $directory == "$workspace" ]] || label=${directory##*/}-$label
      if is_wanted "$label"; then
        echo "$label $directory $(filters_of "$label")" >>"$work/stage/tests.list"
      fi
    elif [[ $kind == bin ]]; then
      # A test may start the program by the path of the debug build.
      label=debug-$name
      links+=(--link "$executable=$label")
    else
      continue
    fi
    ln -s "$executable" "$work/stage/$label"
  done <"$work/cargo.json"
  [[ -s $work/stage/tests.list ]] || fail "no test binary to run"
  for executable in "$target"/release/*; do
    if [[ -f $executable && -x $executable && $executable != *.so ]]; then
      ln -s "$executable" "$work/stage/${executable##*/}"
    fi
  done
}

# Run everything in one guest; its output goes to the terminal and to $logs/KERNEL-USER.log.
run_guest() {
  local kernel=$1 user=$2
  local script=$work/script
  {
    # One binary may take half of the time, so that one that hangs is named and the others still get their turn.
    printf 'TEST_TIMEOUT=%q\n' "$((timeout / 2))"
    # Without the condition, no argument would become an empty one: a filter that lets everything pass.
    [[ ${#arguments[@]} == 0 ]] || echo "set -- ${arguments[*]@Q}"
    cat "$here/guest/all-tests"
  } >"$script"
  "$here/run.sh" --kernel "$kernel" --user "$user" --timeout "$timeout" --tree "$workspace" "${links[@]}" \
    --script "$script" -- "$work"/stage/* | tee "$logs/$kernel-$user.log"
}

# Print `PASSED FAILED IGNORED` of a log. A binary without a result line counts as one failure, unless it ended well and
# said that it skips as a whole.
count_results() {
  awk '
    /=== BEGIN / { begun++; seen = 0; skipped = 0 }
    /^SKIP / { skipped = 1 }
    /^test result: / {
      seen = 1
      for (i = 1; i < NF; i++) {
        if ($(i + 1) == "passed;") passed += $i
        if ($(i + 1) == "failed;") { failed += $i; failed_here = $i }
        if ($(i + 1) == "ignored;") ignored += $i
      }
    }
    /=== END / { ended++; if ((!seen && !(skipped && $NF == 0)) || ($NF != 0 && !failed_here)) failed++; failed_here = 0 }
    END { print passed + 0, failed + begun - ended, ignored + 0 }
  ' "$1"
}

# Print the sorted names of the skipped tests of a log. Under --nocapture libtest puts `test NAME ... ` before the
# first line that a test prints, so that SKIP is not always at the start. A name ends at the first colon with a space
# after it, and may have spaces itself.
skipped_tests() {
  sed -nE 's/^(test .* \.\.\. )?SKIP (([^:]|:[^ ])+): .*/\2/p' "$1" | sort -u
}

# Print the names of the lists of expected skips for one guest; the second is about what only --everything runs.
expected_lists() {
  local kernel=$1 user=$2
  echo "$expected/$kernel-$user.txt"
  if [[ $everything == 1 ]]; then
    echo "$expected/everything-$user.txt"
  fi
}

# Compare skips with the expected ones; print the difference and return 1 if there is one.
compare_skips() {
  local log=$1 list lists=()
  shift
  for list in "$@"; do
    [[ ! -e $list ]] || lists+=("$list")
  done
  diff <(cat "${lists[@]:-/dev/null}" | grep -vE '^(#|$)' | sort -u) <(skipped_tests "$log") >"$work/difference" || {
    sed -nE 's/^< (.*)/  expected to be skipped, but was not: \1/p; s/^> (.*)/  skipped unexpectedly: \1/p' \
      "$work/difference"
    return 1
  }
}

# Write the skips that were seen: to the guest's list, or those that are not in it to the list of --everything.
update_skips() {
  local kernel=$1 user=$2 log=$3 list=$4 more=${5:-}
  if [[ -z $more ]]; then
    {
      echo "# Tests that skip as $user on Linux $kernel; written by tests/vm/all.sh --update-skips."
      skipped_tests "$log"
    } >"$list"
  else
    {
      echo "# Tests that skip as $user with --everything only; written by tests/vm/all.sh --update-skips --everything."
      comm -13 <(grep -vE '^(#|$)' "$list" | sort -u) <(skipped_tests "$log")
    } >"$more"
  fi
}

# Judge one guest: adds a line to the table, and to what is wrong.
judge() {
  local kernel=$1 user=$2 code=$3
  local log=$logs/$kernel-$user.log passed failed ignored skips verdict=ok difference
  local lists=()
  mapfile -t lists < <(expected_lists "$kernel" "$user")
  read -r passed failed ignored < <(count_results "$log")
  skips=$(skipped_tests "$log" | wc -l)
  if [[ $code -ne 0 || $failed -ne 0 ]]; then
    verdict=FAILED
  fi
  if [[ $update == 1 && $verdict == ok ]]; then
    update_skips "$kernel" "$user" "$log" "${lists[@]}"
  elif [[ $update == 0 && $whole == 1 ]] && ! difference=$(compare_skips "$log" "${lists[@]}"); then
    problems+="$kernel $user: skips differ from ${lists[*]##*/}:"$'\n'"$difference"$'\n'
    verdict="${verdict/ok/FAILED} (skips)"
  fi
  [[ $verdict == ok ]] || result=1
  table+=$(printf '%-7s %-6s %7s %7s %8s %8s  %s' "$kernel" "$user" "$passed" "$failed" "$skips" "$ignored" "$verdict")
  table+=$'\n'
  {
    printf '\n=== HOSTILE CASES\n'
    "$here/hostile-cases.sh" "$log"
  } >"$work/hostile"
  tee -a "$log" <"$work/hostile"
}

work=$(mktemp -d "${TMPDIR:-/tmp}/fulgurite-vm-all.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
mkdir -p "$logs"
build
result=0 problems=''
table=$(printf '%-7s %-6s %7s %7s %8s %8s  %s' kernel user passed failed skipped ignored result)$'\n'
for kernel in "${kernels[@]}"; do
  for user in "${users[@]}"; do
    note "---- $user on $kernel"
    code=0
    run_guest "$kernel" "$user" || code=$?
    judge "$kernel" "$user" "$code"
  done
done
printf '\n%s%s' "$table" "${problems:+$'\n'$problems}"
note "logs are in $logs"
exit "$result"
