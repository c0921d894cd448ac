//! `println!`, `eprintln!` and `eprint!` of the command line, in place of those of `std`, which panic when
//! whoever reads has left: a pipe into `head` must not end a rollout half-way.

macro_rules! println {
    ($($text:tt)*) => {
        $crate::cli::print::to(&mut std::io::stdout(), format_args!("{}\n", format_args!($($text)*)))
    };
}

macro_rules! eprintln {
    ($($text:tt)*) => {
        $crate::cli::print::to(&mut std::io::stderr(), format_args!("{}\n", format_args!($($text)*)))
    };
}

macro_rules! eprint {
    ($($text:tt)*) => {
        $crate::cli::print::to(&mut std::io::stderr(), format_args!($($text)*))
    };
}

/// Writes what somebody may read.
pub(super) fn to(out: &mut dyn std::io::Write, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}
