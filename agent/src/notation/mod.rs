//! Notations of files that people write, which the coordinator and hosts read alike.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use rustix::fs::{Mode, OFlags};

pub mod node;
pub mod words;
pub mod yaml;

/// Where something is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, as people know it.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// The text of a file.
///
/// # Errors
/// Where it is no UTF-8.
pub fn text<'a>(bytes: &'a [u8], file: &Arc<str>) -> Result<&'a str, Place> {
    std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let file = file.clone();
        Place { file, line }
    })
}

/// The bytes of a file, unless it has more than `bytes_max` of them. What is no file, and may never end, is an error.
pub(crate) fn read(path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    // Else opening a pipe would wait for somebody to write to it.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
    }
    let mut bytes = Vec::new();
    let read = file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    Ok((read as u64 <= bytes_max).then_some(bytes))
}
