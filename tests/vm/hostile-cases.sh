#!/bin/bash
# Say which cases of the hostile battery ran in guests, and which did not and why, from the logs that all.sh keeps.
set -euo pipefail

usage() {
  cat <<'END'
usage: tests/vm/hostile-cases.sh LOG           one line for each test of the battery, with the names of its cases
       tests/vm/hostile-cases.sh --table LOG...  a table in Markdown; LOG is named KERNEL-USER.log
END
}

# Print `TEST<tab>RESULT<tab>HELD<tab>ENDED<tab>SKIPPED<tab>WHY` of each hostile test: its result, and the cases whose
# attack failed, that their limit ended, and that did not run.
read_log() {
  awk '
    function flush() {
      if (test != "") printf "%s\t%s\t%s\t%s\t%s\t%s\n", test, result, held, ended, skipped, why
      test = ""
    }
    /^test / {
      flush()
      if ($2 !~ /^hostile::hostile_/) next
      test = substr($2, 10); result = "no result"; held = ended = skipped = why = ""
      sub(/^test [^ ]+ \.\.\. /, "")
    }
    /^=== / { flush() }
    test == "" { next }
    /^(ok|FAILED)$/ { result = $0 }
    /^[A-Z][0-9][0-9][^ ]* held / { held = held (held == "" ? "" : " ") $1 }
    /^[A-Z][0-9][0-9][^ ]*: exit 137 / { sub(/:$/, "", $1); ended = ended (ended == "" ? "" : " ") $1 }
    /^SKIP hostile::/ {
      case_name = substr($2, length("hostile::" test) + 1)
      gsub(/^::|:$/, "", case_name)
      skipped = skipped (skipped == "" ? "" : " ") (case_name == "" ? "all" : case_name)
      sub(/^SKIP [^ ]+ /, "")
      why = $0
    }
    END { flush() }
  ' "$1" | sort
}

print_log() {
  read_log "$1" | awk -F '\t' '{
    line = sprintf("%-36s %s", $1, $2)
    if ($3 != "") line = line "; held: " $3
    if ($4 != "") line = line "; ended by the limit: " $4
    if ($5 != "") line = line "; skipped: " $5 " (" $6 ")"
    print line
  }'
}

print_table() {
  local log name
  for log in "$@"; do
    name=${log##*/}
    read_log "$log" | sed "s/^/${name%.log}\t/"
  done | awk -F '\t' '
    function count(words, parts) { return split(words, parts, " ") }
    {
      as = $2; sub(/.*_as_/, "", as)
      # An ordinary user cannot play root.
      if ($1 ~ /-build$/ && as == "root") next
      group = $2; sub(/^hostile_/, "", group); sub(/_as_[a-z]+$/, "", group); gsub(/_/, " ", group)
      guest = $1; sub(/-build$/, ", user build", guest); sub(/-root$/, ", root as " as, guest)
      if (!(guest in is_column)) { is_column[guest] = 1; columns[++width] = guest }
      if (!(group in is_row)) { is_row[group] = 1; rows[++height] = group }
      text = ""
      if ($4 != "") text = text ", " count($4, parts) " held"
      if ($5 != "") text = text ", " count($5, parts) " ended"
      if ($6 != "") {
        if (!($7 in note)) { note[$7] = ++notes; whys[notes] = $7 }
        text = text ", " ($6 == "all" ? "" : count($6, parts) " ") "skipped (" note[$7] ")"
      }
      if ($3 != "ok") text = ", " $3 text
      cell[group, guest] = text == "" ? "ran" : substr(text, 3)
    }
    END {
      line = "| cases |"; rule = "|---|"
      for (c = 1; c <= width; c++) { line = line " " columns[c] " |"; rule = rule "---|" }
      print line "\n" rule
      for (r = 1; r <= height; r++) {
        line = "| " rows[r] " |"
        for (c = 1; c <= width; c++) line = line " " cell[rows[r], columns[c]] " |"
        print line
      }
      if (notes) print ""
      for (n = 1; n <= notes; n++) print "- (" n ") " whys[n]
    }
  '
}

case ${1:-} in
--table)
  shift
  print_table "$@"
  ;;
-h | --help | '') usage ;;
*) print_log "$1" ;;
esac
