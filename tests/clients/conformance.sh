#!/usr/bin/env bash
# Checks a server's answers against the rules of REAPI v2, one by one, without a build tool in between.
#
# usage: tests/clients/conformance.sh ADDRESS|--start [fulgurite|casd] [suite.py OPTION...]
#
# What a server is known to fail stands in conformance/KIND.expected: `name: why`. With an ADDRESS pass --expected FILE.
set -uo pipefail
# shellcheck source=tests/clients/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need "$venv/bin/python"
scratch=$(mktemp -d "${TMPDIR:-/tmp}/fulgurite-conformance.XXXXXX")
cleanup() {
  server_kill TERM
  [ -z "${KEEP:-}" ] || cp "$server_log" "$KEEP"
  leftovers "$scratch"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
main() {
  serve_or_use "$@" || exit 1
  shift
  local expected=()
  if [ "$ours" = yes ]; then
    case "${1:-}" in '' | -*) ;; *) shift ;; esac
    [ ! -e "$clients/conformance/$server_kind.expected" ] || expected=(--expected "$clients/conformance/$server_kind.expected")
  fi
  timeout -k 10 900 "$venv/bin/python" "$clients/conformance/suite.py" "$address" "${expected[@]}" "$@"
}
main "$@"; exit
