//! A hostile action: attacks the sandbox that it runs in and says, case by case, what came of it.
//!
//! `fulgurite-hostile --facts FILE CASE…|all` prints one line `CASE VERDICT detail` for each case. See README.md beside
//! this file for the table and the facts.
#![allow(unsafe_code)]

mod facts;
mod fs;
mod kernel;
mod ns;
mod report;
mod resources;
mod sys;
mod walk;

use facts::{Facts, Start};
use report::{Case, Mode, Verdict};
use std::path::Path;

const USAGE: &str = "usage: fulgurite-hostile [--facts FILE] CASE...|CLASS...|all
       fulgurite-hostile --list

CASE   an id of the table; R04 selects R04-memfd, R04-tmpfs and so on
CLASS  F, N, K: all cases of that letter; R: those resource cases that come back
all    F, N and K

exit: 0 every case held or was skipped, 1 some broke, 3 usage
";

fn main() {
    let start = Start::capture();
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    let code = match parse(&arguments) {
        Ok(Request::List) => {
            sys::say(1, &list());
            0
        }
        Ok(Request::Run { facts, cases }) => {
            let facts = match facts {
                Some(path) => Facts::read(Path::new(&path), start),
                None => Ok(Facts::none(start)),
            };
            match facts.and_then(|f| not_on_the_host().map(|()| f)) {
                Ok(facts) => run(&facts, &cases),
                Err(why) => refuse(&why),
            }
        }
        Err(why) => refuse(&why),
    };
    std::process::exit(code);
}

enum Request {
    List,
    Run { facts: Option<String>, cases: Vec<&'static Case> },
}

fn parse(arguments: &[String]) -> Result<Request, String> {
    let mut facts = None;
    let mut cases = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--list" => return Ok(Request::List),
            "--facts" => facts = Some(rest.next().ok_or("--facts needs a file")?.clone()),
            flag if flag.starts_with('-') => return Err(format!("unknown option {flag}")),
            name => cases.extend(select(name)?),
        }
    }
    if cases.is_empty() { Err("no case given".to_string()) } else { Ok(Request::Run { facts, cases }) }
}

fn table() -> impl Iterator<Item = &'static Case> {
    fs::CASES.iter().chain(ns::CASES).chain(kernel::CASES).chain(resources::CASES)
}

fn select(name: &str) -> Result<Vec<&'static Case>, String> {
    let prefix = format!("{name}-");
    let found: Vec<&Case> = match name {
        "all" => table().filter(|c| c.mode == Mode::Probe).collect(),
        "F" | "N" | "K" => table().filter(|c| c.id.starts_with(name)).collect(),
        "R" => table().filter(|c| c.mode == Mode::Bomb).collect(),
        _ => table().filter(|c| c.id == name || c.id.starts_with(&prefix)).collect(),
    };
    if found.is_empty() { Err(format!("no case {name}")) } else { Ok(found) }
}

fn list() -> String {
    let mode = |m| match m {
        Mode::Probe => "all",
        Mode::Bomb => "R",
        Mode::Doom | Mode::Inline => "by name",
    };
    table().map(|c| format!("{:<11} {:<8} {} => {}\n", c.id, mode(c.mode), c.what, c.expect)).collect()
}

fn run(facts: &Facts, cases: &[&Case]) -> i32 {
    let mut broken = false;
    for case in cases {
        broken |= report::run(case, facts) == Verdict::Broken;
    }
    i32::from(broken)
}

fn refuse(why: &str) -> i32 {
    sys::say(2, &format!("fulgurite-hostile: {why}\n{USAGE}"));
    3
}

/// With the capabilities of the initial user namespace the attacks would hit the machine and not a sandbox.
fn not_on_the_host() -> Result<(), String> {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let whole = map.split_whitespace().collect::<Vec<_>>() == ["0", "0", "4294967295"];
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let caps = status.lines().find_map(|l| l.strip_prefix("CapEff:")).map(str::trim).unwrap_or_default();
    let capable = u64::from_str_radix(caps, 16).is_ok_and(|c| c != 0);
    match whole && capable {
        true => Err("refusing to attack with the host's own capabilities: run it in a sandbox, or as nobody"
            .to_string()),
        false => Ok(()),
    }
}
