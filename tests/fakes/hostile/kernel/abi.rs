//! K04: entries into the kernel other than the native one.

use crate::facts::Facts;
use crate::report::Report;

/// K04.
#[cfg(target_arch = "x86_64")]
pub fn foreign(facts: &Facts, report: &mut Report) {
    x86::i386(facts, report);
    x86::x32(report);
}

/// K04.
#[cfg(not(target_arch = "x86_64"))]
pub fn foreign(_facts: &Facts, report: &mut Report) {
    report.skip("only x86_64 has int 0x80 and x32");
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use crate::facts::Facts;
    use crate::report::Report;
    use crate::sys::{self, Attempt, attempt};

    /// Numbers of the 32-bit table, with arguments that do no harm.
    const I386: &[(&str, u32, [u32; 3])] = &[
        ("getpid", 20, [0; 3]),
        ("socketcall(socket)", 102, [1, 0, 0]),
        ("keyctl", 288, [u32::MAX, 0, 0]),
        ("add_key", 286, [1, 1, 0]),
        ("mount", 21, [1, 1, 1]),
        ("unshare", 310, [0x7e02_0080, 0, 0]),
        ("ptrace", 26, [u32::MAX, u32::MAX, 0]),
        ("bpf", 357, [u32::MAX, 1, 8]),
        ("io_uring_setup", 425, [0, 1, 0]),
        ("clone3", 435, [1, 0, 0]),
        ("personality", 136, [0x40_0000, 0, 0]),
    ];

    /// Needed for any work at all if the harness allows i386.
    const HARMLESS: &[&str] = &["getpid", "ptrace"];

    pub fn i386(facts: &Facts, report: &mut Report) {
        let allowed = facts.flag("allow_i386");
        for &(name, number, args) in I386 {
            if allowed && HARMLESS.contains(&name) {
                continue;
            }
            let args = if number == 102 { [1, socket_arguments(), 0] } else { args };
            let result = attempt(|| int80(number, args));
            let what = format!("int 0x80 {name}");
            match &result {
                // Without CONFIG_IA32_EMULATION the gate does not exist.
                Attempt::Signal(libc::SIGSEGV) => {
                    report.held();
                    report.note(format!("{what}: no such gate"));
                }
                _ if allowed => {
                    let refusals = [libc::EPERM, libc::ENOSYS, libc::EAFNOSUPPORT];
                    report.refused(&what, &result, &refusals);
                }
                _ => report.refused(&what, &result, &[]),
            }
        }
    }

    pub fn x32(report: &mut Report) {
        const BIT: i64 = 0x4000_0000;
        let native = [
            ("getpid", libc::SYS_getpid, [0u64; 6]),
            ("keyctl", libc::SYS_keyctl, [u64::from(u32::MAX), 0, 0, 0, 0, 0]),
            ("mount", libc::SYS_mount, [1, 1, 1, 0, 0, 0]),
            ("io_uring_setup", libc::SYS_io_uring_setup, [0, 1, 0, 0, 0, 0]),
            ("ioctl of x32", 514, [u64::MAX, 0x5412, 1, 0, 0, 0]),
            ("process_vm_readv of x32", 539, [u64::from(u32::MAX), 1, 0, 1, 0, 1]),
        ];
        for (name, number, args) in native {
            let result = attempt(|| sys::raw(BIT | number, args));
            report.refused(&format!("x32 {name}"), &result, &[libc::ENOSYS]);
            if matches!(result, Attempt::Errno(_)) {
                report.note(format!("x32 {name} met no filter: {}", result.text()));
            }
        }
        // Before 5.4 the x32-only numbers also worked without the bit.
        for number in [512i64, 514, 520, 533, 539, 545, 547] {
            let result = attempt(|| sys::raw(number, [u64::MAX, 1, 1, 1, 0, 0]));
            report.refused(
                &format!("number {number} without the x32 bit"),
                &result,
                &[libc::ENOSYS, libc::EPERM],
            );
        }
    }

    /// Three words below 4 GiB: AF_ALG, SOCK_SEQPACKET, 0. Zero if there is no room.
    fn socket_arguments() -> u32 {
        // SAFETY: a fresh private mapping; three words are written within its one page.
        let address = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
            let page =
                libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            if page == libc::MAP_FAILED {
                return 0;
            }
            page.cast::<[u32; 3]>().write([38, 5, 0]);
            page as usize
        };
        u32::try_from(address).unwrap_or(0)
    }

    fn int80(number: u32, args: [u32; 3]) -> Result<i64, i32> {
        let mut result = i64::from(number);
        // SAFETY: the 32-bit entry reads eax, ebx, ecx and edx and changes eax; r8 to r11 may be cleared. rbx is
        // reserved by the compiler, hence the exchange around the call.
        unsafe {
            std::arch::asm!(
                "xchg {first}, rbx",
                "int 0x80",
                "xchg {first}, rbx",
                first = inout(reg) u64::from(args[0]) => _,
                inout("rax") result,
                in("rcx") u64::from(args[1]),
                in("rdx") u64::from(args[2]),
                in("rsi") 0u64,
                in("rdi") 0u64,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            );
        }
        // The result is 32 bits wide.
        let value = i64::from(result as u32 as i32);
        if (-4095..0).contains(&value) { Err((-value) as i32) } else { Ok(value) }
    }
}
