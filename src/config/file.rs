//! From a TOML file to settings with their lines.

use super::error::ConfigError;
use super::keys::{INSTANCES, KEYS};
use super::origin::Origin;
use std::path::Path;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

/// A value that somebody gave.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Setting {
    /// The segments of its key.
    pub(super) path: Vec<String>,
    /// `None` declares an instance, and says nothing of it.
    pub(super) value: Option<Value>,
    pub(super) origin: Origin,
}

/// Reads the settings of a file's text.
pub(super) fn settings(path: &Path, text: &str) -> Result<Vec<Setting>, ConfigError> {
    let at = |offset: usize| Origin::File {
        path: path.to_owned(),
        line: text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1,
    };
    let syntax = |error: toml::de::Error| ConfigError::Syntax {
        origin: at(error.span().map_or(0, |span| span.start)),
        why: error.message().lines().collect::<Vec<_>>().join("; "),
    };
    let spans = DeTable::parse(text).map_err(syntax)?;
    let values: Table = toml::from_str(text).map_err(syntax)?;
    let mut settings = Vec::new();
    gather(&mut Vec::new(), &values, spans.get_ref(), &at, &mut settings);
    // In the order of the file, so that the first mistake is told first.
    settings.sort_by(|a, b| a.origin.cmp(&b.origin));
    Ok(settings)
}

type Spans<'i> = DeTable<'i>;

fn gather(
    above: &mut Vec<String>,
    values: &Table,
    spans: &Spans<'_>,
    at: &dyn Fn(usize) -> Origin,
    settings: &mut Vec<Setting>,
) {
    for (key, span) in spans.iter() {
        let name: &str = key.get_ref();
        let Some(value) = values.get(name) else { continue };
        above.push(name.to_owned());
        match (value, below(span)) {
            // Tables are followed no deeper than keys go, so that a file of brackets ends here.
            (Value::Table(values), Some(spans)) if is_section(above) => {
                let declares = above.len() == 2 && above[0] == INSTANCES;
                if declares {
                    let origin = at(key.span().start);
                    settings.push(Setting { path: above.clone(), value: None, origin });
                }
                gather(above, values, spans, at, settings);
            }
            _ => {
                let origin = at(key.span().start);
                settings.push(Setting { path: above.clone(), value: Some(value.clone()), origin });
            }
        }
        above.pop();
    }
}

fn below<'a, 'i>(span: &'a Spanned<DeValue<'i>>) -> Option<&'a Spans<'i>> {
    span.get_ref().as_table()
}

/// Whether keys may stand below a path.
fn is_section(path: &[String]) -> bool {
    match path {
        [first] if first == INSTANCES => true,
        [first, _] => first == INSTANCES,
        [first] => KEYS.iter().all(|key| key.name != first),
        _ => false,
    }
}
