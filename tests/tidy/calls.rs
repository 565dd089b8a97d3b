//! Banned calls, each with what to write in its place.

use std::ops::RangeInclusive;

use crate::lexer::Token;
use crate::rule::{Finding, Rule, sample};
use crate::shape;
use crate::source::{File, Rust, Tree};

/// Where a ban holds.
enum Where {
    /// In everything but tests.
    OutsideTests,
    /// In tests only.
    InTests,
    Everywhere,
}

/// A sequence of tokens that must not stand in code.
struct Ban {
    tokens: &'static [&'static str],
    holds: Where,
    /// Places that are exempt.
    except: &'static [&'static str],
    /// The clippy lint whose written waiver (`#[expect(clippy::…, reason = "…")]`) is honored.
    waiver: Option<&'static str>,
    instead: &'static str,
}

const PROCESS_STARTERS: &[&str] =
    &["src/bench/", "src/demo/", "src/cli/reexec.rs", "src/cli/bench/", "src/cli/demo/"];
const CLOCK_READERS: &[&str] = &[
    "src/exec/sandboxed.rs",
    "src/main.rs",
    "src/cli/",
    "src/observe/",
    "src/bench/",
    "src/demo/",
    "src/race/drive.rs",
    "src/serve/drive.rs",
];

const USE_THE_ZYGOTE: &str = "use the zygote: a daemon with threads and open files must not fork";
const RETURN_AN_ERROR: &str = "return an error that says what was tried and on what; where it cannot fail, \
                               `#[expect(clippy::…, reason = \"…\")]`";
const JOIN_IT: &str = "spawn into the bounded JoinSet of the caller, so that shutdown can wait for it";
const TAKE_THE_TIME: &str = "take the time as an argument; only `cli`, `observe` and drivers read the clock";
const AWAIT_THE_EVENT: &str =
    "wait for the event itself: a pipe, a pidfd, `cgroup.events`, a barrier, a paused clock";
const USE_A_DESCRIPTOR: &str = "open the directory and resolve beneath it: other threads resolve paths too";
const BOUND_IT: &str = "use a bounded channel, its bound in `limits.rs` with the reason";
const FINISH_IT: &str = "write it, or leave it out and say so in CHANGELOG.md";

const fn ban(tokens: &'static [&'static str], holds: Where, instead: &'static str) -> Ban {
    Ban { tokens, holds, except: &[], waiver: None, instead }
}

const BANS: &[Ban] = &[
    Ban {
        except: PROCESS_STARTERS,
        ..ban(&["process", "::", "Command"], Where::OutsideTests, USE_THE_ZYGOTE)
    },
    Ban { except: PROCESS_STARTERS, ..ban(&["process", "::", "*"], Where::OutsideTests, USE_THE_ZYGOTE) },
    ban(&["tokio", "::", "spawn"], Where::OutsideTests, JOIN_IT),
    ban(&["task", "::", "spawn"], Where::OutsideTests, JOIN_IT),
    Ban { waiver: Some("unwrap_used"), ..ban(&[".", "unwrap", "("], Where::OutsideTests, RETURN_AN_ERROR) },
    Ban { waiver: Some("expect_used"), ..ban(&[".", "expect", "("], Where::OutsideTests, RETURN_AN_ERROR) },
    Ban { except: CLOCK_READERS, ..ban(&["SystemTime", "::", "now"], Where::OutsideTests, TAKE_THE_TIME) },
    Ban { except: &["tests/fakes/"], ..ban(&["thread", "::", "sleep"], Where::InTests, AWAIT_THE_EVENT) },
    Ban { except: &["tests/fakes/"], ..ban(&["time", "::", "sleep"], Where::InTests, AWAIT_THE_EVENT) },
    ban(&["env", "::", "set_current_dir"], Where::OutsideTests, USE_A_DESCRIPTOR),
    ban(&["unbounded_channel"], Where::Everywhere, BOUND_IT),
    ban(&["todo", "!"], Where::Everywhere, FINISH_IT),
    ban(&["unimplemented", "!"], Where::Everywhere, FINISH_IT),
    ban(&["dbg", "!"], Where::Everywhere, "remove it, or record a span field"),
];

pub fn rules() -> Vec<Rule> {
    vec![banned_call(), unfinished_mark()]
}

