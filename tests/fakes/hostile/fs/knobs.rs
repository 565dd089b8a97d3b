//! F03 and F10: the kernel's own files.

use crate::facts::Facts;
use crate::report::Report;
use crate::{sys, walk};
use std::fs::File;
use std::io::Read;
use std::path::Path;

const TREES: &[&str] = &[
    "/proc/sys",
    "/sys",
    "/proc/irq",
    "/proc/bus",
    "/proc/fs",
    "/proc/acpi",
    "/proc/scsi",
    "/proc/tty",
    "/proc/driver",
];

/// Single files; the ones of pid 1 belong to the sandbox's init.
const FILES: &[&str] = &[
    "/proc/sysrq-trigger",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/vm/drop_caches",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/mtrr",
    "/proc/timer_list",
    "/proc/slabinfo",
    "/proc/kcore",
    "/proc/kmsg",
    "/proc/swaps",
    "/proc/mdstat",
    "/proc/pressure/memory",
    "/sys/kernel/uevent_helper",
    "/proc/1/oom_score_adj",
    "/proc/1/oom_adj",
    "/proc/1/coredump_filter",
    "/proc/1/timens_offsets",
    "/proc/1/uid_map",
    "/proc/1/gid_map",
    "/proc/1/setgroups",
    "/proc/1/projid_map",
    "/proc/1/autogroup",
    "/proc/1/loginuid",
    "/proc/1/clear_refs",
    "/proc/1/comm",
    "/proc/1/mem",
    "/proc/1/make-it-fail",
    "/proc/1/latency",
];

/// F03.
pub fn open_all(_facts: &Facts, report: &mut Report) {
    let mut complete = true;
    for tree in TREES {
        complete &= walk::walk(Path::new(tree), walk::Bounds::WIDE, &mut |_| true, &mut |path, kind| {
            if !kind.is_dir() && !kind.is_symlink() {
                try_write(path, report);
            }
        });
    }
    if !complete {
        report.note("cut short");
    }
    for file in FILES {
        try_write(Path::new(file), report);
    }
    for tree in ["/proc/sys", "/proc/sys/kernel", "/sys", "/sys/fs/cgroup", "/sys/kernel"] {
        let made = Path::new(tree).join("hostile");
        report.check(std::fs::create_dir(&made).is_ok(), format!("made {}", made.display()));
        let _ = std::fs::remove_dir(&made);
    }
    if std::fs::read_dir("/sys").is_ok_and(|mut d| d.next().is_some()) {
        report.note("/sys has content");
    }
}

/// Opening changes nothing; that it opens is the finding.
fn try_write(path: &Path, report: &mut Report) {
    for flags in [libc::O_WRONLY, libc::O_RDWR] {
        let opened = sys::open(path, flags | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW);
        if opened.is_ok() {
            return report.broke(format!("opened {}", path.display()));
        }
    }
    report.held();
}

/// Files that must be absent, refused or empty. kallsyms has its own rule.
const MASKED: &[&str] = &[
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/kmsg",
    "/proc/kallsyms",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/slabinfo",
    "/proc/vmallocinfo",
    "/proc/latency_stats",
    "/proc/iomem",
    "/proc/ioports",
    "/proc/interrupts",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/kpagecgroup",
    "/proc/pagetypeinfo",
    "/proc/allocinfo",
    "/proc/mtrr",
    "/dev/mem",
    "/dev/kmem",
    "/dev/port",
    "/dev/kmsg",
    "/sys/kernel/notes",
    "/sys/kernel/vmcoreinfo",
    "/sys/kernel/btf/vmlinux",
];

const MASKED_TREES: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/scsi",
    "/proc/bus/pci",
    "/sys/firmware",
    "/sys/kernel/debug",
    "/sys/kernel/tracing",
    "/sys/kernel/security",
    "/sys/fs/bpf",
    "/sys/fs/pstore",
    "/sys/devices/virtual/powercap",
];

/// F10.
pub fn read_kernel(_facts: &Facts, report: &mut Report) {
    for file in MASKED {
        let bytes = first_bytes(Path::new(file));
        report.check(bytes > 0, format!("read {bytes} bytes of {file}"));
    }
    for tree in MASKED_TREES {
        let names = std::fs::read_dir(tree).map(|d| d.flatten().count()).unwrap_or(0);
        report.check(names > 0, format!("{tree} lists {names} names"));
    }
    frames(report);
    let mut buffer = [0u8; 4096];
    for (name, action) in [("READ", 2u64), ("READ_ALL", 3), ("SIZE_UNREAD", 9), ("SIZE_BUFFER", 10)] {
        if name == "READ" {
            // It waits for new lines if it is allowed at all; the others answer at once.
            continue;
        }
        let length = buffer.len() as u64;
        let result =
            sys::attempt(|| sys::call(libc::SYS_syslog, &[action, buffer.as_mut_ptr() as u64, length]));
        report.fails(&format!("syslog {name}"), &result);
    }
    for kind in ["debugfs", "tracefs", "securityfs", "bpf", "pstore", "efivarfs", "configfs", "binfmt_misc"] {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let at = mounts.lines().find(|l| l.split(' ').nth(2) == Some(kind));
        report.check(at.is_some(), format!("{kind} is mounted: {}", at.unwrap_or_default()));
    }
}

fn first_bytes(path: &Path) -> usize {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    let Ok(fd) = sys::open(path, flags) else { return 0 };
    File::from(fd).read(&mut [0u8; 4096]).unwrap_or(0)
}

/// Physical frame numbers of own memory are for attacks on the memory chips.
fn frames(report: &mut Report) {
    let word = Box::new(7u64);
    let offset = (&raw const *word as u64) / 4096 * 8;
    let mut entry = [0u8; 8];
    let read = File::open("/proc/self/pagemap")
        .and_then(|f| std::os::unix::fs::FileExt::read_exact_at(&f, &mut entry, offset));
    let frame = u64::from_le_bytes(entry) & ((1 << 55) - 1);
    report.check(read.is_ok() && frame != 0, "pagemap shows physical frames");
}
