//! What OpenSSH says of a connection in its own log, which the host at the other end does not write to: it escapes what a host says.

use std::path::PathBuf;

/// The key that a host showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    /// Its kind and fingerprint: `ssh-ed25519 SHA256:…`.
    pub fingerprint: String,
    /// It was not known before, and is now.
    pub is_new: bool,
}

/// Why ssh did not let us, or was not let, in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// No key is known for the host.
    Unknown,
    /// Another key is known for the host.
    Changed {
        /// The host as `known_hosts` has it.
        name: String,
        /// The file with the other key.
        file: Option<PathBuf>,
    },
    /// The key is one that was revoked.
    Revoked,
    /// The host does not let us in.
    Refused(String),
}

/// What a log says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SshLog {
    /// The key that the host showed; none where it came to none.
    pub host_key: Option<HostKey>,
    /// Why it went no further.
    pub verdict: Option<Verdict>,
    /// That the host's key was taken and could not be written down, in ssh's words.
    pub unkept: Option<String>,
    /// The last line for people.
    pub last: Option<String>,
}

impl SshLog {
    /// Reads the log of one connection, at the level `DEBUG1`.
    pub fn parse(text: &str) -> Self {
        let mut log = Self::default();
        let mut file = None;
        for line in text.lines().map(str::trim_end) {
            if let Some(key) = line.strip_prefix("debug1: Server host key: ") {
                log.host_key = Some(HostKey {
                    fingerprint: key.to_owned(),
                    is_new: false,
                });
            }
            if line.is_empty() || line.starts_with("debug") {
                continue;
            }
            if line.starts_with("Warning: Permanently added ")
                && let Some(key) = &mut log.host_key
            {
                key.is_new = true;
                continue;
            }
            if line.starts_with(UNKEPT) {
                log.unkept = Some(line.to_owned());
            }
            if let Some(found) = offending(line) {
                file = Some(found);
            }
            if let Some(verdict) = verdict(line) {
                log.verdict = Some(verdict);
            }
            log.last = Some(line.to_owned());
        }
        if let Some(Verdict::Changed { file: found, .. }) = &mut log.verdict {
            *found = file;
        }
        log
    }
}

/// How ssh says that it goes on with a new key that it could not write down.
const UNKEPT: &str = "Failed to add the host to the list of known hosts";

fn verdict(line: &str) -> Option<Verdict> {
    const STRICT: &str = " and you have requested strict checking.";
    if let Some(rest) = line.strip_suffix(STRICT) {
        if rest.starts_with("No ") && rest.contains(" host key is known for ") {
            return Some(Verdict::Unknown);
        }
        let rest = rest.strip_prefix("Host key for ")?;
        if rest.ends_with(" was revoked") {
            return Some(Verdict::Revoked);
        }
        let name = rest.strip_suffix(" has changed")?;
        let (name, file) = (name.to_owned(), None);
        return Some(Verdict::Changed { name, file });
    }
    let is_refused = line.contains(": Permission denied (") && line.ends_with(").");
    is_refused.then(|| Verdict::Refused(line.to_owned()))
}

/// The file of `Offending ED25519 key in /home/me/.ssh/known_hosts:3`.
fn offending(line: &str) -> Option<PathBuf> {
    let rest = line.strip_prefix("Offending ")?;
    let (_, place) = rest.split_once(" key in ")?;
    let (file, number) = place.rsplit_once(':')?;
    number.parse::<u64>().ok()?;
    Some(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 SHA256:vFD6GnCm6Nmg4WtNckqPFVLVvRlPjJ5wJ4cGXyFDnKs";

    fn parse(lines: &[&str]) -> SshLog {
        SshLog::parse(&lines.join("\r\n"))
    }

    #[test]
    fn a_host_that_is_known_shows_its_key_alone() {
        let shown = format!("debug1: Server host key: {KEY}");
        let log = parse(&[
            "debug1: Connecting to web1 [10.0.0.2] port 22.",
            &shown,
            "debug1: Host 'web1' is known and matches the ED25519 host key.",
            "Authenticated to web1 ([10.0.0.2]:22) using \"publickey\".",
        ]);
        let key = log.host_key.unwrap_or_else(|| unreachable!("it is there"));
        assert_eq!((key.fingerprint.as_str(), key.is_new), (KEY, false));
        assert_eq!(log.verdict, None);
    }

    #[test]
    fn unknown_accepted_changed_and_revoked_keys_are_told_apart() {
        let shown = format!("debug1: Server host key: {KEY}");
        let unknown = parse(&[
            &shown,
            "No ED25519 host key is known for [127.0.0.1]:2222 and you have requested strict checking.",
            "Host key verification failed.",
        ]);
        assert_eq!(unknown.verdict, Some(Verdict::Unknown));
        let line =
            "Warning: Permanently added '[127.0.0.1]:2222' (ED25519) to the list of known hosts.";
        let accepted = parse(&[&shown, line]);
        assert!(accepted.host_key.is_some_and(|key| key.is_new));
        let line = "Failed to add the host to the list of known hosts (/root/.ssh/known_hosts).";
        let unkept = parse(&[&shown, line, "Authenticated to web1 using \"publickey\"."]);
        assert_eq!(unkept.unkept.as_deref(), Some(line));
        assert!(unkept.host_key.is_some_and(|key| !key.is_new));
        let changed = parse(&[
            &shown,
            "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @",
            "Add correct host key in /root/.ssh/known_hosts to get rid of this message.",
            "Offending ED25519 key in /home/a b/known_hosts:12",
            "Host key for [127.0.0.1]:2222 has changed and you have requested strict checking.",
            "Host key verification failed.",
        ]);
        let expected = Verdict::Changed {
            name: "[127.0.0.1]:2222".into(),
            file: Some("/home/a b/known_hosts".into()),
        };
        assert_eq!(changed.verdict, Some(expected));
        let revoked = "Host key for web1 was revoked and you have requested strict checking.";
        assert_eq!(parse(&[revoked]).verdict, Some(Verdict::Revoked));
    }

    #[test]
    fn a_login_that_is_refused_is_told_from_a_host_that_is_not_there() {
        let line = "deploy@web1: Permission denied (publickey,password).";
        let refused = parse(&["debug1: No more authentication methods to try.", line]);
        assert_eq!(refused.verdict, Some(Verdict::Refused(line.into())));
        let line = "ssh: connect to host web1 port 22: Connection refused";
        let away = parse(&["debug1: connect to address 10.0.0.2 port 22", line]);
        assert_eq!((away.verdict, away.last.as_deref()), (None, Some(line)));
    }
}
