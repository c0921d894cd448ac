//! Where ssh goes to, as people write it: `[USER@]HOST`.

use std::{fmt, str::FromStr};

use serde::Deserialize;

/// A host as ssh knows it: a name of its config, a DNS name or an address; and a user there.
///
/// Neither can be taken for an option, nor does either hold anything that a shell or a terminal would act on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Target {
    /// The user, where one is said.
    pub user: Option<String>,
    /// The host.
    pub host: String,
}

impl Target {
    /// Longest, in bytes: the longest DNS name and the longest user of Linux fit.
    pub const BYTES_MAX: usize = 320;
}

impl FromStr for Target {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, ParseTargetError> {
        let (user, host) = match text.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, text),
        };
        let is_plain = |part: &str, odd: &str| {
            let allowed = |byte: char| byte.is_ascii_alphanumeric() || odd.contains(byte);
            !part.is_empty() && !part.starts_with('-') && part.chars().all(allowed)
        };
        let is_user = user.is_none_or(|user| is_plain(user, "._-+@"));
        if text.len() > Self::BYTES_MAX || !is_user || !is_plain(host, "._-:%[]") {
            let text = text.escape_debug().take(64).collect();
            return Err(ParseTargetError(text));
        }
        Ok(Self {
            user: user.map(Into::into),
            host: host.into(),
        })
    }
}

impl TryFrom<String> for Target {
    type Error = ParseTargetError;

    fn try_from(text: String) -> Result<Self, ParseTargetError> {
        text.parse()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => write!(f, "{user}@{}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

/// A text that ssh is not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a host for ssh like `root@web1`: letters, digits and `.`, `_`, `-`, `:`, not beginning with `-`"
)]
pub struct ParseTargetError(String);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_read_as_ssh_reads_it() {
        for (text, user, host) in [
            ("web1", None, "web1"),
            ("root@web1.example.org", Some("root"), "web1.example.org"),
            ("it@corp@10.0.0.2", Some("it@corp"), "10.0.0.2"),
            ("fe80::1%eth0", None, "fe80::1%eth0"),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!((target.user.as_deref(), target.host.as_str()), (user, host));
            assert_eq!(target.to_string(), text);
        }
    }

    #[test]
    fn c12_what_ssh_could_take_for_an_option_or_a_shell_for_more_is_refused() {
        let long = "x".repeat(Target::BYTES_MAX + 1);
        for text in [
            "",
            "-oProxyCommand=id",
            "-oProxyCommand=id@web1",
            "root@-oProxyCommand=id",
            "@web1",
            "root@",
            "web 1",
            "web1;id",
            "$(id)@web1",
            "`id`",
            "web1\n",
            "\u{1b}[2J",
            "wéb1",
            &long,
        ] {
            assert!(text.parse::<Target>().is_err(), "{text:?}");
        }
    }
}
