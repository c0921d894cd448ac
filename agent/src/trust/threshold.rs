//! How many distinct keys must sign what, by repo and environment.

use std::num::NonZeroUsize;

use scap_proto::{
    limits::SIGNATURES_MAX,
    release::{Environment, RepoPath},
};
use serde::{Deserialize, Serialize};

/// How many distinct keys it takes for a release, and for a new signers file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thresholds {
    otherwise: NonZeroUsize,
    rules: Vec<ThresholdRule>,
    signers: Option<NonZeroUsize>,
}

/// One rule of a `[[signatures]]` table: of which releases it speaks, and how many keys those take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThresholdRule {
    /// Of this repo; of all where it says none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<RepoPath>,
    /// In this environment; in all where it says none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
    /// How many distinct keys.
    pub min: NonZeroUsize,
}

impl ThresholdRule {
    /// Whether it is about all that the other is about.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let repo = self.repo.is_none() || self.repo == other.repo;
        repo && (self.environment.is_none() || self.environment == other.environment)
    }

    fn is_about(&self, repo: &RepoPath, environment: &Environment) -> bool {
        self.repo.as_ref().is_none_or(|it| it == repo)
            && self.environment.as_ref().is_none_or(|it| it == environment)
    }
}

/// One key for everything.
impl Default for Thresholds {
    fn default() -> Self {
        Self {
            otherwise: NonZeroUsize::MIN,
            rules: Vec::new(),
            signers: None,
        }
    }
}

impl Thresholds {
    /// What `rules` say, and `otherwise` where none does; `signers` for a new signers file.
    ///
    /// # Errors
    /// [`TooMany`] where no release could ever be signed so.
    pub fn new(
        otherwise: NonZeroUsize,
        rules: Vec<ThresholdRule>,
        signers: Option<NonZeroUsize>,
    ) -> Result<Self, TooMany> {
        let thresholds = Self {
            otherwise,
            rules,
            signers,
        };
        let all = thresholds.all().chain(signers);
        match all.max() {
            Some(most) if most.get() > SIGNATURES_MAX => Err(TooMany(most)),
            _ => Ok(thresholds),
        }
    }

    /// How many keys a release takes: the most that any rule about it asks, so that a rule for all cannot weaken one for a repo.
    pub fn of(&self, repo: &RepoPath, environment: &Environment) -> NonZeroUsize {
        let about = self
            .rules
            .iter()
            .filter(|rule| rule.is_about(repo, environment));
        about.map(|rule| rule.min).max().unwrap_or(self.otherwise)
    }

    /// How many keys a new signers file takes, of the file before it and of itself: what is said, else the most that any release
    /// takes, since who brings the file could release.
    pub fn of_signers(&self) -> NonZeroUsize {
        let most = self.all().max().unwrap_or(self.otherwise);
        self.signers.unwrap_or(most)
    }

    fn all(&self) -> impl Iterator<Item = NonZeroUsize> {
        let rules = self.rules.iter().map(|rule| rule.min);
        rules.chain([self.otherwise])
    }
}

/// More keys than a release can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} signatures are asked for, and a release has at most {SIGNATURES_MAX}")]
pub struct TooMany(NonZeroUsize);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn count(number: usize) -> NonZeroUsize {
        NonZeroUsize::new(number).unwrap()
    }

    fn rule(repo: &str, environment: &str, min: usize) -> ThresholdRule {
        ThresholdRule {
            repo: (!repo.is_empty()).then(|| repo.parse().unwrap()),
            environment: (!environment.is_empty()).then(|| environment.parse().unwrap()),
            min: count(min),
        }
    }

    #[test]
    fn the_most_that_any_rule_asks_is_taken_and_else_what_is_said_for_all() {
        let rules = vec![
            rule("web/site", "production", 3),
            rule("", "production", 2),
            rule("web/site", "", 1),
        ];
        let thresholds = Thresholds::new(count(4), rules, None).unwrap();
        let of = |repo: &str, environment: &str| {
            let (repo, environment) = (repo.parse().unwrap(), environment.parse().unwrap());
            thresholds.of(&repo, &environment).get()
        };
        assert_eq!(of("web/site", "production"), 3);
        assert_eq!(of("db", "production"), 2);
        assert_eq!(of("web/site", "staging"), 1);
        assert_eq!(of("db", "staging"), 4);
        assert_eq!(thresholds.of_signers().get(), 4);
    }

    #[test]
    fn more_than_a_release_can_have_is_refused() {
        let one = NonZeroUsize::MIN;
        assert_eq!(
            Thresholds::new(count(9), Vec::new(), None),
            Err(TooMany(count(9)))
        );
        assert!(Thresholds::new(one, vec![rule("a", "b", 9)], None).is_err());
        assert!(Thresholds::new(one, Vec::new(), Some(count(9))).is_err());
        let most = Thresholds::new(count(8), Vec::new(), Some(count(2))).unwrap();
        assert_eq!(most.of_signers().get(), 2);
    }
}
