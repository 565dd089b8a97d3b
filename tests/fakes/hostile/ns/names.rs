//! N12: host and domain name.

use crate::facts::Facts;
use crate::report::Report;
use crate::sys::{self, attempt};

const REFUSALS: [i32; 3] = [libc::EPERM, libc::ENOSYS, libc::ENOSPC];

/// N12.
pub fn fixed(facts: &Facts, report: &mut Report) {
    let read = |name: &str| {
        let path = format!("/proc/sys/kernel/{name}");
        std::fs::read_to_string(path).unwrap_or_default().trim().to_string()
    };
    for (name, expected, host) in
        [("hostname", "hostname", "host_hostname"), ("domainname", "domainname", "host_domainname")]
    {
        let value = read(name);
        match facts.get(expected) {
            Some(want) => report.check(value != want, format!("{name} is {value} and not {want}")),
            None => report.note(format!("{name} is {value}, no fact {expected}")),
        }
        if let Some(host) = facts.get(host).filter(|h| *h != "(none)") {
            report.check(value == host, format!("{name} {value} is the host's"));
        }
    }
    let text = c"hostile";
    for (name, number) in [("sethostname", libc::SYS_sethostname), ("setdomainname", libc::SYS_setdomainname)]
    {
        let result = attempt(|| sys::call(number, &[text.as_ptr() as u64, 7]));
        report.refused(name, &result, &REFUSALS);
        let nested = attempt(|| {
            let flags = (libc::CLONE_NEWUSER | libc::CLONE_NEWUTS) as u64;
            sys::call(libc::SYS_unshare, &[flags])?;
            sys::call(number, &[text.as_ptr() as u64, 7])
        });
        report.refused(&format!("{name} in a nested namespace"), &nested, &REFUSALS);
    }
    for name in ["hostname", "domainname"] {
        let opened = sys::open(format!("/proc/sys/kernel/{name}"), libc::O_WRONLY);
        report.check(opened.is_ok(), format!("/proc/sys/kernel/{name} opens for writing"));
    }
    // SAFETY: gethostid has no preconditions.
    let id = unsafe { libc::gethostid() };
    report.note(format!("hostid {id:#x}"));
}
