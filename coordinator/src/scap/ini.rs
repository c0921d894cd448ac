//! The syntax of `scap.cfg`: that of Python's `configparser` with its defaults, without interpolation.
//!
//! Sections in brackets; `key = value` or `key: value`, keys in any letter case; lines that start with `#` or `;` are
//! comments wherever they are; a line that is indented deeper than its key goes on with the value, and blank lines may be
//! in between. A key twice in a section and a section twice in a file are errors.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use scap_agent::notation;

use super::error::{Origin, ScapError};

/// The section whose values are in every other section of all files.
pub(super) const DEFAULT: &str = "DEFAULT";

/// The section that is for every machine.
pub(super) const GLOBAL: &str = "global";

/// A file, parsed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Ini {
    /// The sections by their names, as they are written.
    pub(super) sections: BTreeMap<String, Vec<Entry>>,
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// In lower case.
    pub(super) key: String,
    /// Without space around it; its lines are joined by newlines.
    pub(super) value: String,
    /// Where the key is.
    pub(super) at: Origin,
}

impl Ini {
    /// Parses a file; `file` is for messages.
    ///
    /// # Errors
    /// [`ScapError::Invalid`] with the line.
    pub(super) fn parse(bytes: &[u8], file: &Arc<str>) -> Result<Self, ScapError> {
        let text = text(bytes, file)?;
        let mut ini = Self::default();
        // The section, by its name and by the line where it began; of that which may begin again, by none.
        let mut section: Option<(String, usize)> = None;
        let mut seen = HashMap::new();
        // Whether the last entry of the section may go on, and how deep its key is indented.
        let mut open: Option<usize> = None;
        for (line, raw) in lines(text) {
            let at = Origin::File {
                file: file.clone(),
                line,
            };
            let content = raw.trim();
            if content.starts_with(['#', ';']) {
                continue;
            }
            let entries = section
                .as_ref()
                .and_then(|(name, _)| ini.sections.get_mut(name));
            let last = entries.and_then(|entries| entries.last_mut());
            if content.is_empty() {
                if let (Some(last), Some(_)) = (last, open) {
                    last.value.push('\n');
                }
                continue;
            }
            let indent = raw.chars().take_while(|c| c.is_whitespace()).count();
            match (last, open) {
                (Some(last), Some(depth)) if indent > depth => {
                    last.value.push('\n');
                    last.value.push_str(content);
                    continue;
                }
                _ => {}
            }
            if let Some(name) = header(content) {
                if ini.sections.contains_key(name) && name != DEFAULT {
                    let problem = format!("section [{}] is there twice", name.escape_debug());
                    return Err(ScapError::invalid(&at, problem));
                }
                ini.sections.entry(name.into()).or_default();
                let began = if name == DEFAULT { 0 } else { line };
                (section, open) = (Some((name.into(), began)), None);
                continue;
            }
            let Some((name, began)) = &section else {
                return Err(ScapError::invalid(
                    &at,
                    "a line before any section; `[global]` was expected",
                ));
            };
            let entry = entry(content, at)?;
            if let Some(first) = seen.insert((*began, entry.key.clone()), entry.at.clone()) {
                let key = entry.key.escape_debug();
                let problem = format!("`{key}` is there twice, first at {first}");
                return Err(ScapError::invalid(&entry.at, problem));
            }
            let entries = ini.sections.get_mut(name).expect("it began");
            entries.push(entry);
            open = Some(indent);
        }
        for entry in ini.sections.values_mut().flatten() {
            entry.value.truncate(entry.value.trim_end().len());
        }
        Ok(ini)
    }
}

/// `[name]`, and whatever follows the last bracket.
fn header(content: &str) -> Option<&str> {
    let name = content.strip_prefix('[')?.rsplit_once(']')?.0;
    (!name.is_empty()).then_some(name)
}

fn entry(content: &str, at: Origin) -> Result<Entry, ScapError> {
    let Some((key, value)) = content.split_once(['=', ':']) else {
        return Err(ScapError::invalid(
            &at,
            format!(
                "`{}` is neither `[section]` nor `key: value`",
                content.escape_debug()
            ),
        ));
    };
    let key = key.trim_end().to_lowercase();
    if key.is_empty() {
        return Err(ScapError::invalid(&at, "a value without a key before it"));
    }
    let value = value.trim().to_owned();
    Ok(Entry { key, value, at })
}

/// The text of a file.
pub(super) fn text<'a>(bytes: &'a [u8], file: &Arc<str>) -> Result<&'a str, ScapError> {
    notation::text(bytes, file)
        .map_err(|at| ScapError::invalid(&at.into(), "a byte that is not UTF-8"))
}

