//! The filter in the kernel: what real syscalls answer under it, and that ordinary programs still work.
//!
//! A filter belongs to the thread that installs it and to its children. Answers that kill are therefore tried
//! in a forked child that does nothing but raw syscalls; all others in a thread of their own.
#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code)]

use fulgurite_sandbox::harden::seccomp::{Abi, Profile, Program, SockFilter};
use std::process::Command;

const DEFAULT: Profile = Profile { native: Abi::X86_64, allow_i386: false, allow_ptrace: true };

fn program(profile: Profile) -> Vec<SockFilter> {
    Program::compile(&profile).unwrap().instructions().to_vec()
}

/// Installs a filter on the calling thread. Async-signal-safe.
fn install(program: &[SockFilter]) -> bool {
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: prctl takes integers here; seccomp only reads `filter` and the instructions it points to, both
    // of which outlive the call, and `SockFilter` has the layout of `sock_filter` (a unit test compares
    // them).
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &filter) == 0
    }
}

/// A raw syscall that takes no pointer but null: its result, or the negated errno.
fn syscall(number: i64, args: [u64; 4]) -> i64 {
    // SAFETY: every caller passes numbers and null pointers that are refused by the filter or harmless in the
    // kernel.
    let result = unsafe { libc::syscall(number, args[0], args[1], args[2], args[3]) };
    if result == -1 { -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap()) } else { result }
}

/// int 0x80: the i386 entry.
fn int_0x80(number: u32) -> i32 {
    let result: i32;
    // SAFETY: no argument is a pointer; the i386 entry clobbers r8 to r11 and nothing else. rbx is saved by
    // hand, as the compiler reserves it.
    unsafe {
        std::arch::asm!(
            "push rbx", "xor ebx, ebx", "int 0x80", "pop rbx",
            inlateout("eax") number => result, in("ecx") 0, in("edx") 0, in("esi") 0, in("edi") 0,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
    }
    result
}

/// How a forked child ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Exit(i32),
    Signal(i32),
}

/// Runs `body` in a forked child under the filter; its value is the exit code.
fn forked(program: &[SockFilter], body: fn() -> i32) -> End {
    // SAFETY: the child calls only async-signal-safe functions: prctl, seccomp, raw syscalls, _exit.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        let code = if install(program) { body() } else { 99 };
        // SAFETY: ends the child at once, without running anything of the parent's.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: `status` is a valid place; `pid` is our own child, waited for once.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(waited, pid);
    match libc::WIFSIGNALED(status) {
        true => End::Signal(libc::WTERMSIG(status)),
        false => End::Exit(libc::WEXITSTATUS(status)),
    }
}

/// Runs `body` in a thread of its own under the filter.
fn filtered<T: Send + 'static>(profile: Profile, body: impl FnOnce() -> T + Send + 'static) -> T {
    let program = program(profile);
    let thread = std::thread::spawn(move || {
        assert!(install(&program), "cannot install: {}", std::io::Error::last_os_error());
        body()
    });
    thread.join().unwrap()
}

fn number(name: &str) -> i64 {
    i64::from(Abi::X86_64.number(name).unwrap())
}

#[test]
fn refused_syscalls_answer_as_the_table_says() {
    const NULL: u64 = 0;
    const NO_FD: u64 = u64::MAX;
    let (eperm, enosys) = (-i64::from(libc::EPERM), -i64::from(libc::ENOSYS));
    filtered(DEFAULT, move || {
        for name in ["clone3", "io_uring_setup", "io_uring_enter", "io_uring_register", "uselib", "_sysctl"] {
            assert_eq!(syscall(number(name), [NULL; 4]), enosys, "{name}");
        }
        for free in [337, 423, 470, 520, 600, 0x3fff_ffff] {
            assert_eq!(syscall(free, [NULL; 4]), enosys, "{free}");
        }
        for name in [
            "mount",
            "umount2",
            "pivot_root",
            "chroot",
            "open_tree",
            "move_mount",
            "fsopen",
            "fsconfig",
            "fsmount",
            "fspick",
            "mount_setattr",
            "open_tree_attr",
            "statmount",
            "listmount",
            "setns",
            "process_vm_readv",
            "process_vm_writev",
            "pidfd_getfd",
            "add_key",
            "request_key",
            "keyctl",
            "bpf",
            "perf_event_open",
            "userfaultfd",
            "fanotify_init",
            "name_to_handle_at",
            "open_by_handle_at",
            "init_module",
            "finit_module",
            "delete_module",
            "kexec_load",
            "kexec_file_load",
            "reboot",
            "swapon",
            "swapoff",
            "acct",
            "quotactl",
            "quotactl_fd",
            "settimeofday",
            "clock_settime",
            "clock_adjtime",
            "iopl",
            "ioperm",
            "lsm_set_self_attr",
        ] {
            assert_eq!(syscall(number(name), [NO_FD, NULL, NULL, NULL]), eperm, "{name}");
        }
        for flags in [0x1000_0000, 0x80, 0] {
            assert_eq!(syscall(number("unshare"), [flags; 4]), eperm, "unshare {flags:#x}");
        }
    });
}

