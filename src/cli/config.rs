//! `fulgurite config`: every value of the server's configuration, and where it came from.

use super::serve_args::ServeArgs;
use crate::config::{Origin, Resolved, example};
use crate::failure::{Failure, put, tell};
use clap::{Args, ValueHint};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;

/// What `config` takes: what `serve` does, and how to print it.
#[derive(Args, Debug)]
pub struct ConfigArgs {
    /// Print JSON
    #[arg(long, conflicts_with_all = ["check", "example"], help_heading = "Output")]
    pub json: bool,
    /// Check a file, without any other file, and print nothing else
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Output")]
    #[arg(conflicts_with_all = ["config", "example"])]
    pub check: Option<PathBuf>,
    /// Print a file with every key and its default, commented out
    #[arg(long, help_heading = "Output")]
    pub example: bool,
    /// What `serve` would be given.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// Prints the configuration, or checks a file.
///
/// # Errors
/// For the first mistake in a source, or when standard output cannot be written to.
pub fn config(args: &ConfigArgs) -> Result<u8, Failure> {
    if args.example {
        put(&example(&crate::config::Config::defaults(&args.serve.sources()?.host)))?;
        return Ok(0);
    }
    if let Some(path) = &args.check {
        // The file has to hold by itself, whatever this shell's environment says.
        let mut sources = args.serve.sources()?;
        sources.file = Some(path.clone());
        sources.environment.clear();
        let resolved = crate::config::Config::load(&sources)?;
        check(&resolved)?;
        warn(&resolved);
        return Ok(0);
    }
    let resolved = args.serve.load()?;
    check(&resolved)?;
    if args.json {
        put(&format!("{:#}\n", as_json(&resolved)))?;
    } else {
        put(&as_text(&resolved))?;
        warn(&resolved);
    }
    Ok(0)
}

/// What `serve` would refuse before it does anything.
fn check(resolved: &Resolved) -> Result<(), Failure> {
    super::serve_race::check(&resolved.config)?;
    super::serve_workers::check(&resolved.config)
}

fn warn(resolved: &Resolved) {
    resolved.warnings.iter().for_each(tell);
}

/// A line for each value, which together are a file that gives the same configuration.
fn as_text(resolved: &Resolved) -> String {
    let printed = resolved.printed();
    let width = |line: &str| line.chars().count();
    let lines: Vec<String> = printed.iter().map(|value| format!("{} = {}", value.key, value.value)).collect();
    // A long list does not push all others to the right.
    let column = lines.iter().map(|line| width(line)).filter(|width| *width <= 60).max().unwrap_or(0);
    let mut text = String::new();
    for (line, value) in lines.iter().zip(&printed) {
        let gap = " ".repeat(column.saturating_sub(width(line)));
        // Writing to a string does not fail.
        let _ = writeln!(text, "{line}{gap}  # {}", value.origin);
    }
    text
}

fn as_json(resolved: &Resolved) -> Value {
    let origin = |origin: &Origin| match origin {
        Origin::Default => json!({ "kind": "default" }),
        Origin::File { path, line } => {
            json!({ "kind": "file", "path": path.to_string_lossy(), "line": line })
        }
        Origin::Environment { name } => json!({ "kind": "environment", "name": name }),
        Origin::Flag { name } => json!({ "kind": "flag", "name": name }),
    };
    let values: Vec<Value> = resolved
        .printed()
        .iter()
        .map(|value| json!({ "key": value.key, "value": plain(&value.value), "origin": origin(&value.origin) }))
        .collect();
    json!({ "values": values, "warnings": resolved.warnings })
}

/// A TOML value as JSON.
fn plain(toml: &str) -> Value {
    let parsed: Result<toml::Table, _> = toml::from_str(&format!("value = {toml}"));
    let value = parsed.ok().and_then(|table| serde_json::to_value(table.get("value")?).ok());
    value.unwrap_or_else(|| Value::String(toml.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, FlagSetting, Sources};

    fn resolved(flags: &[(&str, &str)]) -> Resolved {
        let flag = |(key, text): &(&str, &str)| FlagSetting {
            flag: "--set".to_owned(),
            key: (*key).to_owned(),
            value: (*text).into(),
        };
        let mut sources: Sources = ServeArgs::default().sources().unwrap();
        sources.files.clear();
        sources.environment.clear();
        sources.flags = flags.iter().map(flag).collect();
        Config::load(&sources).unwrap()
    }

    #[test]
    fn what_is_printed_is_a_file_that_says_the_same() {
        let resolved =
            resolved(&[("execution.slots", "7"), ("instances.a.b.execution", "false"), ("log", "warn")]);
        let text = as_text(&resolved);
        assert!(
            text.lines()
                .any(|line| line.starts_with("execution.slots = 7 ") && line.ends_with("# flag --set"))
        );
        assert!(text.lines().any(|line| line.contains("= \"process\"") && line.ends_with("# default")));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("printed.toml");
        std::fs::write(&path, &text).unwrap();
        let mut sources = ServeArgs::default().sources().unwrap();
        sources.environment.clear();
        sources.file = Some(path.clone());
        let again = Config::load(&sources).unwrap();
        assert_eq!(again.config, resolved.config);
        assert_eq!(again.origin("state_dir"), Origin::File { path, line: 1 });
    }

    #[test]
    fn json_has_types_and_origins() {
        let json = as_json(&resolved(&[("execution.slots", "7")]));
        let values = json["values"].as_array().unwrap();
        let value = |key: &str| values.iter().find(|value| value["key"] == key).unwrap();
        assert_eq!(value("execution.slots")["value"], 7);
        assert_eq!(value("execution.slots")["origin"], json!({ "kind": "flag", "name": "--set" }));
        assert_eq!(value("instances.\"\".execution")["value"], true);
        assert!(value("listen")["value"].is_array() && value("execution.platform")["value"].is_object());
        assert_eq!(value("log")["origin"], json!({ "kind": "default" }));
    }
}