/// The lines of a text with their numbers, however they end.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.split('\n').flat_map(|line| {
        let line = line.strip_suffix('\r').unwrap_or(line);
        line.split('\r')
    });
    (1..).zip(lines)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Ini, ScapError> {
        Ini::parse(text.as_bytes(), &"scap.cfg".into())
    }

    fn of(text: &str, section: &str) -> Vec<(String, String, usize)> {
        let ini = parse(text).unwrap();
        let entries = ini.sections[section].iter().map(|entry| {
            let Origin::File { line, .. } = entry.at else {
                panic!("it is from a file");
            };
            (entry.key.clone(), entry.value.clone(), line)
        });
        entries.collect()
    }

    fn one(key: &str, value: &str, line: usize) -> (String, String, usize) {
        (key.into(), value.into(), line)
    }

    // Each of these was compared with what Python 3.11 makes of it.
    #[test]
    fn it_is_read_as_python_reads_it() {
        for (text, expected) in [
            (
                "[g]\na=1\nB : 2\n",
                vec![one("a", "1", 2), one("b", "2", 3)],
            ),
            (
                "[g]\nurl: http://x/?a=b\n",
                vec![one("url", "http://x/?a=b", 2)],
            ),
            ("[g]\na =\n", vec![one("a", "", 2)]),
            (
                "[g]\na: 1 # kept\n  # gone\n; gone: too\n",
                vec![one("a", "1 # kept", 2)],
            ),
            (
                "[g]\na: 1,\n   2,\n\n  # no\n   3\nb: x\n",
                vec![one("a", "1,\n2,\n\n3", 2), one("b", "x", 7)],
            ),
            ("[g]\na: 1\n\n\n", vec![one("a", "1", 2)]),
            (
                "[g]\n  a: 1\n  b: 2\n c: 3\n",
                vec![one("a", "1", 2), one("b", "2", 3), one("c", "3", 4)],
            ),
            ("[g]\na:\n  [x]\n", vec![one("a", "\n[x]", 2)]),
            ("[g] after\na b = c\n", vec![one("a b", "c", 2)]),
            ("[g]\r\na = 1\r\n", vec![one("a", "1", 2)]),
            ("  [g]\na = %(b)s\n", vec![one("a", "%(b)s", 2)]),
            ("[g]\ne = caf\u{e9}\n", vec![one("e", "caf\u{e9}", 2)]),
        ] {
            assert_eq!(of(text, "g"), expected, "{text:?}");
        }
        assert_eq!(of("[a]b]\nx=1\n", "a]b"), [one("x", "1", 2)]);
        assert_eq!(of("[ g ]\nx=1\n", " g "), [one("x", "1", 2)]);
        let twice = of("[DEFAULT]\na=1\n[DEFAULT]\nb=2\n", DEFAULT);
        assert_eq!(twice, [one("a", "1", 2), one("b", "2", 4)]);
        assert!(parse("").unwrap().sections.is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, says) in [
            (
                "a: 1\n",
                "scap.cfg:1: a line before any section; `[global]` was expected",
            ),
            (
                "# c\n\n  a\n",
                "scap.cfg:3: a line before any section; `[global]` was expected",
            ),
            (
                "[g]\na: 1\nnonsense\n",
                "scap.cfg:3: `nonsense` is neither `[section]` nor `key: value`",
            ),
            (
                "[g]\n[]\n",
                "scap.cfg:2: `[]` is neither `[section]` nor `key: value`",
            ),
            ("[g]\n= 1\n", "scap.cfg:2: a value without a key before it"),
            (
                "[g]\na: 1\nA = 2\n",
                "scap.cfg:3: `a` is there twice, first at scap.cfg:2",
            ),
            ("[g]\n[h]\n[g]\n", "scap.cfg:3: section [g] is there twice"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), says, "{text:?}");
        }
        let error = Ini::parse(b"[g]\na: \xff\n", &"x".into()).unwrap_err();
        assert_eq!(error.to_string(), "x:2: a byte that is not UTF-8");
    }

    // One by one this would be some ten thousand million comparisons.
    #[test]
    fn a_file_of_nothing_but_keys_is_read_at_once() {
        let text: String = (0..140_000).map(|at| format!("{at:x}=\n")).collect();
        let began = std::time::Instant::now();
        assert_eq!(of(&format!("[g]\n{text}"), "g").len(), 140_000);
        let sections = "[DEFAULT]\nx=\n".to_owned() + &text + "[DEFAULT]\nX: 1\n";
        let error = parse(&sections).unwrap_err().to_string();
        assert_eq!(
            error,
            "scap.cfg:140004: `x` is there twice, first at scap.cfg:2"
        );
        assert!(began.elapsed() < std::time::Duration::from_secs(20));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_text_panics_and_what_is_read_is_trimmed(text in "([\\[\\]a-b =:#;\t\r\n]|\\PC){0,60}") {
            if let Ok(ini) = parse(&text) {
                for entry in ini.sections.values().flatten() {
                    prop_assert_eq!(entry.value.trim_end(), &entry.value);
                    prop_assert!(!entry.key.is_empty());
                }
            }
        }
    }
}
