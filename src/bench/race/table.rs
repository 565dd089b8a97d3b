//! What races came to, for people.
use crate::bench::Report;
use crate::bench::report::CaseReport;
use std::fmt::Write;

/// A table for each condition.
#[must_use]
pub fn table(report: &Report) -> String {
    let mut text = format!("{}\n", report.host);
    let mut shown = None;
    for case in &report.cases {
        if case.name == "abort" {
            abort(&mut text, case);
            continue;
        }
        if shown != Some(&case.params) {
            shown = Some(&case.params);
            let param = |key: &str| case.params.get(key).map_or("", String::as_str);
            let (condition, files) = (param("condition"), param("files"));
            let (jobs, sides) = (param("jobs"), param("sides"));
            let _ = writeln!(text, "\n{condition}: {files}, {jobs} at a time, {sides}");
            let head = [
                "wall s",
                "×",
                "here",
                "there",
                "hits",
                "raced",
                "CPU s",
                "excess s",
                "losers s",
                "of always",
            ];
            let _ = write!(text, "{:<12}", "policy");
            head.iter().for_each(|head| {
                let _ = write!(text, " {head:>9}");
            });
            text.push('\n');
        }
        row(&mut text, case);
    }
    text.push_str(
        "\n× the better of local-only and remote-only in the same round. Excess: CPU time of both sides beyond the\n\
         cheaper of these two. Losers: CPU time in sandboxes that no answer has, and as a share of that of always\n\
         racing; where nobody can lose, it is that of the sandboxes' inits.\n",
    );
    text
}

fn row(text: &mut String, case: &CaseReport) {
    if let (Some(error), 0) = (&case.error, case.n) {
        let _ = writeln!(text, "{:<12} failed: {error}", case.name);
        return;
    }
    let _ = write!(text, "{:<12}", case.name);
    let columns = [
        ("wall_s", 2),
        ("ratio_wall", 2),
        ("local_wins", 0),
        ("remote_wins", 0),
        ("remote_hits", 0),
        ("raced", 0),
        ("cpu_s", 2),
        ("excess_cpu_s", 2),
        ("losers_cpu_s", 2),
        ("ratio_losers", 2),
    ];
    for (name, decimals) in columns {
        let value = case.parts.get(name).map_or("-".to_owned(), |value| format!("{value:.decimals$}"));
        let _ = write!(text, " {value:>9}");
    }
    if let Some(error) = &case.error {
        let _ = write!(text, "  failed once: {error}");
    }
    text.push('\n');
}

fn abort(text: &mut String, case: &CaseReport) {
    let ms = |value: Option<f64>| value.map_or(0.0, |value| value / 1000.0);
    let part = |name: &str| case.parts.get(name).copied();
    let param = |key: &str| case.params.get(key).map_or("", String::as_str);
    let (processes, doing) = (param("processes"), param("doing"));
    let _ = writeln!(
        text,
        "\nabort: remote claims against {} losers of {processes} {doing} processes each\n  \
         until published: p50 {:.2} ms, p99 {:.2} ms; until the loser was quiet: p50 {:.1} ms, p99 {:.1} ms",
        case.n,
        ms(part("published_p50_us")),
        ms(part("published_p99_us")),
        ms(case.p50_us),
        ms(case.p99_us),
    );
}
