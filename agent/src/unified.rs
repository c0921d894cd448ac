//! Differences between two texts, line by line, as `diff -u` writes them.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use similar::{Algorithm, capture_diff_slices_deadline, group_diff_ops, udiff::UnifiedHunkHeader};

/// How many lines around a change are shown.
const CONTEXT_LINES: usize = 3;
/// How long the shortest difference is looked for. What is found after that is right too, and longer.
const SEARCH_MAX: Duration = Duration::from_secs(1);

/// What must change in `before` to make it `after`: a text without names of files, and empty where both are the same.
pub fn unified(before: &str, after: &str) -> String {
    let mut diff = String::new();
    if before == after {
        return diff;
    }
    let lines = |text| str::split_inclusive(text, '\n').collect::<Vec<&str>>();
    let (before, after) = (lines(before), lines(after));
    let until = Some(Instant::now() + SEARCH_MAX);
    let changes = capture_diff_slices_deadline(Algorithm::Myers, &before, &after, until);
    for hunk in group_diff_ops(changes, CONTEXT_LINES) {
        let _ = writeln!(diff, "{}", UnifiedHunkHeader::new(&hunk));
        for change in hunk.iter().flat_map(|op| op.iter_changes(&before, &after)) {
            let line = change.value();
            let _ = write!(diff, "{}{line}", change.tag());
            if !line.ends_with('\n') {
                diff.push_str("\n\\ No newline at end of file\n");
            }
        }
    }
    diff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_what_diff_u_writes() {
        let numbers = |skip: usize| -> String {
            let lines = (1..=20).filter(|n| *n != skip).map(|n| format!("{n}\n"));
            lines.collect()
        };
        for (before, after, diff) in [
            ("a\n", "a\n", ""),
            ("", "a\nb\n", "@@ -0,0 +1,2 @@\n+a\n+b\n"),
            ("a\nb\n", "", "@@ -1,2 +0,0 @@\n-a\n-b\n"),
            (
                "a",
                "a\n",
                "@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n",
            ),
            ("a\rb\n", "a\rc\n", "@@ -1 +1 @@\n-a\rb\n+a\rc\n"),
            (
                &numbers(5),
                &numbers(0),
                "@@ -2,6 +2,7 @@\n 2\n 3\n 4\n+5\n 6\n 7\n 8\n",
            ),
        ] {
            assert_eq!(unified(before, after), diff, "{before:?} {after:?}");
        }
        let far = unified(&numbers(2), &numbers(19));
        assert_eq!(far.matches("@@ ").count(), 2, "{far}");
    }

    #[test]
    fn texts_that_share_nothing_are_told_apart_in_bounded_time() {
        let text = |from: usize| -> String {
            let lines = (0..100_000).map(|n| format!("{}\n", n * 2 + from));
            lines.collect()
        };
        let started = Instant::now();
        let diff = unified(&text(0), &text(1));
        assert_eq!(diff.lines().count(), 200_001);
        assert!(
            started.elapsed() < 20 * SEARCH_MAX,
            "{:?}",
            started.elapsed()
        );
    }
}
