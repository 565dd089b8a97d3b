#!/bin/bash
# Cached parts of a guest: the kernel of a series, its initramfs, and the root disk. Sourced by run.sh.
#
#   $cache/kernel-6.12/            vmlinuz, release, lib/modules/RELEASE (only what guests use, uncompressed)
#   $cache/initrd-RELEASE-KEY.cpio busybox + the modules that the disk needs + guest/first-init
#   $cache/root-RELEASE-KEY.ext4   userland copied from this machine's Debian packages + modules + guest/*
#
# KEY is a hash of everything that went in (package versions, our scripts), so a stale file is never used. Files are
# built under a temporary name and renamed, so that two runs at once and an interrupted run do no harm.

# Set by run.sh: the directory of these scripts, and `fakeroot` where the invoker is not root.
: "${here:?}"
fake_root=()

cache=${XDG_CACHE_HOME:-$HOME/.cache}/fulgurite-vm

# Needed before a disk can be mounted.
boot_modules=(virtio_pci virtio_blk)
# In the root disk: loaded at boot by guest/init, or by the kernel on demand.
guest_modules=(overlay erofs loop xfs btrfs fuse squashfs veth dummy tun af_alg algif_hash vsock)
# Copied into the guest together with what they depend on, as far as this machine has them.
guest_packages=(
  bash coreutils util-linux mount grep sed findutils gawk mawk diffutils tar gzip procps psmisc kmod iproute2 uidmap
  libcap2-bin attr acl e2fsprogs xfsprogs erofs-utils fsverity strace bubblewrap gcc libc6-dev make dash hostname
  busybox-static libgcc-s1 libc-bin
)

# Print the newest cloud kernel package of a series (6.12) that apt knows. The signed and the unsigned one have the same
# kernel; suites differ in which of them they have.
kernel_package() {
  local series=$1
  apt-cache search --names-only "^linux-image-${series//./\\.}\\.[0-9]+([-+][a-z0-9]+)?-cloud-amd64(-unsigned)?\$" |
    cut -d' ' -f1 | sort -V | tail -1
}

# Download and unpack the kernel of a series into the cache, unless it is there. Prints its directory.
kernel_directory() {
  local series=$1
  local target=$cache/kernel-$series
  if [[ ! -e $target/release ]]; then
    build_kernel "$series" "$target"
  fi
  echo "$target"
}

build_kernel() {
  local series=$1 target=$2 package work release
  package=$(kernel_package "$series")
  [[ -n $package ]] || fail "apt knows no Debian cloud kernel $series" \
    "run apt-get update, or add the suite that has it (bookworm-updates, bookworm-backports, trixie)"
  note "downloading $package"
  work=$(mktemp -d "$cache/build.XXXXXX")
  (cd "$work" && apt-get -q download "$package") >"$work/apt.log" 2>&1 ||
    fail "cannot download $package" "see $work/apt.log"
  dpkg-deb -x "$work"/*.deb "$work/unpacked"
  # A merged-/usr package has its modules below usr/lib.
  if [[ ! -d $work/unpacked/lib/modules ]]; then
    ln -s usr/lib "$work/unpacked/lib"
  fi
  release=$(ls "$work/unpacked/lib/modules")
  depmod -b "$work/unpacked" "$release"

  mkdir -p "$work/new/lib/modules/$release"
  cp "$work/unpacked/boot/vmlinuz-$release" "$work/new/vmlinuz"
  cp "$work/unpacked/lib/modules/$release"/modules.{builtin,builtin.modinfo,order} "$work/new/lib/modules/$release/"
  copy_modules "$work/unpacked" "$work/new" "$release" "${boot_modules[@]}" "${guest_modules[@]}"
  depmod -b "$work/new" "$release"
  echo "$release" >"$work/new/release"
  rm -rf "$target"
  mv "$work/new" "$target"
  rm -rf "$work"
}

# Print the module files that NAMES need, dependencies first. Built-in modules and unknown ones are left out.
module_files() {
  local root=$1 release=$2 name
  shift 2
  for name in "$@"; do
    modprobe -d "$root" -S "$release" --show-depends "$name" 2>/dev/null || true
  done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
}

# Copy modules with their dependencies from one root to another, uncompressed: the guest's processor is slow.
copy_modules() {
  local source=$1 target=$2 release=$3 file path
  shift 3
  module_files "$source" "$release" "$@" | while read -r file; do
    path=$target/lib/modules/$release/kernel/${file##*/kernel/}
    mkdir -p "${path%/*}"
    case $file in
    *.xz) xz -dc "$file" >"${path%.xz}" ;;
    *.zst) zstd -qdc "$file" >"${path%.zst}" ;;
    *) cp "$file" "$path" ;;
    esac
  done
}