#[test]
fn arguments_decide_as_the_table_says() {
    const NULL: u64 = 0;
    const NO_FD: u64 = u64::MAX;
    let (eperm, bad_fd) = (-i64::from(libc::EPERM), -i64::from(libc::EBADF));
    filtered(DEFAULT, move || {
        assert_eq!(
            syscall(number("clone"), [0x1000_0011, NULL, NULL, NULL]),
            eperm,
            "clone into a user namespace"
        );
        for command in [0x5412, 0x541c, 0x1_0000_5412, 0xffff_ffff_0000_541c] {
            assert_eq!(syscall(number("ioctl"), [NO_FD, command, NULL, NULL]), eperm, "ioctl {command:#x}");
        }
        assert_eq!(syscall(number("ioctl"), [NO_FD, 0x5401, NULL, NULL]), bad_fd);
        assert_eq!(syscall(number("personality"), [0x40000, NULL, NULL, NULL]), eperm);
        assert_eq!(syscall(number("personality"), [0xffff_ffff, NULL, NULL, NULL]), 0);
        assert_eq!(syscall(number("fchmod"), [NO_FD, 0o4755, NULL, NULL]), eperm);
        assert_eq!(syscall(number("fchmodat2"), [NO_FD, NULL, 0o2755, NULL]), eperm);
        assert_eq!(syscall(number("fchmod"), [NO_FD, 0o755, NULL, NULL]), bad_fd);
        assert_eq!(syscall(number("mknod"), [NULL, 0o20644, NULL, NULL]), eperm);
        assert_eq!(syscall(number("mknodat"), [NO_FD, NULL, 0o60644, NULL]), eperm);
    });
}

#[test]
fn socket_families_that_builds_do_not_use_are_unknown() {
    filtered(DEFAULT, || {
        let refused = -i64::from(libc::EAFNOSUPPORT);
        for family in (0..46).filter(|family| ![1, 2, 10, 16].contains(family)) {
            assert_eq!(syscall(number("socket"), [family, 3, 0, 0]), refused, "family {family}");
            assert_eq!(
                syscall(number("socket"), [family | 1 << 32, 3, 0, 0]),
                refused,
                "family {family}, high bit"
            );
        }
        assert_eq!(syscall(number("socket"), [16, 3, 9, 0]), refused, "netlink audit");
        std::os::unix::net::UnixStream::pair().unwrap();
        std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let route = syscall(number("socket"), [16, 3, 0, 0]);
        assert!(route >= 0, "netlink route: {route}");
        assert_eq!(syscall(number("close"), [u64::try_from(route).unwrap(), 0, 0, 0]), 0);
    });
}

#[test]
fn foreign_abis_kill() {
    let program = program(DEFAULT);
    let getpid_x32 = || i32::from(syscall(0x4000_0000 + libc::SYS_getpid, [0; 4]) > 0);
    assert_eq!(forked(&program, getpid_x32), End::Signal(libc::SIGSYS));
    let getpid_i386 = || i32::from(int_0x80(20) > 0);
    match forked(&program, getpid_i386) {
        End::Signal(libc::SIGSEGV) => eprintln!("SKIP int 0x80: this kernel has no i386 entry"),
        end => assert_eq!(end, End::Signal(libc::SIGSYS)),
    }
    assert_eq!(forked(&program, || i32::from(syscall(libc::SYS_getpid, [0; 4]) > 0)), End::Exit(1));
}

