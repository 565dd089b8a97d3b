//! The reviewed tables as text: one line a number. A change of any answer shows up as a diff of these files.
//!
//! `BLESS=1 cargo test -p fulgurite-sandbox golden` writes them anew; the diff is then what the reviewer
//! reads.

use fulgurite_sandbox::harden::seccomp::{Abi, Profile};
use std::fmt::Write as _;
use std::path::Path;

const NUMBERS: std::ops::RangeInclusive<u32> = 0..=520;

fn table(profile: &Profile, abi: Abi) -> String {
    let mut text = String::from("# number, name, answer, reason; written by BLESS=1, read by a reviewer\n");
    for number in NUMBERS {
        let rule = profile.rule(abi, number);
        let (name, answer) = (rule.name.unwrap_or("-"), rule.verdict.to_string());
        writeln!(text, "{number:>3}  {name:<28}{answer:<14}  # {}", rule.reason).unwrap();
    }
    text
}

fn check(file: &str, profile: &Profile, abi: Abi) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    let now = table(profile, abi);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let changed: Vec<String> = now
        .lines()
        .zip(golden.lines().chain(std::iter::repeat("(no line)")))
        .filter(|(now, golden)| now != golden)
        .map(|(now, golden)| format!("- {golden}\n+ {now}"))
        .collect();
    assert!(now == golden, "{file} differs; review, then run with BLESS=1\n{}", changed.join("\n"));
}

#[test]
fn golden_x86_64() {
    let profile = Profile { native: Abi::X86_64, allow_i386: false, allow_ptrace: true };
    check("seccomp-x86_64.txt", &profile, Abi::X86_64);
}

#[test]
fn golden_i386() {
    let profile = Profile { native: Abi::X86_64, allow_i386: true, allow_ptrace: true };
    check("seccomp-i386.txt", &profile, Abi::I386);
}

#[test]
fn golden_aarch64() {
    let profile = Profile { native: Abi::Aarch64, allow_i386: false, allow_ptrace: true };
    check("seccomp-aarch64.txt", &profile, Abi::Aarch64);
}