# Print the path of the initramfs for a kernel directory, building it first if need be.
initrd_image() {
  local kernel=$1 release key target work file
  release=$(<"$kernel/release")
  key=$(cat "$here/guest/first-init" "$here/images.sh" /bin/busybox | sha256sum | cut -c1-12)
  target=$cache/initrd-$release-$key.cpio
  if [[ ! -e $target ]]; then
    work=$(mktemp -d "$cache/build.XXXXXX")
    mkdir -p "$work/root"/{bin,dev,proc,root-disk,modules}
    cp /bin/busybox "$work/root/bin/busybox"
    cp "$here/guest/first-init" "$work/root/init"
    chmod 755 "$work/root/init"
    module_files "$kernel" "$release" "${boot_modules[@]}" | while read -r file; do
      cp "$file" "$work/root/modules/"
      echo "/modules/${file##*/}" >>"$work/root/modules/order"
    done
    (cd "$work/root" && find . | cpio --quiet -o -H newc -R 0:0) >"$work/initrd"
    mv "$work/initrd" "$target"
    rm -rf "$work"
  fi
  echo "$target"
}

# Print those of the named packages that are installed.
installed_packages() {
  { dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true; } |
    awk '$1 == "installed" { print $2 }' | sort -u
}

# Print the installed packages among guest_packages and all that they depend on.
userland_packages() {
  local wanted closure
  mapfile -t wanted < <(installed_packages "${guest_packages[@]}")
  mapfile -t closure < <(apt-cache depends --recurse --installed --no-recommends --no-suggests --no-conflicts \
    --no-breaks --no-replaces --no-enhances "${wanted[@]}" | grep -E '^[a-z0-9]' | cut -d: -f1 | sort -u |
    grep -vxE 'debconf|perl-base|dpkg|adduser|apt|install-info|usrmerge|systemd.*')
  installed_packages "${closure[@]}"
}

# Print the path of the root disk for a kernel directory, building it first if need be.
root_image() {
  local kernel=$1 release key target packages work
  release=$(<"$kernel/release")
  mapfile -t packages < <(userland_packages)
  key=$( (
    dpkg-query -W "${packages[@]}"
    cat "$here"/guest/* "$here/images.sh" "$kernel/lib/modules/$release/modules.dep"
  ) | sha256sum | cut -c1-12)
  target=$cache/root-$release-$key.ext4
  if [[ ! -e $target ]]; then
    note "building the root disk for $release from ${#packages[@]} packages of this machine"
    work=$(mktemp -d "$cache/build.XXXXXX")
    export -f build_root copy_userland
    here=$here kernel=$kernel release=$release work=$work "${fake_root[@]}" bash -euo pipefail -c \
      'build_root "$@"' - "${packages[@]}"
    mv "$work/root.ext4" "$target"
    rm -rf "$work"
  fi
  echo "$target"
}

# In: here, kernel, release, work. Run as root, or under fakeroot.
build_root() {
  local root=$work/root
  mkdir -p "$root"/{usr/{bin,sbin,lib,lib64},etc,dev,proc,sys,run,tmp,opt/ft,root,home/build,var/tmp,var/lib,mnt}
  ln -s usr/bin usr/sbin usr/lib usr/lib64 "$root/"
  ln -s ../run "$root/var/run"
  chmod 1777 "$root/tmp" "$root/var/tmp"
  chmod 700 "$root/root"
  chown 1000:1000 "$root/home/build"
  copy_userland "$root" "$@"

  cp -a "$kernel/lib/modules" "$root/usr/lib/"
  install -m 755 "$here/guest/init" "$root/usr/sbin/fulgurite-vm-init"
  install -m 755 "$here/guest/in-cgroup" "$root/usr/bin/in-cgroup"
  printf '%s\n' root:x:0:0::/root:/bin/bash daemon:x:1:1::/:/usr/sbin/nologin \
    build:x:1000:1000::/home/build:/bin/bash nobody:x:65534:65534::/:/usr/sbin/nologin >"$root/etc/passwd"
  printf '%s\n' root:x:0: daemon:x:1: tty:x:5: build:x:1000: nogroup:x:65534: >"$root/etc/group"
  echo build:100000:65536 | tee "$root/etc/subuid" >"$root/etc/subgid"
  echo '127.0.0.1 localhost guest' >"$root/etc/hosts"
  echo guest >"$root/etc/hostname"
  ldconfig -r "$root"
  chown -R 0:0 "$root/etc" "$root/usr/lib/modules"
  # Three more gigabytes are virtual: the file is sparse, and a guest writes to a throw-away overlay of it.
  truncate -s "$(($(du -s --block-size=1M "$root" | cut -f1) + 3072))M" "$work/root.ext4"
  mkfs.ext4 -q -F -L root -m 0 -d "$root" "$work/root.ext4"
}

# Copy the files of packages into a root directory whose /bin, /lib, ... are links into /usr.
copy_userland() {
  local root=$1
  shift
  # dpkg names /bin/sh where the file is /usr/bin/sh: tar follows the links of either side. What this machine has
  # deleted (often documentation) or replaced by a directory link is left out.
  {
    dpkg -L "$@" 2>/dev/null | grep -vE '^/usr/share/(doc|man|info|locale|lintian|bug|i18n|zoneinfo)/' |
      sort -u | while read -r file; do
      if [[ -L $file || -f $file ]]; then
        echo "${file#/}"
      fi
    done
    (cd / && find etc/alternatives -type l)
  } | grep -vxE 'bin|sbin|lib|lib64|usr/lib64' | sort -u >"$root.list"
  tar -C / --no-recursion --ignore-failed-read -cf - -T "$root.list" | tar -C "$root" --keep-directory-symlink -xpf -
}
