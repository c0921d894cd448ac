//! The directive: a level that hosts shall reach, not an event.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    bounded,
    codec::Extensible,
    extensions::Extensions,
    id::{NodeId, PlanId, ReleaseId},
    identity::SecretKey,
    limits::DIRECTIVE_TARGETS_MAX,
    release::{
        grant::VerifiedGrant,
        signed::{AuthorityError, SessionSigned, SignedObject},
    },
};

/// How far a host shall take a release. Variants are only ever added at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Have every chunk, verified.
    Fetch,
    /// Have it live.
    Promote,
    /// Be back at what was live before this release, or at nothing.
    Revert,
}

/// Most targets that are read: one too many is refused by name, and not so many that it costs memory.
const DIRECTIVE_TARGETS_READ_MAX: usize = 2 * DIRECTIVE_TARGETS_MAX;

/// Which hosts are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Targets {
    /// Every host that the release is addressed to.
    All,
    /// Only these, in strictly rising order; at most [`DIRECTIVE_TARGETS_MAX`].
    Only(
        #[serde(deserialize_with = "bounded::list::<_, _, DIRECTIVE_TARGETS_READ_MAX>")]
        Vec<NodeId>,
    ),
}

impl Targets {
    /// Whether `host` is meant.
    pub fn include(&self, host: &NodeId) -> bool {
        match self {
            Self::All => true,
            Self::Only(hosts) => hosts.binary_search(host).is_ok(),
        }
    }
}

/// An order about one release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directive {
    /// Which release.
    pub release: ReleaseId,
    /// The epoch of the grant under which it is given.
    pub epoch: u64,
    /// Its place among the directives of this epoch. A host obeys only a higher (epoch, number).
    pub number: u64,
    /// Who.
    pub targets: Targets,
    /// What.
    pub stage: Stage,
    /// The plan by which hosts fetch, where it changed.
    pub plan: Option<PlanId>,
    /// Room to grow.
    pub extensions: Extensions,
}

/// How long a host that has the release live keeps it without another order: 4 bytes, in seconds, little-endian. Who does not know it
/// would keep the release for good, and so refuses the order.
const DEAD_MAN: u16 = 1;

impl Directive {
    /// Least dead-man time: it is renewed four times in it, and a control tree that lost a relay takes seconds to mend.
    pub const DEAD_MAN_MIN: Duration = Duration::from_secs(10);
    /// Longest: as long as a grant lasts, after which nothing is renewed.
    pub const DEAD_MAN_MAX: Duration = Duration::from_secs(24 * 3600);

    /// The same directive, which lapses after so long: a host that has the release live then, is not told anything of a higher
    /// (epoch, number) and does not know the release to be the stable one goes back by itself to what it ran before. Whole seconds.
    pub fn lapsing_after(self, time: Duration) -> Self {
        let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        let bytes = Bytes::copy_from_slice(&seconds.to_le_bytes());
        let extensions = self.extensions.with(DEAD_MAN, bytes);
        let extensions = extensions.expect("a few short ones are allowed");
        Self { extensions, ..self }
    }

    /// After how long it lapses; none where it does not, or says so in a way that [`SignedDirective::verify`] refuses.
    pub fn dead_man(&self) -> Option<Duration> {
        let bytes = self.extensions.get(DEAD_MAN)?;
        let seconds = u32::from_le_bytes(bytes.as_ref().try_into().ok()?);
        let time = Duration::from_secs(seconds.into());
        (Self::DEAD_MAN_MIN..=Self::DEAD_MAN_MAX)
            .contains(&time)
            .then_some(time)
    }

    fn check_dead_man(&self) -> Result<(), AuthorityError> {
        match self.extensions.get(DEAD_MAN) {
            Some(_) if self.dead_man().is_none() => Err(AuthorityError::DeadMan),
            _ => Ok(()),
        }
    }
}

impl Extensible for Directive {
    const EXTENSIONS_KNOWN: &'static [u16] = &[DEAD_MAN];

    fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

impl SignedObject for Directive {
    const MAGIC: &'static str = "scap-directive/1\n";
}

/// A directive with its signature, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedDirective(SessionSigned);

impl SignedDirective {
    /// Signs `directive`.
    pub fn sign(directive: &Directive, key: &SecretKey) -> Self {
        Self(SessionSigned::sign(directive, key))
    }

    /// Who is meant, by its own word: to find the way to them. None where it cannot be read.
    pub fn targets_unverified(&self) -> Option<Targets> {
        Some(self.read_unverified()?.targets)
    }

    /// What it says, whoever signed it. None where it cannot be read.
    pub fn read_unverified(&self) -> Option<Directive> {
        Directive::from_payload(&self.0.payload).ok()
    }

    /// Checks that the holder of the grant gave this order under it.
    ///
    /// # Errors
    /// [`AuthorityError::SessionSignature`], [`AuthorityError::Codec`],
    /// [`AuthorityError::OtherRelease`], [`AuthorityError::OtherEpoch`],
    /// [`AuthorityError::Limit`], [`AuthorityError::Targets`], [`AuthorityError::DeadMan`].
    pub fn verify(&self, grant: &VerifiedGrant) -> Result<Directive, AuthorityError> {
        let directive: Directive = self.0.open(&grant.grant().session_key)?;
        let grant = grant.grant();
        if directive.release != grant.release {
            return Err(AuthorityError::OtherRelease {
                expected: grant.release,
                found: directive.release,
            });
        }
        if directive.epoch != grant.epoch {
            return Err(AuthorityError::OtherEpoch {
                expected: grant.epoch,
                found: directive.epoch,
            });
        }
        if let Targets::Only(hosts) = &directive.targets {
            AuthorityError::check_limit("targets", hosts.len(), 0..=DIRECTIVE_TARGETS_MAX)?;
            if !hosts.is_sorted_by(|a, b| a < b) {
                return Err(AuthorityError::Targets);
            }
        }
        directive.check_dead_man()?;
        Ok(directive)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn directive() -> Directive {
        Directive {
            release: ReleaseId::from_bytes([7; 32]),
            epoch: 1,
            number: 2,
            targets: Targets::All,
            stage: Stage::Promote,
            plan: None,
            extensions: Extensions::default(),
        }
    }

    #[test]
    fn a_dead_man_time_is_of_four_bytes_and_within_its_limits() {
        let lapsing = |seconds| directive().lapsing_after(Duration::from_secs(seconds));
        assert!(directive().check_dead_man().is_ok());
        for seconds in [10, 24 * 3600] {
            assert_eq!(
                lapsing(seconds).dead_man(),
                Some(Duration::from_secs(seconds))
            );
            assert!(lapsing(seconds).check_dead_man().is_ok());
        }
        let short = Extensions::default().with(DEAD_MAN, Bytes::from_static(&[60, 0]));
        let short = Directive {
            extensions: short.unwrap(),
            ..directive()
        };
        let beyond = [0, 9, 24 * 3600 + 1, u64::MAX].map(lapsing);
        for refused in beyond.into_iter().chain([short]) {
            assert_eq!(refused.dead_man(), None);
            let error = refused.check_dead_man().unwrap_err();
            assert!(matches!(error, AuthorityError::DeadMan), "{error}");
        }
        // The later time counts.
        let again = lapsing(600).lapsing_after(Duration::from_secs(60));
        assert_eq!(again, lapsing(60));
    }
}
