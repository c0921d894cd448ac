//! How a template prints a value.

use std::fmt::{self, Write};

use minijinja::{Error, Output, State, Value, value::ValueKind};
use scap_proto::release::host_config::OutputFormat;

/// How deep a list may be in another to be printed: variables are at most half as deep.
const DEPTH_MAX: usize = 128;

/// Prints a value.
///
/// The engine itself prints as Python does: `None`, `True`, and a list as its source text. For YAML the words are `null` and `true`, in
/// lists and maps too, and what is printed of those is YAML's flow style.
pub(super) fn print(
    format: OutputFormat,
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    match (format, value.kind()) {
        (OutputFormat::Yaml, ValueKind::None | ValueKind::Bool) => Ok(write_yaml(out, value, 0)?),
        (OutputFormat::Yaml, ValueKind::Seq | ValueKind::Map) => {
            let mut text = String::new();
            write_yaml(&mut text, value, 0)?;
            Ok(out.write_str(&text)?)
        }
        _ => minijinja::escape_formatter(out, state, value),
    }
}

/// Writes a value in YAML's flow style; its first line is like Python's wherever Python's says the same in YAML.
fn write_yaml(out: &mut dyn Write, value: &Value, depth: usize) -> fmt::Result {
    match value.kind() {
        _ if depth > DEPTH_MAX => Err(fmt::Error),
        ValueKind::None | ValueKind::Undefined => out.write_str("null"),
        ValueKind::Bool if value.is_true() => out.write_str("true"),
        ValueKind::Bool => out.write_str("false"),
        ValueKind::String => write_text(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            out.write_char('[')?;
            for (index, item) in value.try_iter().map_err(|_| fmt::Error)?.enumerate() {
                separate(out, index)?;
                write_yaml(out, &item, depth + 1)?;
            }
            out.write_char(']')
        }
        ValueKind::Map => {
            out.write_char('{')?;
            for (index, key) in value.try_iter().map_err(|_| fmt::Error)?.enumerate() {
                separate(out, index)?;
                write_yaml(out, &key, depth + 1)?;
                out.write_str(": ")?;
                let item = value.get_item(&key).map_err(|_| fmt::Error)?;
                write_yaml(out, &item, depth + 1)?;
            }
            out.write_char('}')
        }
        _ => write!(out, "{value}"),
    }
}

fn separate(out: &mut dyn Write, index: usize) -> fmt::Result {
    if index > 0 {
        out.write_str(", ")
    } else {
        Ok(())
    }
}

/// In quotes, as Python writes it if nothing in it needs a backslash; YAML knows those of JSON, and only in double quotes.
fn write_text(out: &mut dyn Write, text: &str) -> fmt::Result {
    let is_plain = !text
        .chars()
        .any(|c| c == '\\' || c.is_control() || LINE_ENDS.contains(&c));
    match (is_plain, text.contains('\''), text.contains('"')) {
        (true, false, _) => write!(out, "'{text}'"),
        (true, true, false) => write!(out, "\"{text}\""),
        _ => {
            out.write_char('"')?;
            for c in text.chars() {
                match c {
                    '"' | '\\' => write!(out, "\\{c}")?,
                    '\n' => out.write_str("\\n")?,
                    '\t' => out.write_str("\\t")?,
                    c if c.is_control() || LINE_ENDS.contains(&c) => {
                        write!(out, "\\u{:04x}", c as u32)?;
                    }
                    c => out.write_char(c)?,
                }
            }
            out.write_char('"')
        }
    }
}

/// What ends a line in YAML 1.1 beside control characters.
const LINE_ENDS: [char; 2] = ['\u{2028}', '\u{2029}'];
