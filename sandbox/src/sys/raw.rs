//! System calls without errno, and the one clone that shares memory. x86_64 only.
//!
//! A process that shares its parent's memory also shares the parent's thread-local errno. What it calls while the
//! parent runs therefore must not touch it: it gets its answer in a register.
use super::{Errno, Result};
use core::arch::asm;
use core::ffi::c_void;
use core::sync::atomic::AtomicU32;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("fulgurite-sandbox runs on x86_64 only so far: sys/raw.rs and the reviewed seccomp table");

const CLONE_VM: u64 = 0x100;
/// `CLONE_VM`, `CLONE_FILES`, `CLONE_SIGHAND`, `CLONE_THREAD`, `CLONE_CHILD_CLEARTID`: the root and the working
/// directory are the thread's own.
const THREAD: u64 = CLONE_VM | 0x400 | 0x800 | 0x1_0000 | 0x20_0000;

/// Makes system call `number`.
///
/// # Safety
/// As the system call demands of its arguments.
pub unsafe fn call(number: i64, arguments: [u64; 5]) -> Result<u64> {
    let [a, b, c, d, e] = arguments;
    let answer: i64;
    // SAFETY: the caller vouches for the call; the kernel changes rcx and r11 only, which are declared.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => answer,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    answer_of(answer)
}

fn answer_of(answer: i64) -> Result<u64> {
    match u64::try_from(answer) {
        Ok(value) => Ok(value),
        Err(_) => Err(Errno::from_raw_os_error(i32::try_from(-answer).unwrap_or(libc::EIO))),
    }
}

/// What a clone that shares memory begins with.
#[derive(Clone, Copy)]
pub struct Start {
    /// Lowest address of its stack, aligned to 16.
    pub stack: *mut u8,
    /// Bytes of its stack, a multiple of 16.
    pub stack_bytes: usize,
    /// What it does.
    pub entry: unsafe extern "C" fn(*mut c_void) -> !,
    /// What that is given.
    pub argument: *mut c_void,
}

/// Clones this process with `flags`; the child shares its memory and begins at `start.entry`. Gives the child's pid.
///
/// # Safety
/// The stack must be the child's alone until it executes another program or ends, and so must be everything that both
/// would write. The argument must stay valid until then.
pub unsafe fn clone_sharing_memory(flags: u64, cgroup: Option<i32>, start: Start) -> Result<i32> {
    const INTO_CGROUP: u64 = super::process::clone_flag::INTO_CGROUP;
    // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
    // set_tid_size, cgroup
    let mut args = [0u64; 11];
    args[0] = flags | CLONE_VM | if cgroup.is_some() { INTO_CGROUP } else { 0 };
    args[4] = libc::SIGCHLD as u64;
    args[5] = start.stack as u64;
    args[6] = start.stack_bytes as u64;
    args[10] = cgroup.map_or(0, |fd| fd as u64);
    // SAFETY: as the caller says.
    unsafe { clone(&args, start) }
}

/// Starts a thread of this process, which begins at `start.entry`. The kernel makes `lives` zero, and wakes who waits
/// for that, when the thread is over and its stack free.
///
/// # Safety
/// As [`clone_sharing_memory`]; `lives` must stay where it is until it is zero.
pub unsafe fn clone_thread(lives: &AtomicU32, start: Start) -> Result<i32> {
    let mut args = [0u64; 11];
    args[0] = THREAD;
    args[2] = lives.as_ptr() as u64;
    args[5] = start.stack as u64;
    args[6] = start.stack_bytes as u64;
    // SAFETY: as the caller says.
    unsafe { clone(&args, start) }
}

/// Waits while `word` is `value`; may return early.
pub fn wait_while(word: &AtomicU32, value: u32) {
    let arguments = [word.as_ptr() as u64, libc::FUTEX_WAIT as u64, u64::from(value), 0, 0];
    // SAFETY: futex(2) reads the word, which outlives the call, and has no time limit here.
    let _ = unsafe { call(libc::SYS_futex, arguments) };
}

/// Wakes everybody who waits for a change of `word`.
pub fn wake_all(word: &AtomicU32) {
    let arguments = [word.as_ptr() as u64, libc::FUTEX_WAKE as u64, i32::MAX as u64, 0, 0];
    // SAFETY: futex(2) takes the word's address only as a name here.
    let _ = unsafe { call(libc::SYS_futex, arguments) };
}

/// # Safety
/// As [`clone_sharing_memory`]; the flags must demand a shared memory.
unsafe fn clone(args: &[u64; 11], start: Start) -> Result<i32> {
    let answer: i64;
    // SAFETY: the parent returns behind the label with all registers but rax, rcx and r11 unchanged. The child has
    // rax = 0 and a stack of its own; it calls the entry, which does not return.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => answer,
            in("rdi") args.as_ptr(), in("rsi") size_of_val(args),
            in("r12") start.argument, in("r13") start.entry,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    answer_of(answer).and_then(|pid| i32::try_from(pid).map_err(|_| Errno::RANGE))
}
