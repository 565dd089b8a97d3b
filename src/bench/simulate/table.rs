//! The simulation's findings, for people.
use crate::bench::Report;
use std::fmt::Write;

/// A table for each condition.
#[must_use]
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    let mut shown = None;
    for case in &report.cases {
        if shown != Some(&case.params) {
            shown = Some(&case.params);
            let params: Vec<String> =
                case.params.iter().map(|(key, value)| format!("{key} {value}")).collect();
            let _ = writeln!(text, "\n{}", params.join(", "));
            let _ = writeln!(
                text,
                "{:<12} {:>9} {:>10} {:>10} {:>7} {:>12} {:>12} {:>8} {:>8} {:>8}",
                "policy",
                "actions",
                "wall s",
                "slowest",
                "×",
                "wasted here",
                "wasted there",
                "here",
                "there",
                "raced"
            );
        }
        let part = |name: &str| case.parts.get(name).copied();
        let shown = |name: &str, decimals: usize| {
            part(name).map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
        };
        let _ = writeln!(
            text,
            "{:<12} {:>9} {:>10} {:>10} {:>7} {:>12} {:>12} {:>8} {:>8} {:>8}",
            case.name,
            case.n,
            shown("wall_s", 1),
            shown("wall_max_s", 1),
            shown("ratio_wall", 3),
            shown("wasted_local_s", 1),
            shown("wasted_remote_s", 1),
            shown("local_wins", 0),
            shown("remote_wins", 0),
            shown("raced", 0),
        );
    }
    let _ = writeln!(
        text,
        "\n× the better of local-only and remote-only; waste in seconds of cores, all hosts together"
    );
    text
}
