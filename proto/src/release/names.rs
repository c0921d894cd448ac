//! Which repo, for which environment and audience: names that are safe in paths and signatures.

use std::{fmt, path::Path, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::id::is_plain_name;

/// A deployed repo's path below the deploy root: `group/name` or `name`.
///
/// 1 to [`RepoPath::COMPONENTS_MAX`] plain names of at most [`NAME_MAX`] bytes. None ends with
/// [`RepoPath::CACHE_SUFFIX`], so that a repo never lies in another's folder.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepoPath(String);

impl RepoPath {
    /// Most components: `group/sub/…/name`, as deep as such names get.
    pub const COMPONENTS_MAX: usize = 8;
    /// What is added to a repo's path for the folder that holds its releases.
    pub const CACHE_SUFFIX: &'static str = "-cache";

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path as a relative path.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// The last component.
    pub fn name(&self) -> &str {
        self.0
            .rsplit('/')
            .next()
            .expect("rsplit gives at least one part")
    }
}

impl FromStr for RepoPath {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let parts: Vec<&str> = text.split('/').collect();
        let good =
            |part: &&str| is_plain_name(part, NAME_MAX) && !part.ends_with(Self::CACHE_SUFFIX);
        if parts.len() <= Self::COMPONENTS_MAX && parts.iter().all(good) {
            Ok(Self(text.into()))
        } else {
            Err(NameError::new("repo", text))
        }
    }
}

macro_rules! plain_name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                if is_plain_name(text, NAME_MAX) {
                    Ok(Self(text.into()))
                } else {
                    Err(NameError::new($what, text))
                }
            }
        }
    };
}

plain_name! {
    /// What a release is for: `production`, `staging`. A host knows its own from its identity.
    Environment, "environment"
}
plain_name! {
    /// Which hosts of an environment may read a release.
    Audience, "audience"
}

macro_rules! text_conversions {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
text_conversions!(RepoPath, Environment, Audience);

impl Default for Environment {
    fn default() -> Self {
        Self("production".into())
    }
}

/// All hosts of the environment.
impl Default for Audience {
    fn default() -> Self {
        Self("all".into())
    }
}

/// Longest name, in bytes; `-cache` and a temporary prefix still fit a file name.
pub const NAME_MAX: usize = 100;

/// A text that is no such name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a name of {article} {what}: letters, digits, `.`, `_` and `-`, starting with a letter or a digit{more}"
)]
pub struct NameError {
    what: &'static str,
    text: String,
    article: &'static str,
    more: &'static str,
}

impl NameError {
    fn new(what: &'static str, text: &str) -> Self {
        let article = if what.starts_with(['a', 'e']) {
            "an"
        } else {
            "a"
        };
        let more = if what == "repo" {
            ", parts separated by `/`, none ending in `-cache`"
        } else {
            ""
        };
        Self {
            what,
            text: text.escape_debug().take(64).collect(),
            article,
            more,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_repo_stays_below_the_deploy_root_and_out_of_other_repos() {
        for good in ["name", "mw/config", "a/b/c"] {
            assert_eq!(good.parse::<RepoPath>().unwrap().as_str(), good);
        }
        assert_eq!("mw/config".parse::<RepoPath>().unwrap().name(), "config");
        for bad in [
            "",
            "/a",
            "a/",
            "../a",
            "a/../b",
            "a//b",
            "a-cache/revs",
            "-a",
            "a b",
            ".git",
            "a/b/c/d/e/f/g/h/i",
        ] {
            assert!(bad.parse::<RepoPath>().is_err(), "{bad}");
        }
    }
}
