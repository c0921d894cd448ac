//! `println!`, `eprintln!` and `eprint!` of the command line, in place of those of `std`, which panic when
//! whoever reads has left: a pipe into `head` must not end a rollout half-way.

use std::io::Write;

use super::screen;

macro_rules! println {
    ($($text:tt)*) => {
        $crate::cli::print::result(format_args!("{}\n", format_args!($($text)*)))
    };
}

macro_rules! eprintln {
    ($($text:tt)*) => {
        $crate::cli::print::progress(format_args!("{}\n", format_args!($($text)*)))
    };
}

macro_rules! eprint {
    ($($text:tt)*) => {
        $crate::cli::print::progress(format_args!($($text)*))
    };
}

/// Writes a result to standard output, once all is written that was said on standard error before.
pub(super) fn result(text: std::fmt::Arguments<'_>) {
    screen::drain();
    let _ = std::io::stdout().write_fmt(text);
}

/// Writes to standard error what somebody may read.
pub(super) fn progress(text: std::fmt::Arguments<'_>) {
    // In one piece.
    let _ = screen::Log.write_all(text.to_string().as_bytes());
}
