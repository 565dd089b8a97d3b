//! Fences: where `unsafe` may stand, and which files may name which crate.

use crate::rule::{Finding, Rule, sample};
use crate::source::{File, Rust, Tree};

/// The only code that may say `unsafe`.
const UNSAFE_ALLOWED: &[&str] = &["sandbox/src/sys/", "sandbox/src/init/", "src/uring/"];

/// Test code that may: it plays the attacker, or talks to the kernel without the fence on purpose.
const UNSAFE_ALLOWED_IN_TESTS: &[&str] = &["tests/", "sandbox/tests/"];

/// A SAFETY comment stands at most this many lines above its `unsafe`.
const SAFETY_LINES_ABOVE: usize = 8;

/// Where messages of the wire may be named: the doors, and the files that translate.
const DOORS: &[&str] =
    &["src/serve/", "src/remote/", "src/join/", "proto/src/", "proto/build.rs", "proto/tests/"];

/// Files of `src/worker` that speak a worker's protocol.
const WORKER_WIRES: &[&str] = &["src/worker/bazel_proto/", "src/worker/bazel_json/", "src/worker/buck2/"];

/// A crate, and the only places that may name it.
struct Fence {
    names: &'static [&'static str],
    within: &'static [&'static [&'static str]],
    instead: &'static str,
}

const FENCES: &[Fence] = &[
    Fence {
        names: &["io_uring", "tokio_uring"],
        within: &[&["src/uring/"]],
        instead: "use the handle of `uring`: it is Send, and it can be replaced without touching its callers",
    },
    Fence {
        names: &["prost", "prost_types", "fulgurite_proto"],
        within: &[DOORS, WORKER_WIRES],
        instead: "take the domain type of `action`; messages are decoded at the door, in a file decode.rs or encode.rs",
    },
    Fence {
        names: &["tonic", "tonic_types"],
        within: &[DOORS, WORKER_WIRES],
        instead: "return a typed failure; a door turns it into a status",
    },
];

/// Words that the sandbox crate must not know, in any spelling of a name.
const UNKNOWN_TO_THE_SANDBOX: &[&str] = &["digest", "grpc", "tokio", "tonic", "prost", "async_std", "smol"];

pub fn rules() -> Vec<Rule> {
    vec![unsafe_rule(), safety_rule(), fence_rule(), sandbox_rule()]
}

fn unsafe_rule() -> Rule {
    Rule {
        name: "unsafe-fence",
        check: unsafe_only_behind_the_fence,
        bad: vec![
            sample("src/stage/a.rs", "fn f() { unsafe { g() } }"),
            sample("sandbox/src/zygote.rs", "unsafe fn f() {}"),
            sample("src/stage/a.rs", "#![allow(unsafe_code)]\n"),
            sample("src/stage/a.rs", "#[cfg(test)]\nmod tests {\n    // SAFETY: no.\n    unsafe {}\n}"),
        ],
        good: vec![
            sample("sandbox/src/sys/mount.rs", "#![allow(unsafe_code)]\nfn f() { unsafe { g() } }"),
            sample("sandbox/src/init.rs", "fn f() { unsafe { g() } }"),
            sample("tests/fakes/hostile.rs", "fn f() { unsafe { g() } }"),
            sample("src/stage/a.rs", "// unsafe\nconst A: &str = \"unsafe\"; #[deny(unsafe_code)] fn f() {}"),
        ],
    }
}

fn safety_rule() -> Rule {
    Rule {
        name: "safety-comment",
        check: unsafe_says_why,
        bad: vec![
            sample("sandbox/src/sys/a.rs", "fn f() {\n    unsafe { g() }\n}"),
            sample(
                "tests/fakes/a.rs",
                "// SAFETY: too far away.\n\n\n\n\n\n\n\n\n\nunsafe impl Send for A {}",
            ),
        ],
        good: vec![
            sample(
                "sandbox/src/sys/a.rs",
                "fn f() {\n    // SAFETY: g has no preconditions.\n    unsafe { g() }\n}",
            ),
            sample(
                "tests/fakes/a.rs",
                "/// # Safety\n/// Call once.\nunsafe fn f();\nunsafe extern \"C\" {}",
            ),
        ],
    }
}

fn fence_rule() -> Rule {
    Rule {
        name: "crate-fence",
        check: crates_stay_behind_their_fence,
        bad: vec![
            sample("src/cas/write.rs", "use io_uring::opcode;"),
            sample("sandbox/src/init/a.rs", "fn f() { tokio_uring::start(g) }"),
            sample("src/race/step.rs", "use fulgurite_proto::bazel;"),
            sample("src/commit/claim.rs", "fn f() -> tonic::Status { g() }"),
            sample("src/worker/requests.rs", "use prost::Message;"),
        ],
        good: vec![
            sample("src/uring/ring.rs", "use io_uring::opcode;"),
            sample("src/worker/bazel_proto.rs", "use prost::Message; use fulgurite_proto::bazel;"),
            sample("src/action/decode.rs", "use fulgurite_proto::bazel;"),
            sample(
                "sandbox/src/harden/table.rs",
                "/// io_uring\nconst A: &str = \"io_uring\"; use libc::SYS_io_uring_setup;",
            ),
            sample("tests/it/worker.rs", "use prost::Message;"),
        ],
    }
}

