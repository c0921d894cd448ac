//! What commands of NRPE are: those that a monitoring server runs on this host, and a check may run as well.
//!
//! They are the lines `command[NAME]=COMMAND LINE` of the files `*.cfg` in one directory, most often written by puppet. Their
//! other lines, `include` too, say nothing here.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::notation::words;

/// Most bytes that are read of a file: it has a line a command, and a host some dozens of them.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Most files that are read: puppet writes one for each command.
const FILES_MAX: usize = 10_000;

/// Why there is no command to run.
#[derive(Debug, thiserror::Error)]
pub enum NrpeError {
    /// The directory, or a file of it, cannot be read.
    #[error("read the NRPE commands of {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is too long, or there are too many.
    #[error("{path} has more than {allowed} {what}")]
    TooMuch {
        /// Which.
        path: PathBuf,
        /// How much there may be.
        allowed: u64,
        /// Of what.
        what: &'static str,
    },
    /// No file has a command of that name.
    #[error(
        "no command `{}` in the .cfg files of {directory}; a line `command[{}]=…` was expected",
        .name.escape_debug(), .name.escape_debug()
    )]
    Unknown {
        /// Which.
        name: String,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// The command's line is no command line.
    #[error("{file}:{line}: command `{}`: {problem}", .name.escape_debug())]
    Malformed {
        /// Which.
        name: String,
        /// Where it is.
        file: PathBuf,
        /// On which line, from 1.
        line: usize,
        /// What was expected.
        problem: &'static str,
    },
}

/// The words of a command; at least one. Of several with one name it is the last, in the order of the files' names, as for NRPE.
pub(super) fn command(directory: &Path, name: &str) -> Result<Vec<String>, NrpeError> {
    let mut found = None;
    for file in files(directory)? {
        let text = read(&file)?;
        for (line, text) in (1..).zip(text.lines()) {
            if let Some((_, command)) = definition(text).filter(|(defined, _)| *defined == name) {
                found = Some((command.to_owned(), file.clone(), line));
            }
        }
    }
    let Some((command, file, line)) = found else {
        return Err(NrpeError::Unknown {
            name: name.into(),
            directory: directory.into(),
        });
    };
    let words = words::split(&command).and_then(|words| match words.is_empty() {
        true => Err("it is empty; what to run was expected"),
        false => Ok(words),
    });
    words.map_err(|problem| NrpeError::Malformed {
        name: name.into(),
        file,
        line,
        problem,
    })
}

/// The name and the command line of a definition.
fn definition(line: &str) -> Option<(&str, &str)> {
    let rest = line.trim().strip_prefix("command[")?;
    let (name, rest) = rest.split_once(']')?;
    let command = rest.trim_start().strip_prefix('=')?;
    Some((name.trim(), command.trim()))
}

/// The files of a directory that are configuration, sorted.
fn files(directory: &Path) -> Result<Vec<PathBuf>, NrpeError> {
    let failed = |source| NrpeError::Read {
        path: directory.into(),
        source,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // Whatever is no file, a directory or a pipe, is nothing to read.
        if path.extension().is_some_and(|it| it == "cfg") && path.is_file() {
            files.push(path);
        }
        if files.len() > FILES_MAX {
            return Err(NrpeError::TooMuch {
                path: directory.into(),
                allowed: FILES_MAX as u64,
                what: "files",
            });
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<String, NrpeError> {
    let failed = |source| NrpeError::Read {
        path: file.into(),
        source,
    };
    match crate::notation::read(file, FILE_BYTES_MAX).map_err(failed)? {
        // Comments may be in any encoding.
        Some(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        None => Err(NrpeError::TooMuch {
            path: file.into(),
            allowed: FILE_BYTES_MAX,
            what: "bytes",
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn with(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(directory.path().join(name), bytes).unwrap();
        }
        directory
    }

    #[test]
    fn the_command_is_the_last_of_its_name_in_the_files_of_the_directory() {
        let directory = with(&[
            (
                "a.cfg",
                b"# command[load]=no\nallowed_hosts=127.0.0.1\n\ncommand[load]=check_load -w 1\ncommand[disk]=x\n",
            ),
            ("b.cfg", b"  command[ load ] = check_load -w 'a b' $ARG1$ # 2\r\n"),
            ("c.cfg.bak", b"command[load]=no\n"),
            ("d.cfg", b"\xff\ncommand[loads]=no\nxcommand[load]=no\ncommand[load\ncommand[load] no\n"),
        ]);
        fs::create_dir(directory.path().join("e.cfg")).unwrap();
        let words = command(directory.path(), "load").unwrap();
        assert_eq!(words, ["check_load", "-w", "a b", "$ARG1$", "#", "2"]);
        assert_eq!(command(directory.path(), "disk").unwrap(), ["x"]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let directory = with(&[(
            "a.cfg",
            b"command[a]=x\ncommand[quote]=x 'y\ncommand[none]=\n",
        )]);
        let path = directory.path();
        let says = |path: &Path, name: &str| crate::error_chain(&command(path, name).unwrap_err());
        let file = path.join("a.cfg");
        assert_eq!(
            says(path, "b\n"),
            format!(
                "no command `b\\n` in the .cfg files of {}; a line `command[b\\n]=…` was expected",
                path.display()
            )
        );
        let quote = format!("{}:2: command `quote`: a `'` that ends", file.display());
        assert!(says(path, "quote").starts_with(&quote));
        let none = format!("{}:3: command `none`: it is empty", file.display());
        assert!(says(path, "none").starts_with(&none));
        let gone = path.join("gone");
        let text = says(&gone, "a");
        let expected = format!("read the NRPE commands of {}: No such file", gone.display());
        assert!(text.starts_with(&expected), "{text}");
        let long = vec![b'#'; 1024 * 1024 + 1];
        fs::write(path.join("b.cfg"), long).unwrap();
        assert!(says(path, "a").ends_with("b.cfg has more than 1048576 bytes"));
    }
}