fn banned_call() -> Rule {
    let in_a_function = |path: &str, body: &str| sample(path, &format!("fn f() {{\n    {body}\n}}\n"));
    let waived = "#[expect(clippy::expect_used, reason = \"a literal\")]\n    let a = b.expect(\"a digit\");";
    let unwaived = "#[expect(clippy::expect_used)]\n    let a = b.expect(\"a digit\");";
    Rule {
        name: "banned-call",
        check: no_banned_calls,
        bad: vec![
            in_a_function("src/exec/local.rs", "std::process::Command::new(\"cc\");"),
            sample("sandbox/src/ns.rs", "use std::process::{\n    Command,\n    Stdio,\n};"),
            sample("src/stage.rs", "use std::{fs, process::{Command, exit}};"),
            in_a_function("src/serve/door.rs", "tokio::spawn(g());"),
            in_a_function("src/cas/read.rs", "g().unwrap();"),
            in_a_function("src/cas/read.rs", "g()\n        .expect(\"x\");"),
            in_a_function("src/cas/read.rs", unwaived),
            in_a_function("src/race/step.rs", "std::time::SystemTime::now();"),
            in_a_function("tests/it/kill.rs", "std::thread::sleep(a);"),
            sample("src/pool.rs", "#[cfg(test)]\nmod tests { fn f() { std::thread::sleep(a); } }"),
            in_a_function("src/serve/door.rs", "mpsc::unbounded_channel();"),
            in_a_function("src/cli/run.rs", "std::env::set_current_dir(a);"),
            in_a_function("tests/it/kill.rs", concat!("to", "do!();")),
            in_a_function("src/a.rs", concat!("unimple", "mented!(\"x\");")),
            in_a_function("src/a.rs", "dbg!(x);"),
        ],
        good: vec![
            in_a_function("tests/it/kill.rs", "std::process::Command::new(\"cc\").spawn().unwrap();"),
            in_a_function("src/bench/floor.rs", "std::process::Command::new(\"cc\");"),
            in_a_function(
                "src/main.rs",
                "std::process::exit(1); clap::Command::new(\"x\"); Command::new(x);",
            ),
            in_a_function("src/cas/read.rs", "g().unwrap_or(0); g().expect_err_like(); // .unwrap()"),
            in_a_function("src/cas/read.rs", waived),
            in_a_function("src/cli/run.rs", "SystemTime::now();"),
            in_a_function("sandbox/src/pool.rs", "std::thread::sleep(a);"),
            in_a_function("tests/fakes/sleeper.rs", "std::thread::sleep(a);"),
            sample("src/pool.rs", "#[cfg(test)]\nmod tests { fn f() { g().unwrap(); } }"),
        ],
    }
}

fn unfinished_mark() -> Rule {
    let mark = concat!("FIX", "ME");
    let crosses = concat!("X", "XX");
    Rule {
        name: "unfinished-mark",
        check: no_unfinished_marks,
        bad: vec![
            sample("src/a.rs", &format!("// {mark}: later\n")),
            sample("tests/a.rs", &format!("fn f() {{}} /* {crosses} */\n")),
        ],
        good: vec![
            sample(
                "src/a.rs",
                &format!("/// Like mkstemp's {crosses}{crosses}.\nconst A: &str = \"{mark}\";\n"),
            ),
            sample("README.md", mark),
        ],
    }
}

fn no_banned_calls(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, rust) in tree.rust() {
        let bans: Vec<&Ban> = BANS.iter().filter(|ban| !file.is_in(ban.except)).collect();
        let waived = waived_lines(rust);
        for at in 0..rust.tokens.len() {
            let line = rust.tokens[at].line;
            for ban in bans.iter().filter(|ban| stands(rust, at, ban.tokens)) {
                let is_waived =
                    waived.iter().any(|(lint, lines)| ban.waiver == Some(*lint) && lines.contains(&line));
                if holds(ban, rust, line) && !is_waived {
                    findings.push(finding(file, line, ban));
                }
            }
        }
    }
    findings
}

fn finding(file: &File, line: usize, ban: &Ban) -> Finding {
    let call = ban.tokens.concat();
    Finding::new("banned-call", file, line, format!("`{call}` is banned here"), ban.instead)
}

fn holds(ban: &Ban, rust: &Rust, line: usize) -> bool {
    match ban.holds {
        Where::OutsideTests => !rust.is_test(line),
        Where::InTests => rust.is_test(line),
        Where::Everywhere => true,
    }
}

/// Whether the tokens stand at `at`, or, for a path, whether its last name stands in a group: `a::{b, c}`.
fn stands(rust: &Rust, at: usize, wanted: &[&str]) -> bool {
    if rust.stands(at, wanted) {
        return true;
    }
    let [head @ .., "::", name] = wanted else { return false };
    let open = at + head.len() + 1;
    if !rust.stands(at, head) || !rust.stands(at + head.len(), &["::", "{"]) {
        return false;
    }
    rust.tokens[open..shape::closing(&rust.tokens, open)].iter().any(|token| token.text == *name)
}

/// The lines over which a lint is waived in writing.
fn waived_lines(rust: &Rust) -> Vec<(&'static str, RangeInclusive<usize>)> {
    let lines = |matches| shape::spans_under(&rust.tokens, matches).into_iter();
    let unwraps = lines(|contents| waives(contents, "unwrap_used")).map(|span| ("unwrap_used", span));
    let expects = lines(|contents| waives(contents, "expect_used")).map(|span| ("expect_used", span));
    unwraps.chain(expects).collect()
}

fn waives(contents: &[Token], lint: &str) -> bool {
    let has = |word: &str| contents.iter().any(|token| token.text == word);
    (has("expect") || has("allow")) && has(lint) && has("reason")
}

fn no_unfinished_marks(tree: &Tree) -> Vec<Finding> {
    let marks = [concat!("FIX", "ME"), concat!("X", "XX")];
    let mut findings = Vec::new();
    for (file, rust) in tree.rust() {
        for (line, comment) in rust.comments.iter().enumerate() {
            let mut words = comment.split(|char: char| !char.is_alphanumeric() && char != '_');
            if words.any(|word| marks.contains(&word)) {
                let what = "a comment marks unfinished work";
                findings.push(Finding::new("unfinished-mark", file, line, what, FINISH_IT));
            }
        }
    }
    findings
}
