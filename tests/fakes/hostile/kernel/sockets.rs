//! K03: socket families.

use crate::facts::Facts;
use crate::report::Report;
use crate::sys::{self, Attempt, attempt};
use std::os::fd::AsRawFd;

const FAMILIES: &[(&str, u64)] = &[
    ("AX25", 3),
    ("IPX", 4),
    ("APPLETALK", 5),
    ("NETROM", 6),
    ("BRIDGE", 7),
    ("ATMPVC", 8),
    ("X25", 9),
    ("ROSE", 11),
    ("KEY", 15),
    ("PACKET", 17),
    ("ATMSVC", 20),
    ("RDS", 21),
    ("LLC", 26),
    ("IB", 27),
    ("CAN", 29),
    ("TIPC", 30),
    ("BLUETOOTH", 31),
    ("IUCV", 32),
    ("RXRPC", 33),
    ("PHONET", 35),
    ("IEEE802154", 36),
    ("CAIF", 37),
    ("ALG", 38),
    ("NFC", 39),
    ("VSOCK", 40),
    ("KCM", 41),
    ("QIPCRTR", 42),
    ("SMC", 43),
    ("XDP", 44),
    ("MCTP", 45),
];

const NETLINK: &[(&str, u64)] = &[
    ("USERSOCK", 2),
    ("SOCK_DIAG", 4),
    ("XFRM", 6),
    ("SELINUX", 7),
    ("AUDIT", 9),
    ("CONNECTOR", 11),
    ("NETFILTER", 12),
    ("KOBJECT_UEVENT", 15),
    ("GENERIC", 16),
    ("CRYPTO", 21),
];

const KINDS: [u64; 4] =
    [libc::SOCK_STREAM as u64, libc::SOCK_DGRAM as u64, libc::SOCK_RAW as u64, libc::SOCK_SEQPACKET as u64];

/// K03.
pub fn families(_facts: &Facts, report: &mut Report) {
    for &(name, family) in FAMILIES {
        for kind in KINDS {
            let result = socket(family, kind, 0);
            report.refused(&format!("socket({name}, {kind})"), &result, &[libc::EAFNOSUPPORT]);
        }
    }
    // The kernel takes an int; a filter that compares 64 bits can be told a different story.
    let alg_high = socket((1 << 32) | 38, libc::SOCK_SEQPACKET as u64, 0);
    report.refused("socket(ALG with high bits)", &alg_high, &[libc::EAFNOSUPPORT]);
    let raw = libc::SOCK_RAW as u64;
    for &(name, protocol) in NETLINK {
        for high in [0, 1u64 << 32] {
            let result = socket(16, raw, protocol | high);
            let allowed = [libc::EAFNOSUPPORT, libc::EPROTONOSUPPORT];
            report.refused(&format!("socket(NETLINK {name}, high {high:#x})"), &result, &allowed);
        }
    }
    pairs(report);
    algorithms(report);
    wanted(report);
}

fn socket(family: u64, kind: u64, protocol: u64) -> Attempt {
    attempt(move || sys::call(libc::SYS_socket, &[family, kind, protocol]))
}

fn pairs(report: &mut Report) {
    for (name, family) in [("TIPC", 30u64), ("QIPCRTR", 42), ("RDS", 21)] {
        let mut ends = [0i32; 2];
        let place = ends.as_mut_ptr() as u64;
        let result =
            attempt(|| sys::call(libc::SYS_socketpair, &[family, libc::SOCK_STREAM as u64, 0, place]));
        report.refused(&format!("socketpair({name})"), &result, &[libc::EAFNOSUPPORT, libc::EOPNOTSUPP]);
    }
}

/// The interface behind CVE-2026-31431: if the socket opens, does the binding too?
fn algorithms(report: &mut Report) {
    let result = attempt(|| {
        let fd = sys::own(sys::call(libc::SYS_socket, &[38, libc::SOCK_SEQPACKET as u64, 0])?)?;
        let mut address = [0u8; 88];
        address[0] = 38;
        address[2..6].copy_from_slice(b"aead");
        address[24..40].copy_from_slice(b"authencesn(hmac(");
        sys::call(libc::SYS_bind, &[fd.as_raw_fd() as u64, address.as_ptr() as u64, 88])
    });
    report.refused("bind an AEAD of AF_ALG", &result, &[libc::EAFNOSUPPORT]);
}

/// The families that builds need. A refusal here is no hole.
fn wanted(report: &mut Report) {
    for (name, family) in [("UNIX", 1u64), ("INET", 2), ("INET6", 10)] {
        let result = socket(family, libc::SOCK_STREAM as u64, 0);
        if !matches!(result, Attempt::Did(_)) {
            report.note(format!("{name} is refused too: {}", result.text()));
        }
    }
    let route = socket(16, libc::SOCK_RAW as u64, 0);
    if !matches!(route, Attempt::Did(_)) {
        report.note(format!("NETLINK ROUTE is refused too: {}", route.text()));
    }
    for (name, family) in [("INET", 2u64), ("INET6", 10)] {
        let result = socket(family, libc::SOCK_RAW as u64, 255);
        report.fails(&format!("raw {name} socket"), &result);
    }
}
