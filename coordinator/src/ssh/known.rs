//! Whether any key is known of a host.
//!
//! OpenSSH takes a key of another kind than the known one for that of a new host, which `accept-new` would accept: so whoever is in between
//! would only have to offer none of the known kind. A host of which any key is known is therefore never a new one.

use std::{
    io,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use tokio::process::Command;

/// Where a key of a host is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    /// The host as the file has it.
    pub(super) name: String,
    /// The file.
    pub(super) file: PathBuf,
}

/// Where a key would be known, by what `ssh -G` prints.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Places {
    name: String,
    files: Vec<PathBuf>,
}

impl Places {
    /// Reads what `ssh -G` prints; none where it is something else.
    pub(super) fn parse(config: &str) -> Option<Self> {
        let said = |key: &str| {
            let mut lines = config.lines().filter_map(|line| line.split_once(' '));
            lines.find(|(name, _)| *name == key).map(|(_, value)| value)
        };
        let (host, port) = (said("hostname")?, said("port")?);
        let name = match (said("hostkeyalias"), port) {
            (Some(alias), _) => alias.to_owned(),
            (None, "22") => host.to_owned(),
            (None, port) => format!("[{host}]:{port}"),
        };
        let lists = [said("userknownhostsfile"), said("globalknownhostsfile")];
        let files = lists.into_iter().flatten().flat_map(files).collect();
        Some(Self { name, files })
    }

    /// The first of them that has a key, as `ssh-keygen` finds it, hashed names too.
    ///
    /// # Errors
    /// Where that cannot be run.
    pub(super) async fn find(self) -> io::Result<Option<Known>> {
        for file in self.files {
            if file.is_file() && has(&self.name, &file).await? {
                let name = self.name;
                return Ok(Some(Known { name, file }));
            }
        }
        Ok(None)
    }
}

/// A list of files is printed with blanks between them, which may also be in their names: what may be a file is looked at.
fn files(list: &str) -> Vec<PathBuf> {
    let words: Vec<&str> = list.split(' ').take(WORDS_MAX).collect();
    let runs = (0..words.len()).flat_map(|from| (from + 1..=words.len()).map(move |to| from..to));
    runs.map(|run| words[run].join(" ").into()).collect()
}

/// Most words of a list of files that are looked at: a few files, with some blanks in their names.
const WORDS_MAX: usize = 12;

async fn has(name: &str, file: &Path) -> io::Result<bool> {
    let mut command = Command::new("ssh-keygen");
    command.arg("-F").arg(name).arg("-f").arg(file);
    Ok(output(&mut command).await?.status.success())
}

/// Runs a command of this machine, which asks nobody.
pub(super) async fn output(command: &mut Command) -> io::Result<Output> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    command.output().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_looked_for_by_the_name_that_known_hosts_has() {
        for (more, name) in [
            ("port 22\n", "web1"),
            ("port 2222\n", "[web1]:2222"),
            ("port 2222\nhostkeyalias web\n", "web"),
        ] {
            let config = format!(
                "user root\nhostname web1\n{more}userknownhostsfile /root/a b\nglobalknownhostsfile /etc/k\n"
            );
            let files = ["/root/a", "/root/a b", "b", "/etc/k"].map(PathBuf::from);
            let expected = Places {
                name: name.into(),
                files: files.to_vec(),
            };
            assert_eq!(Places::parse(&config), Some(expected));
        }
        assert_eq!(Places::parse("bad configuration option"), None);
    }
}
