//! K01 and K07: who the action is, and what it was told.

use crate::facts::Facts;
use crate::report::Report;
use crate::sys::{self, attempt};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

const CAPABILITY_SETS: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

/// K01.
pub fn clean(facts: &Facts, report: &mut Report) {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return report.broke("cannot read /proc/self/status");
    };
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).unwrap_or_default().to_string()
    };
    for (name, want) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
        let got = field(name);
        report.check(got != want, format!("{name} is {got}"));
    }
    for name in CAPABILITY_SETS {
        let got = field(name);
        report.check(u64::from_str_radix(&got, 16) != Ok(0), format!("{name} is {got}"));
    }
    ids(facts, report, &field("Uid"), &field("Gid"), &field("Groups"));
    for (file, zero) in [("uid_map", "outer_uid_of_zero"), ("gid_map", "outer_gid_of_zero")] {
        map(report, file, facts.number(zero).unwrap_or(0));
    }
    regain(report);
}

fn ids(facts: &Facts, report: &mut Report, uid: &str, gid: &str, groups: &str) {
    let all = |text: &str| text.split_whitespace().map(str::to_string).collect::<BTreeSet<_>>();
    let uids = all(uid);
    report.check(uids.len() != 1, format!("different uids: {uid}"));
    report.check(all(gid).len() != 1, format!("different gids: {gid}"));
    match facts.number("inside_uid") {
        Some(want) => report.check(!uids.contains(&want.to_string()), format!("uid is {uid} and not {want}")),
        None => report.check(uids.contains("0"), "uid is 0"),
    }
    let allowed: BTreeSet<String> = match facts.list("groups") {
        Some(list) => list.iter().map(|g| (*g).to_string()).collect(),
        None => all(gid),
    };
    for group in all(groups).difference(&allowed) {
        report.broke(format!("supplementary group {group}"));
    }
    report.held();
}

/// Broken if the map covers the parent's 0, unless that stands for someone else than the host's root.
fn map(report: &mut Report, file: &str, zero_is: u64) {
    let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    for line in text.lines() {
        let n: Vec<u64> = line.split_whitespace().filter_map(|w| w.parse().ok()).collect();
        let [inner, outer, count] = n[..] else { continue };
        let covers_zero = outer == 0 && count > 0;
        if covers_zero && zero_is != 0 {
            report.note(format!("{file} {inner} {outer} {count}: outer 0 is host id {zero_is}"));
            report.held();
        } else {
            report.check(covers_zero, format!("{file} maps the outer 0: {inner} {outer} {count}"));
        }
        report.check(count > 1, format!("{file} maps {count} ids"));
    }
    let setgroups = std::fs::read_to_string("/proc/self/setgroups").unwrap_or_default();
    report.note(format!("setgroups {}", setgroups.trim()));
}

fn regain(report: &mut Report) {
    let zero = [0u32];
    let eperm = [libc::EPERM, libc::EINVAL, libc::ENOSYS];
    let own = u64::from(effective_uid());
    // With an own uid of 0 this is no raise; the uid itself is judged above.
    if own != 0 {
        report.refused("setresuid(0)", &attempt(|| sys::call(libc::SYS_setresuid, &[0, 0, 0])), &eperm);
        report.refused("setresgid(0)", &attempt(|| sys::call(libc::SYS_setresgid, &[0, 0, 0])), &eperm);
    }
    let groups = attempt(|| sys::call(libc::SYS_setgroups, &[1, zero.as_ptr() as u64]));
    report.refused("setgroups([0])", &groups, &eperm);
    let header = [0x2008_0522u32, 0];
    let data = [u32::MAX; 6];
    let raise = attempt(|| sys::call(libc::SYS_capset, &[header.as_ptr() as u64, data.as_ptr() as u64]));
    report.refused("capset(all)", &raise, &eperm);
    let prctl = |option: i32, args: [u64; 3]| {
        attempt(move || sys::call(libc::SYS_prctl, &[option as u64, args[0], args[1], args[2], 0]))
    };
    let raised = prctl(libc::PR_CAP_AMBIENT, [libc::PR_CAP_AMBIENT_RAISE as u64, 21, 0]);
    report.refused("ambient CAP_SYS_ADMIN", &raised, &eperm);
    report.refused("unset no_new_privs", &prctl(libc::PR_SET_NO_NEW_PRIVS, [0, 0, 0]), &eperm);
    report.refused("PR_SET_SECUREBITS", &prctl(libc::PR_SET_SECUREBITS, [0x3f, 0, 0]), &eperm);
    for capability in 0..=40u64 {
        let bounded = sys::call(libc::SYS_prctl, &[libc::PR_CAPBSET_READ as u64, capability]);
        report.check(bounded == Ok(1), format!("capability {capability} in the bounding set"));
    }
}

/// The effective uid.
pub fn effective_uid() -> u32 {
    // SAFETY: geteuid has no preconditions.
    unsafe { libc::geteuid() }
}

/// K07.
pub fn environment(facts: &Facts, report: &mut Report) {
    let Some(expected) = facts.list("expected_env") else { return report.skip("no fact expected_env") };
    let want: BTreeSet<&OsStr> = expected.iter().map(OsStr::new).collect();
    let got: BTreeSet<&OsStr> = facts.start.environment.iter().map(|v| v.as_os_str()).collect();
    for extra in got.difference(&want) {
        report.broke(format!("undeclared {}", extra.to_string_lossy()));
    }
    for missing in want.difference(&got) {
        report.broke(format!("missing {}", missing.to_string_lossy()));
    }
    report.check(facts.start.environment.len() != got.len(), "a variable is there twice");
    let parsed = std::env::vars_os().map(|(k, v)| [k.as_bytes(), b"=", v.as_bytes()].concat());
    let parsed: BTreeSet<Vec<u8>> = parsed.collect();
    for odd in got.iter().filter(|v| !parsed.contains(v.as_bytes())) {
        report.note(format!("not NAME=VALUE: {}", odd.to_string_lossy()));
    }
}