fn sandbox_rule() -> Rule {
    Rule {
        name: "sandbox-words",
        check: the_sandbox_knows_no_digest,
        bad: vec![
            sample("sandbox/src/spec.rs", "struct Root { blob_digest: u8 }"),
            sample("sandbox/src/spec.rs", "struct ActionDigest;"),
            sample("sandbox/src/pool.rs", "use tokio::sync;"),
            sample("sandbox/Cargo.toml", "[dependencies]\ntokio = \"1\"\n"),
        ],
        good: vec![
            sample("sandbox/src/lib.rs", "//! Knows no digest.\nstruct Root;"),
            sample("sandbox/Cargo.toml", "[dependencies]\nlibc = \"0.2\" # no tokio here\n"),
            sample("src/cas/write.rs", "struct BlobDigest;"),
        ],
    }
}

fn unsafe_only_behind_the_fence(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, rust) in tree.rust() {
        if file.is_in(UNSAFE_ALLOWED) || is_in_tests(file) {
            continue;
        }
        for (at, token) in rust.tokens.iter().enumerate() {
            let lifts = |word: &str| rust.stands(at, &[word, "(", "unsafe_code"]);
            if token.text == "unsafe" || lifts("allow") || lifts("expect") {
                let instead =
                    "add one short safe function to `sandbox::sys` that takes and gives descriptors";
                findings.push(Finding::new(
                    "unsafe-fence",
                    file,
                    token.line,
                    "`unsafe` outside the fence",
                    instead,
                ));
            }
        }
    }
    findings
}

fn is_in_tests(file: &File) -> bool {
    UNSAFE_ALLOWED_IN_TESTS.iter().any(|place| file.path.starts_with(place))
}

fn unsafe_says_why(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, rust) in tree.rust() {
        for (at, token) in rust.tokens.iter().enumerate() {
            let needs_reason = rust.stands(at, &["unsafe", "{"]) || rust.stands(at, &["unsafe", "impl"]);
            if needs_reason && !has_safety_above(rust, token.line) {
                let instead = "say in one sentence under `// SAFETY:` why this very call is sound";
                findings.push(Finding::new(
                    "safety-comment",
                    file,
                    token.line,
                    "`unsafe` without a reason",
                    instead,
                ));
            }
        }
    }
    findings
}

fn has_safety_above(rust: &Rust, line: usize) -> bool {
    let first = line.saturating_sub(SAFETY_LINES_ABOVE);
    rust.comments.iter().take(line + 1).skip(first).any(|comment| comment.contains("SAFETY:"))
}

fn crates_stay_behind_their_fence(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, rust) in tree.rust() {
        let translates =
            ["decode.rs", "encode.rs"].iter().any(|name| file.path.ends_with(&format!("/{name}")));
        for fence in FENCES {
            let is_uring = fence.names.contains(&"io_uring");
            let is_exempt = !is_uring && (translates || file.path.starts_with("tests/"));
            if is_exempt || fence.within.iter().any(|places| file.is_in(places)) {
                continue;
            }
            for token in rust.tokens.iter().filter(|token| fence.names.contains(&token.text.as_str())) {
                let what = format!("`{}` is named outside its fence", token.text);
                findings.push(Finding::new("crate-fence", file, token.line, what, fence.instead));
            }
        }
    }
    findings
}

fn the_sandbox_knows_no_digest(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut complain = |file: &File, line: usize, word: &str| {
        let what = format!("the sandbox crate names `{word}`");
        let instead = "keep the crate synchronous and content-blind; what knows this lives in the root crate";
        findings.push(Finding::new("sandbox-words", file, line, what, instead));
    };
    for file in tree.files.iter().filter(|file| file.path.starts_with("sandbox/")) {
        if let Some(rust) = &file.rust {
            for token in rust.tokens.iter().filter(|token| is_unknown_to_the_sandbox(&token.text)) {
                complain(file, token.line, &token.text);
            }
        } else if file.path == "sandbox/Cargo.toml" {
            for (index, line) in file.text.lines().enumerate() {
                let code = line.split('#').next().unwrap_or("");
                if is_unknown_to_the_sandbox(code) {
                    complain(file, index + 1, code.trim());
                }
            }
        }
    }
    findings
}

fn is_unknown_to_the_sandbox(name: &str) -> bool {
    // By the words of a name, so that `Monotonic` may be said.
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            words.push('_');
        }
        words.push(letter.to_ascii_lowercase());
    }
    UNKNOWN_TO_THE_SANDBOX.iter().any(|word| {
        words.split(|letter: char| !letter.is_alphanumeric()).any(|part| part == *word) || words == *word
    })
}
