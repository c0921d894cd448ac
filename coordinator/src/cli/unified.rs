//! Differences between two texts as people see them on a terminal.

/// Most lines that are printed of one difference: some screens.
const LINES_MAX: usize = 200;
/// Most characters that are printed of one line.
const LINE_CHARS_MAX: usize = 500;

/// The lines of a difference for a terminal: inert, and where there are too many, how many are left out.
pub(super) fn shown(diff: &str) -> Vec<String> {
    let all = diff.split_terminator('\n');
    let left = all.clone().count().saturating_sub(LINES_MAX);
    let mut lines: Vec<String> = all.take(LINES_MAX).map(clipped).collect();
    if left > 0 {
        lines.push(format!("… {left} more lines; --json has them all"));
    }
    lines
}

fn clipped(line: &str) -> String {
    match line.char_indices().nth(LINE_CHARS_MAX) {
        None => inert(line),
        Some((at, _)) => {
            let left = line[at..].chars().count();
            format!("{}… {left} more characters", inert(&line[..at]))
        }
    }
}

/// A text that does nothing to a terminal, its quotes, backslashes and tabs as they are: what is configuration stays readable.
pub(super) fn inert(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        match c {
            '\t' | '"' | '\'' | '\\' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_inert_and_bounded() {
        assert_eq!(
            shown("+\x1b[31m\"a\\b\"\t\r\u{202e}⟦x⟧é\n"),
            ["+\\u{1b}[31m\"a\\b\"\t\\r\\u{202e}⟦x⟧é"]
        );
        let long = "x".repeat(LINE_CHARS_MAX + 7);
        assert!(shown(&long)[0].ends_with("x… 7 more characters"));
        let many = "+a\n".repeat(LINES_MAX + 2);
        let lines = shown(&many);
        assert_eq!(lines.len(), LINES_MAX + 1);
        assert_eq!(lines[LINES_MAX], "… 2 more lines; --json has them all");
    }
}
