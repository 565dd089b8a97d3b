//! The commented example and the table of the documentation, both made of `keys`.

use super::keys::{INSTANCE_KEYS, KEYS, Key, instance_key, variable};
use super::{Config, Instance};
use std::fmt::Write;

/// A file with every key at the value it has in `config`, commented out.
#[must_use]
pub fn example(config: &Config) -> String {
    let mut text = String::from(
        "# Configuration of `fulgurite serve`. What is commented out is the default, as a root daemon has it.\n\
         # Paths, sizes and times are as in docs/configuration.md; `fulgurite config` prints what holds, and why;\n\
         # `fulgurite config --check FILE` checks a file.\n",
    );
    let mut section = "";
    for key in KEYS {
        let (of, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if of != section {
            // Writing to a string does not fail.
            let _ = write!(text, "\n[{of}]\n");
            section = of;
        }
        entry(&mut text, key, name, config);
    }
    text.push_str(
        "\n# A section for each instance that clients may name; that of the empty name is always there.\n\
         [instances.\"\"]\n",
    );
    let instance = config.instances.get("").cloned().unwrap_or_default();
    for key in INSTANCE_KEYS {
        entry(&mut text, key, key.name, &instance);
    }
    text
}

fn entry<T>(text: &mut String, key: &Key<T>, name: &str, of: &T) {
    let _ = write!(text, "\n# {}.\n#{name} = {}\n", key.about, (key.show)(of));
}

/// The table of all keys, as Markdown. `config` has the defaults that are shown.
#[must_use]
pub fn documentation(config: &Config) -> String {
    let mut text =
        String::from("| key | what it is for | value | default | variable |\n|---|---|---|---|---|\n");
    for key in KEYS {
        row(&mut text, key, key.name, &format!("`{}`", variable(key.name)), config);
    }
    for key in INSTANCE_KEYS {
        let name = instance_key("NAME", key.name);
        row(&mut text, key, &name, "", &Instance::default());
    }
    text
}

fn row<T>(text: &mut String, key: &Key<T>, name: &str, variable: &str, of: &T) {
    let (about, form, default) = (key.about, (key.form)(of), (key.show)(of));
    let _ = writeln!(text, "| `{name}` | {about} | {form} | `{default}` | {variable} |");
}
