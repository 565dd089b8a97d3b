#!/bin/bash
# Run executables in a qemu guest on a Debian kernel with native cgroup v2. See README.md.
set -Eeuo pipefail
shopt -s inherit_errexit
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
  cat <<'END'
usage: tests/vm/run.sh --kernel SERIES --user root|build [OPTION...] -- FILE...

Copies every FILE to /opt/ft in a guest and runs them in order, or what --command or --script says instead.
The exit status is the command's; 124 after the timeout, 125 if the guest did not come up or gave no status.

  --kernel SERIES    series of a Debian cloud kernel: 6.12 or 6.1
  --user USER        root, or the ordinary user build (uid 1000)
  --command STRING   bash commands to run in the guest; FILEs are in /opt/ft, which is in PATH
  --script FILE      a bash script to run in the guest
  --tree DIR         also copy DIR to the same path in the guest: in a git work tree what git would list, else all
  --link PATH=NAME   in the guest, make PATH a link to /opt/ft/NAME
  --timeout SECONDS  kill the guest after this time (600)
  --shell            no command: a shell in the guest on this terminal (Ctrl-A X ends the guest)
  --keep             keep the run's directory: disks, kernel log, qemu command line
  --refresh          look for a newer kernel package of the series instead of using the cached one
END
}

note() { echo "vm: $*" >&2; }

# fail WHAT [HINT]
fail() {
  echo "vm: error: $1" >&2
  if [[ -n ${2:-} ]]; then
    echo "vm: hint: $2" >&2
  fi
  exit 125
}

# shellcheck source=images.sh source-path=SCRIPTDIR
source "$here/images.sh"

kernel_series='' user='' command='' script='' shell=0 keep=0 refresh=0 timeout=600
trees=() links=() files=()

