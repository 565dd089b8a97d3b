//! Where io_uring is refused: by a seccomp filter, which is a thread's own and is inherited by the threads it starts.
#![allow(unsafe_code)]

use super::peers::{Talk, echo, frame, pipes};
use crate::uring::{Backend, Choice, Ipc, IpcError};

/// Has `io_uring_setup` fail with this number in this thread and in those that it starts.
fn refuse(number: i32) {
    let statement =
        |code: u32, k: u32| libc::sock_filter { code: u16::try_from(code).unwrap(), jt: 0, jf: 0, k };
    let returns = libc::BPF_RET | libc::BPF_K;
    let mut filter = [
        // The system call's number stands first.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            jf: 1,
            ..statement(
                libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                u32::try_from(libc::SYS_io_uring_setup).unwrap(),
            )
        },
        statement(returns, libc::SECCOMP_RET_ERRNO | u32::try_from(number).unwrap()),
        statement(returns, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: prctl reads no memory for this option.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
    // SAFETY: the program and its filter live until the call has returned; the kernel copies them.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) }, 0);
}

fn check(number: i32, part: &'static str) {
    let refused = std::thread::spawn(move || {
        refuse(number);
        let error = Ipc::start(Choice::Uring).unwrap_err();
        assert!(matches!(error, IpcError::Refused { .. }) && error.hint().is_some(), "{error}");
        assert!(error.to_string().contains(part), "{error}");
        let ipc = Ipc::start(Choice::Auto).unwrap();
        assert_eq!(ipc.backend(), Backend::Epoll);
        assert!(ipc.fallback().unwrap().contains(part), "{:?}", ipc.fallback());
        let (reader, writer, worker) = pipes();
        let talk = Talk::open(&ipc, reader, writer);
        let peer = echo(worker.stdin, worker.stdout);
        talk.channel.send(frame(b"all the same")).unwrap();
        assert_eq!(talk.message(), b"all the same");
        drop(talk);
        peer.join().unwrap();
    });
    refused.join().unwrap();
}

#[test]
fn by_a_filter_that_forbids() {
    check(
        libc::EPERM,
        if std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").is_ok_and(|text| text.trim() != "0")
        {
            "kernel.io_uring_disabled"
        } else {
            "seccomp"
        },
    );
}

#[test]
fn by_a_filter_that_denies_its_existence() {
    check(libc::ENOSYS, "no io_uring");
}

#[test]
fn epoll_by_choice_is_no_fallback() {
    let ipc = Ipc::start(Choice::Epoll).unwrap();
    assert_eq!((ipc.backend(), ipc.fallback(), ipc.backend().name()), (Backend::Epoll, None, "epoll"));
}