#[test]
fn i386_has_a_filter_of_its_own_when_allowed() {
    let program = program(Profile { allow_i386: true, ..DEFAULT });
    if forked(&program, || i32::from(int_0x80(20) > 0)) == End::Signal(libc::SIGSEGV) {
        eprintln!("SKIP int 0x80: this kernel has no i386 entry");
        return;
    }
    assert_eq!(forked(&program, || i32::from(int_0x80(20) > 0)), End::Exit(1), "getpid");
    assert_eq!(forked(&program, || -int_0x80(102)), End::Exit(libc::ENOSYS), "socketcall");
    assert_eq!(forked(&program, || -int_0x80(288)), End::Exit(libc::EPERM), "keyctl");
    assert_eq!(forked(&program, || -int_0x80(425)), End::Exit(libc::ENOSYS), "io_uring_setup");
    assert_eq!(forked(&program, || -int_0x80(21)), End::Exit(libc::EPERM), "mount");
    assert_eq!(forked(&program, || -int_0x80(310)), End::Exit(libc::EPERM), "unshare");
    assert_eq!(forked(&program, || -int_0x80(359)), End::Exit(libc::EAFNOSUPPORT), "socket of family 0");
    assert_eq!(forked(&program, || -int_0x80(470)), End::Exit(libc::ENOSYS), "a number above the table");
}

#[test]
fn ptrace_is_a_switch() {
    // PTRACE_TRACEME in a child that ends at once.
    let trace_me = || -(syscall(libc::SYS_ptrace, [0; 4]) as i32);
    assert_eq!(forked(&program(DEFAULT), trace_me), End::Exit(0));
    let denied = program(Profile { allow_ptrace: false, ..DEFAULT });
    assert_eq!(forked(&denied, trace_me), End::Exit(libc::EPERM));
}

#[test]
fn threads_and_programs_work() {
    filtered(DEFAULT, || {
        // clone3 answers ENOSYS, so that pthread_create and posix_spawn take clone.
        assert_eq!(std::thread::spawn(|| 42).join().unwrap(), 42);
        let status = Command::new("/bin/sh").args(["-c", "exit 7"]).status().unwrap();
        assert_eq!(status.code(), Some(7));
    });
}

#[test]
fn fifos_can_be_made() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    filtered(DEFAULT, move || {
        let status = Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(status.success());
        use std::os::unix::fs::FileTypeExt;
        assert!(fifo.metadata().unwrap().file_type().is_fifo());
    });
}

/// K10 in small: a compiler and interpreters, where the machine has them.
#[test]
fn toolchains_work_under_the_filter() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    std::fs::write(path.join("a.c"), "#include <stdio.h>\nint main(void) { puts(\"ok\"); return 0; }\n")
        .unwrap();
    std::fs::write(
        path.join("a.rs"),
        "fn main() { std::thread::spawn(|| println!(\"ok\")).join().unwrap(); }\n",
    )
    .unwrap();
    filtered(DEFAULT, move || {
        let python = "import multiprocessing, subprocess, threading, tempfile\n\
                      t = threading.Thread(target=lambda: None); t.start(); t.join()\n\
                      subprocess.run(['true'], check=True)\n\
                      p = multiprocessing.get_context('fork').Process(target=int); p.start(); p.join()\n\
                      q = multiprocessing.get_context('spawn').Queue(); q.put(1); assert q.get() == 1\n\
                      print('ok')";
        let scripts: [(&str, &[&str]); 3] = [
            ("cc", &["-c", "cc -o a-c a.c && ./a-c"]),
            ("rustc", &["-c", "rustc -o a-rs a.rs && ./a-rs"]),
            ("python3", &["-c", &format!("python3 -c \"{python}\"")]),
        ];
        for (tool, script) in scripts {
            let there =
                Command::new("sh").args(["-c", &format!("command -v {tool} >/dev/null")]).status().unwrap();
            if !there.success() {
                eprintln!("SKIP {tool}: not on this machine");
                continue;
            }
            let output = Command::new("sh").args(script).current_dir(&path).output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{tool}: {:?}\n{errors}", output.status);
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "ok", "{tool}\n{errors}");
        }
    });
}