parse_arguments() {
  while [[ $# -gt 0 ]]; do
    case $1 in
    --kernel | --user | --command | --script | --tree | --link | --timeout)
      [[ $# -ge 2 ]] || fail "$1 needs a value"
      case $1 in
      --kernel) kernel_series=$2 ;;
      --user) user=$2 ;;
      --command) command=$2 ;;
      --script) script=$2 ;;
      --tree) trees+=("$(realpath "$2")") ;;
      --link) links+=("$2") ;;
      --timeout) timeout=$2 ;;
      esac
      shift
      ;;
    --shell) shell=1 ;;
    --keep) keep=1 ;;
    --refresh) refresh=1 ;;
    --help | -h)
      usage
      exit 0
      ;;
    --)
      shift
      files=("$@")
      break
      ;;
    *) fail "unknown argument $1" "files come after --; see run.sh --help" ;;
    esac
    shift
  done
  [[ $kernel_series =~ ^[0-9]+\.[0-9]+$ ]] || fail "--kernel must be a series" "give --kernel 6.12 or --kernel 6.1"
  [[ $user == root || $user == build ]] || fail "--user must be root or build"
  [[ $timeout =~ ^[0-9]+$ ]] || fail "--timeout must be a number of seconds"
  [[ $shell == 1 || -n $command || -n $script || ${#files[@]} -gt 0 ]] ||
    fail "nothing to run" "give files after --, or --command, --script or --shell"
}

# Refuse early, with the name of the package, what would fail late and obscurely.
check_programs() {
  local program package missing=()
  [[ $(uname -m) == x86_64 ]] || fail "guests are x86-64 only, this machine is $(uname -m)"
  while read -r program package; do
    [[ -n $(PATH=$PATH:/usr/sbin:/sbin command -v "$program") ]] || missing+=("$package")
  done <<'END'
qemu-system-x86_64 qemu-system-x86
mkfs.ext4 e2fsprogs
cpio cpio
depmod kmod
xz xz-utils
dpkg-deb dpkg
apt-get apt
setsid util-linux
END
  grep -qs . /bin/busybox || missing+=(busybox-static)
  if [[ $(id -u) -ne 0 ]]; then
    fake_root=(fakeroot)
    command -v fakeroot >/dev/null || missing+=(fakeroot)
  fi
  [[ ${#missing[@]} -eq 0 ]] || fail "packages are missing: ${missing[*]}" "run tests/vm/install.sh"
}

# Fill $run/payload and make the disk that the guest mounts read-only at /opt/ft. Run as root, or under fakeroot.
# shellcheck disable=SC2317 # called by the bash -c in stage_payload
build_payload() {
  chown -hR 0:0 "$run/payload"
  mkfs.ext4 -q -F -L payload -m 0 -O ^has_journal -d "$run/payload" "$run/payload.ext4"
}

# Copy a directory to the same path in the guest, with modes that the user build can read.
stage_tree() {
  local tree=$1 target=$run/payload/.vm/root$1
  mkdir -p "$target"
  if git -C "$tree" rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    (cd "$tree" && git ls-files -z --cached --others --exclude-standard) |
      (cd "$tree" && xargs -0 -r ls -d 2>/dev/null | tar -cf - --no-recursion -T -) | tar -C "$target" -xf -
  else
    cp -R "$tree/." "$target/"
  fi
  chmod -R u+rwX,go+rX-w "$run/payload/.vm/root"
}

# Libraries that a file needs and this machine has outside of the packages in the root disk. The
# four that every Rust program needs are always there.
stage_libraries() {
  local library
  { ldd "$1" 2>/dev/null || true; } | awk '{ for (i = 1; i <= NF; i++) if ($i ~ /^\//) print $i }' | sort -u | while read -r library; do
    case ${library##*/} in
    *: | libc.so.* | libm.so.* | libgcc_s.so.* | ld-linux*) continue ;;
    esac
    # A link such as /lib must not become a directory in the guest.
    library=$(realpath "${library%/*}")/${library##*/}
    mkdir -p "$run/payload/.vm/root${library%/*}"
    cp -L "$library" "$run/payload/.vm/root$library"
  done
}

stage_payload() {
  local file name tree link target size
  mkdir -p "$run/payload/.vm/root"
  printf 'user=%s\nnonce=%s\nshell=%s\n' "$user" "$nonce" "$shell" >"$run/payload/.vm/config"
  for file in "${files[@]}"; do
    name=${file##*/}
    [[ -e $file ]] || fail "no such file: $file"
    [[ ! -e $run/payload/$name ]] || fail "two files are named $name"
    cp -RL "$file" "$run/payload/$name"
    if [[ -f $file ]]; then
      stage_libraries "$file"
    fi
  done
  for tree in "${trees[@]}"; do
    stage_tree "$tree"
  done
  for link in "${links[@]}"; do
    target=$run/payload/.vm/root${link%%=*}
    mkdir -p "${target%/*}"
    ln -sfn "/opt/ft/${link#*=}" "$target"
  done
  stage_command
  chmod -R u+rwX,go+rX-w "$run/payload"
  size=$(du -s --apparent-size --block-size=1M "$run/payload" | cut -f1)
  truncate -s "$((size + size / 4 + 32))M" "$run/payload.ext4"
  export -f build_payload
  run=$run "${fake_root[@]}" bash -euo pipefail -c build_payload
}

# Write the script that the guest runs.
stage_command() {
  local target=$run/payload/.vm/command file
  if [[ -n $script ]]; then
    cp "$script" "$target"
  elif [[ -n $command ]]; then
    printf '%s\n' "$command" >"$target"
  else
    echo 'status=0' >"$target"
    for file in "${files[@]}"; do
      file=${file##*/}
      # shellcheck disable=SC2016 # expanded in the guest
      printf 'in-cgroup %q /opt/ft/%q || { code=$?; echo "vm: "%q" ended with status $code"; status=1; }\n' \
        "$file" "$file" "$file" >>"$target"
    done
    # shellcheck disable=SC2016 # expanded in the guest
    echo 'exit $status' >>"$target"
  fi
}

# Set qemu: the command line but for the port that carries the command's output.
compose_qemu() {
  # Emulation everywhere: a nested /dev/kvm can be there and not work, and all machines should see the same guest.
  # shellcheck disable=SC2054 # the commas are qemu's
  qemu=(
    qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 2G -no-reboot -nodefaults
    -display none -monitor none -kernel "$kernel/vmlinuz" -initrd "$initrd"
    # loglevel=1: what the kernel has to say is in the log (dmesg in the guest), not on the slow serial port.
    -append "console=ttyS0 panic=-1 quiet loglevel=${FULGURITE_VM_LOGLEVEL:-1} random.trust_cpu=on"
    -drive "file=$root,format=raw,if=virtio,snapshot=on,cache=unsafe"
    -drive "file=$run/payload.ext4,format=raw,if=virtio,readonly=on"
    -serial "file:$run/console.log"
  )
  printf '%q ' "${qemu[@]}" >"$run/qemu-command"
}

# Print the command's output as it comes; take the marker lines out of it. Sets status.
follow_output() {
  local line
  status=''
  while IFS= read -r line || [[ -n $line ]]; do
    case $line in
    *"@@$nonce begin "*) note "$user on $(<"$kernel/release"): up after ${line##* } s of guest time," \
      "$((SECONDS - started)) s of ours" ;;
    *"@@$nonce status "*)
      printf '%s' "${line%%"@@$nonce"*}"
      status=${line##* }
      ;;
    *) printf '%s\n' "$line" ;;
    esac
  done
}

boot() {
  local code=0
  started=$SECONDS
  if [[ $shell == 1 ]]; then
    note "a shell in the guest follows; Ctrl-A X ends it"
    "${qemu[@]}" -serial mon:stdio
    exit 0
  fi
  mkfifo "$run/output"
  # `timeout` passes TERM on to its own qemu, and nothing else.
  timeout --kill-after=5 "$timeout" "${qemu[@]}" -serial stdio </dev/null >"$run/output" 2>"$run/qemu.log" &
  qemu_pid=$!
  follow_output <"$run/output"
  wait "$qemu_pid" || code=$?
  qemu_pid=''
  if [[ -n $status ]]; then
    exit "$status"
  fi
  cat "$run/console.log" "$run/qemu.log" >&2 || true
  if [[ $code == 124 || $code == 137 ]]; then
    note "error: the guest was killed after $timeout seconds"
    exit 124
  fi
  fail "the guest ended without a status (qemu: $code)" "its console is above; try --keep and FULGURITE_VM_LOGLEVEL=7"
}

# shellcheck disable=SC2317 # called by a trap
clean_up() {
  if [[ -n ${qemu_pid:-} ]]; then
    kill "$qemu_pid" 2>/dev/null || true
  fi
  if [[ -n ${run:-} ]]; then
    if [[ $keep == 1 ]]; then
      note "kept: $run"
    else
      rm -rf "$run"
    fi
  fi
}

export PATH=$PATH:/usr/sbin:/sbin
parse_arguments "$@"
check_programs
mkdir -p "$cache"
trap clean_up EXIT
# No silent end: whatever fails without a message of its own is at least named.
trap 'echo "vm: error: line $LINENO failed: $BASH_COMMAND" >&2; exit 125' ERR
trap 'exit 130' INT TERM
if [[ $refresh == 1 ]]; then
  rm -rf "$cache/kernel-$kernel_series"
fi
kernel=$(kernel_directory "$kernel_series")
initrd=$(initrd_image "$kernel")
root=$(root_image "$kernel")
run=$(mktemp -d "${TMPDIR:-/tmp}/fulgurite-vm.XXXXXX")
nonce=$(od -An -N8 -tx8 /dev/urandom | tr -d ' ')
stage_payload
compose_qemu
boot
