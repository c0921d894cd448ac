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
    /// Lists of files, as they are printed.
    lists: Vec<String>,
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
        let lists = lists.into_iter().flatten().map(str::to_owned).collect();
        Some(Self { name, lists })
    }

    /// With the user's home in place of a `~` that ssh still has to expand, where it is known.
    pub(super) async fn expanded(self) -> Self {
        let is_short = self.words().any(|word| word.starts_with("~/"));
        match is_short {
            true => self.expanded_by(home().await.as_deref()),
            false => self,
        }
    }

    fn expanded_by(mut self, home: Option<&str>) -> Self {
        let Some(home) = home else {
            return self;
        };
        for list in &mut self.lists {
            let words = list.split(' ').map(|word| match word.strip_prefix("~/") {
                Some(rest) => format!("{home}/{rest}"),
                None => word.to_owned(),
            });
            *list = words.collect::<Vec<_>>().join(" ");
        }
        self
    }

    /// What may be a file that ssh looks into and [`Self::find`] does not.
    pub(super) fn unclear(&self) -> Option<&str> {
        let is_unclear =
            |word: &&str| word.starts_with('~') || word.contains('%') || word.contains("${");
        let mut beyond = self
            .lists
            .iter()
            .filter_map(|list| list.split(' ').nth(WORDS_MAX));
        self.words().find(is_unclear).or_else(|| beyond.next())
    }

    fn words(&self) -> impl Iterator<Item = &str> {
        self.lists.iter().flat_map(|list| list.split(' '))
    }

    /// The first of them that has a key, as `ssh-keygen` finds it, hashed names too.
    ///
    /// # Errors
    /// Where that cannot be run, or cannot tell.
    pub(super) async fn find(self) -> io::Result<Option<Known>> {
        for file in self.lists.iter().flat_map(|list| files(list)) {
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
    let told = output(&mut command).await?;
    match told.status.code() {
        Some(0) => Ok(true),
        Some(NOT_FOUND) => Ok(false),
        _ => {
            let said = String::from_utf8_lossy(&told.stderr);
            let said = said.trim().escape_debug();
            let file = file.display();
            Err(io::Error::other(format!(
                "ssh-keygen cannot look into {file}: {said}"
            )))
        }
    }
}

/// The exit code by which `ssh-keygen -F` says that a file has no key of a host.
const NOT_FOUND: i32 = 1;

/// The home that ssh takes for the user's: of the database of users, whatever `HOME` says.
async fn home() -> Option<String> {
    let user = rustix::process::getuid().as_raw().to_string();
    let told = output(Command::new("getent").args(["passwd", &user])).await;
    home_of(&String::from_utf8_lossy(&told.ok()?.stdout))
}

/// The sixth field of a line of the database of users.
fn home_of(line: &str) -> Option<String> {
    let home = line.lines().next()?.split(':').nth(5)?;
    home.starts_with('/')
        .then(|| home.trim_end_matches('/').to_owned())
}

/// Runs a command of this machine, which asks nobody.
pub(super) async fn output(command: &mut Command) -> io::Result<Output> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    command.output().await
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn places(user: &str, global: &str) -> Places {
        let config = format!(
            "hostname web1\nport 22\nuserknownhostsfile {user}\nglobalknownhostsfile {global}\n"
        );
        Places::parse(&config).unwrap()
    }

    fn looked_at(places: &Places) -> Vec<PathBuf> {
        places.lists.iter().flat_map(|list| files(list)).collect()
    }

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
            let found = Places::parse(&config).unwrap();
            assert_eq!(
                (found.name.as_str(), looked_at(&found)),
                (name, files.to_vec())
            );
        }
        assert_eq!(Places::parse("bad configuration option"), None);
    }

    #[test]
    fn a_home_that_ssh_still_has_to_expand_is_looked_into() {
        let line = "me:x:1000:1000:Me,,,:/home/me:/bin/sh\n";
        let home = home_of(line);
        assert_eq!(home.as_deref(), Some("/home/me"));
        assert_eq!(home_of(""), None);
        let told = places("~/.ssh/known_hosts", "/etc/k ~/k").expanded_by(home.as_deref());
        assert!(looked_at(&told).contains(&"/home/me/.ssh/known_hosts".into()));
        assert!(looked_at(&told).contains(&"/home/me/k".into()));
        assert_eq!(told.unclear(), None);
        // Where it is not known, it stays unclear.
        let told = places("~/k", "/etc/k").expanded_by(None);
        assert_eq!(told.unclear(), Some("~/k"));
    }

    #[test]
    fn what_ssh_may_look_into_and_is_not_found_from_here_is_told() {
        for unclear in ["~me/k", "/etc/%h", "/home/${USER}/k"] {
            let told = places("/root/k", &format!("/etc/k {unclear}"));
            assert_eq!(told.unclear(), Some(unclear));
        }
        let many: Vec<String> = (0..=WORDS_MAX).map(|number| format!("/{number}")).collect();
        assert_eq!(places(&many.join(" "), "/etc/k").unclear(), Some("/12"));
        assert_eq!(places("/root/a b", "none").unclear(), None);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_looked_into_is_an_error_and_no_host_without_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("known_hosts");
        let key = "AAAAC3NzaC1lZDI1NTE5AAAAIGxH0ZOFhVXqT5AeHKfHsGG0pTbFpkwUczKZz7pEvXbA";
        std::fs::write(&file, format!("web1 ssh-ed25519 {key}\n")).unwrap();
        let asked = has("web1", &file).await;
        if asked
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        {
            println!("skipped: ssh-keygen is not installed");
            return;
        }
        assert!(asked.unwrap());
        assert!(!has("web2", &file).await.unwrap());
        let error = has("web1", &folder.path().join("none")).await.unwrap_err();
        assert!(error.to_string().contains("cannot look into"), "{error}");
    }
}
