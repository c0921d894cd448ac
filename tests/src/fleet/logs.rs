//! What the processes of a fleet wrote, and which lines of it a test did not expect.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

/// The folder of a fleet's log files: one per process, `NAME.log` for what goes to stderr and
/// `NAME.out` for stdout.
pub(crate) struct Logs {
    dir: PathBuf,
    expected: RefCell<Vec<String>>,
}

impl Logs {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            expected: RefCell::default(),
        }
    }

    pub(crate) fn stderr_of(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    pub(crate) fn stdout_of(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.out"))
    }

    pub(crate) fn expect(&self, pattern: &str) {
        self.expected.borrow_mut().push(pattern.to_owned());
    }

    /// WARN and ERROR lines, and panics, that no expectation names; each with its file.
    pub(crate) fn unexpected(&self) -> Vec<String> {
        let expected = self.expected.borrow();
        let mut found = Vec::new();
        for (name, text) in self.read_all() {
            for line in text.lines().filter(|line| is_alarming(line)) {
                if !expected
                    .iter()
                    .any(|pattern| line.contains(pattern.as_str()))
                {
                    found.push(format!("{name}: {line}"));
                }
            }
        }
        found
    }

    /// Prints the end of each log, for a test that failed.
    pub(crate) fn print_tails(&self) {
        for (name, text) in self.read_all() {
            let lines: Vec<_> = text.lines().collect();
            let skipped = lines.len().saturating_sub(TAIL_LINES);
            eprintln!("--- {name} ({skipped} lines above)");
            for line in &lines[skipped..] {
                eprintln!("{line}");
            }
        }
    }

    fn read_all(&self) -> Vec<(String, String)> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        files.sort();
        files
            .iter()
            .map(|path| (file_name(path), read(path)))
            .collect()
    }
}

/// A file's text; nothing where there is none yet.
pub(crate) fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Whether a line is of level WARN or ERROR (`2026-11-22T10:00:00Z  WARN span: message`) or starts
/// a panic's message.
fn is_alarming(line: &str) -> bool {
    let mut words = line.split_ascii_whitespace();
    let first = words.next().unwrap_or_default();
    let is_log = first.ends_with('Z') && first.starts_with(|c: char| c.is_ascii_digit());
    (is_log && matches!(words.next(), Some("WARN" | "ERROR")))
        || (first == "thread" && line.contains("panicked at"))
}

/// Enough to see what a process did last, little enough for 17 of them.
const TAIL_LINES: usize = 25;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn levels_are_told_from_words_in_messages() {
        assert!(is_alarming(
            "2026-11-22T10:00:00Z  WARN node: slow peer peer=3"
        ));
        assert!(is_alarming("2026-11-22T10:00:00.123456Z ERROR disk full"));
        assert!(is_alarming(
            "thread 'main' (7) panicked at src/main.rs:3:5:"
        ));
        assert!(!is_alarming(
            "2026-11-22T10:00:00Z  INFO node: WARN and ERROR are levels"
        ));
        assert!(!is_alarming("error: unknown revision"));
    }

    #[test]
    fn only_lines_that_nobody_expects_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::new(dir.path().to_owned());
        let line = "2026-11-22T10:00:00Z  WARN link lost\n";
        std::fs::write(logs.stderr_of("host1"), line).unwrap();
        std::fs::write(logs.stdout_of("host1"), line).unwrap();
        assert_eq!(
            logs.unexpected(),
            [format!("host1.log: {}", line.trim_end())]
        );
        logs.expect("link lost");
        assert!(logs.unexpected().is_empty());
    }
}
