#!/bin/bash
# Install the Debian packages that `make test-vm` needs. Names each package and why; changes nothing else.
set -euo pipefail

packages=(
  qemu-system-x86 # the virtual machine, by emulation (TCG): KVM is not used
  e2fsprogs       # mkfs.ext4 -d: the disks of the guest
  cpio            # the first-stage initramfs
  busybox-static  # the only program in that initramfs
  kmod            # depmod and modprobe: which modules a kernel needs
  xz-utils        # modules of newer kernels are compressed
  fakeroot        # root-owned files in the disks when the invoker is not root
  util-linux      # unshare, setpriv: copied into the guest
  uidmap          # newuidmap, newgidmap: copied into the guest
  libcap2-bin     # capsh, getpcaps: copied into the guest
  attr            # getfattr, setfattr: copied into the guest
  procps          # ps: copied into the guest
  strace          # copied into the guest
  gcc             # copied into the guest, for actions that compile
  libc6-dev       # the same
)

as_root=()
if [[ $(id -u) -ne 0 ]]; then
  command -v sudo >/dev/null || {
    echo "install.sh: not root and there is no sudo; install by hand: ${packages[*]}" >&2
    exit 1
  }
  as_root=(sudo)
fi

echo "install.sh: installing with apt-get${as_root[0]:+ (through sudo)}: ${packages[*]}"
echo "install.sh: guest kernels are downloaded by run.sh, and are never installed on this machine"
"${as_root[@]}" apt-get install -y --no-install-recommends "${packages[@]}"
