//! The lines at the bottom of the terminal, and all else that is written to it meanwhile.
//!
//! No mode of the terminal is changed, no cursor is hidden, and the cursor always stands at the beginning of the row below the lines:
//! whatever ends this process, and wherever, the terminal is as it should be, and what is written next is below.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal, Write},
};

use super::{lines::Size, writer::STDERR};

/// What a terminal is taken for that does not say how large it is.
const UNKNOWN: Size = Size {
    columns: 80,
    rows: 24,
};

/// What is drawn now: how many columns each line takes.
#[derive(Debug, Default)]
pub(super) struct Region {
    widths: Vec<usize>,
}

impl Region {
    /// What goes to the terminal, which has so many columns now, for other lines to take the place of those that are there.
    pub(super) fn redraw(&mut self, lines: &[String], columns: usize) -> String {
        let mut text = self.go_up(columns);
        for line in lines {
            text += line;
            text += "\x1b[K\r\n";
        }
        // Also what was typed, or stood below.
        text += "\x1b[J";
        self.widths = lines.iter().map(|line| super::fit::width(line)).collect();
        text
    }

    /// The same for none.
    pub(super) fn clear(&mut self, columns: usize) -> String {
        match self.widths.is_empty() {
            true => String::new(),
            false => self.redraw(&[], columns),
        }
    }

    /// To the beginning of the first line. A terminal that became narrower shows a line on several rows.
    fn go_up(&self, columns: usize) -> String {
        let rows = self
            .widths
            .iter()
            .map(|width| width.div_ceil(columns.max(1)).max(1));
        match rows.sum::<usize>() {
            0 => "\r".to_owned(),
            rows => format!("\r\x1b[{rows}A"),
        }
    }
}

/// Whether lines can be drawn again on standard error.
pub(in crate::cli) fn is_terminal() -> bool {
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stderr().is_terminal() && !is_dumb
}

/// How large the terminal is now.
pub(in crate::cli) fn size() -> Size {
    let Ok(found) = rustix::termios::tcgetwinsize(io::stderr()) else {
        return UNKNOWN;
    };
    let or = |found: u16, unknown| {
        if found == 0 {
            unknown
        } else {
            usize::from(found)
        }
    };
    Size {
        columns: or(found.ws_col, UNKNOWN.columns),
        rows: or(found.ws_row, UNKNOWN.rows),
    }
}

/// Draws these lines in place of those that are there.
pub(in crate::cli) fn draw(lines: &[String]) {
    STDERR.draw(lines);
}

/// Takes the lines away, if any are there.
pub(in crate::cli) fn clear() {
    STDERR.draw(&[]);
}

/// Writes a line that stays; those that were there are drawn again below it with the next [`draw`].
pub(in crate::cli) fn above(text: &str) {
    STDERR.write(format!("{text}\n").as_bytes());
}

/// Waits until all of it is written, as long as whoever reads takes something.
pub(in crate::cli) fn drain() {
    STDERR.drain();
}

/// Whoever reads takes lines for objects of `scap.progress/1`.
pub(in crate::cli) fn write_objects() {
    STDERR.say_left_out(|count| {
        let text = format!("{count} objects were left out: nobody read them");
        serde_json::json!({ "schema": "scap.progress/1", "kind": "note", "text": text }).to_string()
    });
}

/// Has what a panic says stand above the lines, and not in them.
pub(in crate::cli) fn keep_panics_above() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if STDERR.is_this_thread() {
            return tell(panic);
        }
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("<unnamed>");
        let trace = Backtrace::capture();
        above(&match trace.status() {
            BacktraceStatus::Captured => format!("thread '{name}' {panic}\n{trace}"),
            _ => format!("thread '{name}' {panic}"),
        });
        drain();
    }));
}

/// Standard error for logs, and for all else: that stands above the lines.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        STDERR.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn lines_are_drawn_over_those_that_are_there_and_leave_nothing_of_them() {
        let mut region = Region::default();
        let drawn = region.redraw(&texts(&["one", "two"]), 80);
        assert_eq!(drawn, "\rone\x1b[K\r\ntwo\x1b[K\r\n\x1b[J");
        let drawn = region.redraw(&texts(&["three"]), 80);
        assert_eq!(drawn, "\r\x1b[2Athree\x1b[K\r\n\x1b[J");
        assert_eq!(region.clear(80), "\r\x1b[1A\x1b[J");
        assert_eq!(region.clear(80), "", "nothing is there any more");
    }

    #[test]
    fn lines_that_a_narrower_terminal_shows_on_several_rows_are_all_drawn_over() {
        let mut region = Region::default();
        region.redraw(&texts(&["0123456789", ""]), 80);
        assert!(region.redraw(&[], 4).starts_with("\r\x1b[4A"));
    }
}
