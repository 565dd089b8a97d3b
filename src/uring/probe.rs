//! Whether io_uring can be had, and if not, why, in words.

use std::io;

/// Where an administrator turns it off.
const SWITCH: &str = "/proc/sys/kernel/io_uring_disabled";

/// What the switch says; 0 where there is none, which is before Linux 6.6.
fn switch() -> u32 {
    let text = std::fs::read_to_string(SWITCH).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Says why a ring could not be made.
pub(super) fn explain(why: &io::Error) -> String {
    explained(why, switch())
}

fn explained(why: &io::Error, switch: u32) -> String {
    match (why.raw_os_error(), switch) {
        (Some(libc::EPERM), 1) => {
            "kernel.io_uring_disabled is 1, and this process is not in kernel.io_uring_group".to_owned()
        }
        (Some(libc::EPERM), 2) => "kernel.io_uring_disabled is 2, which is for everybody".to_owned(),
        (Some(libc::EPERM | libc::EACCES), _) => {
            format!("io_uring_setup is refused ({why}), by a seccomp filter or a security module")
        }
        (Some(libc::ENOSYS), _) => {
            "the kernel has no io_uring, or a seccomp filter says so (as containers' default profiles do)"
                .to_owned()
        }
        (Some(libc::ENOMEM), _) => {
            format!("io_uring_setup found too little memory to lock ({why}); see ulimit -l")
        }
        (Some(libc::EINVAL), _) => format!("the kernel's io_uring is older than Linux 5.19 ({why})"),
        _ => format!("io_uring_setup failed: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_named() {
        let check = |number: i32, switch: u32, part: &str| {
            let text = explained(&io::Error::from_raw_os_error(number), switch);
            assert!(text.contains(part), "{number} {switch}: {text}");
        };
        check(libc::EPERM, 0, "seccomp");
        check(libc::EPERM, 1, "io_uring_group");
        check(libc::EPERM, 2, "everybody");
        check(libc::EACCES, 0, "security module");
        check(libc::ENOSYS, 0, "no io_uring");
        check(libc::ENOMEM, 0, "ulimit -l");
        check(libc::EINVAL, 0, "5.19");
        check(libc::EMFILE, 0, "failed");
    }
}
