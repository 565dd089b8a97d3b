//! What a case is, and how its findings become one line.

use crate::facts::Facts;
use crate::sys::{self, Attempt};

/// Findings shown on the line; the rest is counted.
const SHOWN: usize = 16;

/// How a case runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In a child with a time limit; part of `all`.
    Probe,
    /// In a child with a time limit; consumes resources, comes back, part of `R` but not of `all`. Says `started`.
    Bomb,
    /// As `Bomb`, but may well be killed, the whole sandbox with it: by name only.
    Doom,
    /// In the first process itself, and by name only.
    Inline,
}

/// One row of the table.
pub struct Case {
    /// Its id in the catalog, with a suffix where one row has several cases.
    pub id: &'static str,
    /// What the attack does.
    pub what: &'static str,
    /// What must come of it.
    pub expect: &'static str,
    /// How it runs.
    pub mode: Mode,
    /// The attack.
    pub run: fn(&Facts, &mut Report),
}

/// The result of a case.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The attack failed as expected.
    Held,
    /// It got through, or could not be finished, which proves nothing and so counts the same.
    Broken,
    /// Not applicable.
    Skipped,
}

impl Verdict {
    /// The word on the line.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Held => "held",
            Verdict::Broken => "broken",
            Verdict::Skipped => "skipped",
        }
    }

    /// The verdict that a word stands for.
    pub fn of(word: &str) -> Option<Verdict> {
        [Verdict::Held, Verdict::Broken, Verdict::Skipped].into_iter().find(|v| v.word() == word)
    }
}

/// What a case found out while it ran.
#[derive(Default)]
pub struct Report {
    tried: usize,
    broken: Vec<String>,
    notes: Vec<String>,
    skip: Option<String>,
}

impl Report {
    /// Counts an attempt that failed as it should.
    pub fn held(&mut self) {
        self.tried += 1;
    }

    /// An attempt that got through.
    pub fn broke(&mut self, what: impl Into<String>) {
        self.tried += 1;
        self.broken.push(what.into());
    }

    /// Broken if `through`, held otherwise.
    pub fn check(&mut self, through: bool, what: impl Into<String>) {
        if through {
            self.broke(what);
        } else {
            self.held();
        }
    }

    /// Something worth reading that decides nothing.
    pub fn note(&mut self, what: impl Into<String>) {
        let what = what.into();
        if !self.notes.contains(&what) {
            self.notes.push(what);
        }
    }

    /// The case does not apply; only used if nothing was tried.
    pub fn skip(&mut self, why: impl Into<String>) {
        self.skip = Some(why.into());
    }

    /// An attempt that must end in one of `allowed` or in SIGSYS.
    pub fn refused(&mut self, what: &str, attempt: &Attempt, allowed: &[i32]) {
        let fine = match attempt {
            Attempt::Errno(e) => allowed.contains(e),
            Attempt::Signal(s) => *s == libc::SIGSYS,
            Attempt::Did(_) | Attempt::Hung => false,
        };
        self.check(!fine, format!("{what}: {}", attempt.text()));
    }

    /// An attempt that must not succeed; with which errno it fails does not matter.
    pub fn fails(&mut self, what: &str, attempt: &Attempt) {
        let fine = matches!(attempt, Attempt::Errno(_) | Attempt::Signal(libc::SIGSYS));
        self.check(!fine, format!("{what}: {}", attempt.text()));
    }

    /// The verdict and the one-line detail.
    pub fn finish(self) -> (Verdict, String) {
        let notes =
            if self.notes.is_empty() { String::new() } else { format!("; note: {}", clip(&self.notes)) };
        if !self.broken.is_empty() {
            return (
                Verdict::Broken,
                format!("{} of {}: {}{notes}", self.broken.len(), self.tried, clip(&self.broken)),
            );
        }
        if self.tried == 0 {
            let why = self.skip.unwrap_or_else(|| "nothing to attack".to_string());
            return (Verdict::Skipped, format!("{why}{notes}"));
        }
        let skip = self.skip.map(|w| format!("; skipped part: {w}")).unwrap_or_default();
        (Verdict::Held, format!("{} refused{skip}{notes}", self.tried))
    }
}

/// Runs one case, prints its line, and returns the verdict.
pub fn run(case: &Case, facts: &Facts) -> Verdict {
    if case.mode != Mode::Probe {
        sys::say(1, &format!("{} started\n", case.id));
    }
    let (verdict, detail) = match case.mode {
        Mode::Inline => {
            let mut report = Report::default();
            (case.run)(facts, &mut report);
            report.finish()
        }
        Mode::Probe | Mode::Bomb | Mode::Doom => in_child(case, facts),
    };
    let line = format!("{} {} {}\n", case.id, verdict.word(), one_line(&detail));
    // A case that floods stdout cannot be heard there.
    sys::say(if case.id == "R09" { 2 } else { 1 }, &line);
    verdict
}

fn in_child(case: &Case, facts: &Facts) -> (Verdict, String) {
    let seconds = if case.mode == Mode::Probe { 120 } else { 180 };
    let end = sys::in_child(seconds, || {
        let mut report = Report::default();
        (case.run)(facts, &mut report);
        let (verdict, detail) = report.finish();
        format!("{} {detail}", verdict.word()).into_bytes()
    });
    match end {
        sys::End::Said(bytes) => {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            match text.split_once(' ').and_then(|(w, d)| Some((Verdict::of(w)?, d))) {
                Some((verdict, detail)) => (verdict, detail.to_string()),
                None => (Verdict::Broken, "inconclusive: the case ended without a word".to_string()),
            }
        }
        sys::End::Signal(s) if case.mode == Mode::Doom && s == libc::SIGKILL => {
            (Verdict::Held, "killed, as expected of a limit".to_string())
        }
        sys::End::Signal(s) => (Verdict::Broken, format!("inconclusive: the case died of signal {s}")),
        sys::End::Hung => (Verdict::Broken, format!("inconclusive: no end after {seconds} s")),
        sys::End::NoFork(e) => (Verdict::Broken, format!("inconclusive: fork: {}", sys::errname(e))),
    }
}

fn clip(items: &[String]) -> String {
    let shown = items.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    let rest = items.len().saturating_sub(SHOWN);
    if rest == 0 { shown } else { format!("{shown}; and {rest} more") }
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
