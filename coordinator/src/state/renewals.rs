//! Certificates that are renewed: the coordinator's own, and those of hosts by what is recorded of their enrolment.

use std::sync::Arc;

use scap_agent::error_chain;
use scap_proto::{
    codec::{self, CodecError},
    id::NodeId,
    identity::{AuthorityError, Identity, Life, PUBLIC_KEY_BYTES, RenewError, Role, Validity},
    reason::Reason,
    release::{Renewal, SignedRenewal, UnixMillis},
};

use super::{Enrolled, How, StateDirectory, StateError, enrolments::refuse_revoked};

/// How old the coordinator's own certificate may become while the authority is at hand, in milliseconds: 30 days. Hosts
/// show memberships that it signed, which are believed no longer than its certificate is valid, and they get the next one after
/// eight months: so one that is a month old when it signs covers them.
pub const OWN_AGE_MS_MAX: u64 = 30 * 24 * 3600 * 1000;

/// What became of the coordinator's own certificate.
#[derive(Debug)]
pub enum OwnRenewal {
    /// It is new enough.
    Kept,
    /// It is another one now.
    Renewed,
    /// It was to be another one, and the authority is not here, or did not give one.
    Failed(OwnRenewalError),
}

/// Why the coordinator's own certificate is not renewed.
#[derive(Debug, thiserror::Error)]
pub enum OwnRenewalError {
    /// The authority is kept elsewhere, or cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// It does not certify that.
    #[error("use the fleet's certificate authority")]
    Authority(#[from] AuthorityError),
    /// What it gave is of no use.
    #[error("renew this coordinator's certificate")]
    Renew(#[from] RenewError),
}

/// Why a host gets no certificate.
#[derive(Debug, thiserror::Error)]
pub enum HostRenewalError {
    /// Its certificate is over, and nothing says that it was enrolled.
    #[error(
        "its certificate has expired, and this state directory has no record of its enrolment (hint: enroll it again)"
    )]
    NotEnrolled,
    /// It was enrolled again since, or somewhere else, with another key.
    #[error(
        "it shows the key of an enrolment before its latest one (hint: give it the identity of the latest, or enroll it again)"
    )]
    OtherKey,
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The authority.
    #[error("use the fleet's certificate authority")]
    Authority(#[from] AuthorityError),
    /// What was just made cannot be read.
    #[error("read the membership that was just made")]
    Membership(#[from] CodecError),
}

impl HostRenewalError {
    /// Its code.
    pub fn code(&self) -> Reason {
        match self {
            Self::NotEnrolled | Self::OtherKey => Reason::NotEnrolled,
            Self::State(StateError::Trust(error)) => error.code().unwrap_or(Reason::Failed),
            Self::State(_) | Self::Authority(_) | Self::Membership(_) => Reason::Failed,
        }
    }

    /// Whether it is so for all hosts.
    pub fn is_for_all(&self) -> bool {
        matches!(
            self,
            Self::Authority(_) | Self::State(StateError::Authority(_))
        )
    }
}

impl StateDirectory {
    /// The coordinator's identity. Where the authority is here too, its certificate is renewed first once it is a month old;
    /// where that fails, the present one is used, and a warning is logged once a third of its life is left.
    ///
    /// # Errors
    /// [`StateError::Identity`].
    pub fn identity_at(&self, now: UnixMillis) -> Result<Arc<Identity>, StateError> {
        let (identity, renewal) = self.renew_own(now, OWN_AGE_MS_MAX)?;
        let is_due = identity.validity().life(now.0) != Life::Good;
        if let OwnRenewal::Failed(error) = &renewal
            && is_due
        {
            let error = error_chain(error);
            tracing::warn!(
                error,
                "this coordinator's certificate ends, and is not renewed"
            );
        }
        Ok(identity)
    }

    /// The coordinator's identity, and what became of its certificate, which may be `age_ms_max` milliseconds old.
    ///
    /// # Errors
    /// [`StateError::Identity`].
    pub fn renew_own(
        &self,
        now: UnixMillis,
        age_ms_max: u64,
    ) -> Result<(Arc<Identity>, OwnRenewal), StateError> {
        let identity = self.identity()?;
        let valid = identity.validity();
        let is_new = now.0.saturating_sub(valid.not_before_unix_ms) <= age_ms_max;
        let renewal = match is_new && valid.life(now.0) != Life::Early {
            true => OwnRenewal::Kept,
            false => match self.next_own(&identity, now) {
                Ok(()) => OwnRenewal::Renewed,
                Err(error) => OwnRenewal::Failed(error),
            },
        };
        Ok((identity, renewal))
    }

    fn next_own(&self, identity: &Identity, now: UnixMillis) -> Result<(), OwnRenewalError> {
        let authority = self.authority()?;
        let (own, key) = (identity.own(), identity.public_key());
        let issued = self.issued_from(own.role, &own.name, now)?;
        let certificate = authority.issue(own, key, Validity::leaf(issued.0))?;
        identity.renew(&certificate.pem, None, now.0)?;
        Ok(())
    }

    /// The next certificate of a host that has shown that it holds `key`, by a handshake or by what it signed, and whose present
    /// one is `valid`. It says what is recorded of the host. Of one that was enrolled before there were records its present
    /// certificate, while it is valid, says who it is; it keeps the membership that it has. Blocks: it records first.
    ///
    /// # Errors
    /// [`HostRenewalError`].
    pub fn renew_host(
        &self,
        host: &NodeId,
        key: &[u8; PUBLIC_KEY_BYTES],
        valid: Validity,
        now: UnixMillis,
    ) -> Result<SignedRenewal, HostRenewalError> {
        let (certificate, membership) = match self.enrolment(host)? {
            Some(record) if record.public_key != *key => return Err(HostRenewalError::OtherKey),
            Some(record) => {
                let enrolled = Enrolled {
                    host: host.clone(),
                    environments: record.environments,
                    how: How::Renewal,
                    readmit: false,
                };
                let enrolment = self.certify(&enrolled, key, now)?.enrolment;
                let membership = enrolment.membership.as_deref().map(codec::decode);
                (enrolment.certificate, membership.transpose()?)
            }
            None if matches!(valid.life(now.0), Life::Good | Life::Due) => {
                self.refuse_cut_off_key(host, key)?;
                refuse_revoked(self.identity()?.as_ref(), host, How::Renewal)?;
                let authority = self.authority()?;
                let issued = self.issued_from(Role::Agent, host, now)?;
                let node = authority.node(Role::Agent, host.clone());
                let certificate = authority.issue(&node, key, Validity::leaf(issued.0))?;
                (certificate.pem, None)
            }
            None => return Err(HostRenewalError::NotEnrolled),
        };
        let renewal = Renewal {
            host: host.clone(),
            certificate,
            membership,
            extensions: Default::default(),
        };
        Ok(SignedRenewal::sign(
            &renewal,
            self.identity_at(now)?.as_ref(),
        ))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use scap_agent::trust::HostTrust;
    use tempfile::TempDir;

    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;
    const NOW: UnixMillis = UnixMillis(1_767_323_045_000);

    fn later(days: u64) -> UnixMillis {
        UnixMillis(NOW.0 + days * DAY)
    }

    struct World {
        folder: TempDir,
        state: StateDirectory,
        host: NodeId,
    }

    impl World {
        /// A fleet with `web1`, which is in staging.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("state");
            StateDirectory::init(&path, &"prod".parse().unwrap(), NOW).unwrap();
            let state = StateDirectory::open(&path).unwrap();
            let host: NodeId = "web1".parse().unwrap();
            let environments = ["staging".parse().unwrap()];
            let out = folder.path().join("web1");
            state.enroll(&host, &out, &environments, NOW).unwrap();
            Self {
                folder,
                state,
                host,
            }
        }

        fn trust(&self, now: UnixMillis) -> HostTrust {
            HostTrust::load(&self.folder.path().join("web1"), now).unwrap()
        }

        fn renew(&self, now: UnixMillis) -> Result<SignedRenewal, HostRenewalError> {
            let trust = self.trust(now);
            let (key, valid) = (trust.identity.public_key(), trust.identity.validity());
            self.state.renew_host(&self.host, key, valid, now)
        }
    }

    #[test]
    fn a_host_is_renewed_as_what_it_was_enrolled_as_and_its_membership_outlives_the_coordinators_certificate()
     {
        let world = World::new();
        let mut now = NOW;
        for _ in 0..5 {
            now = UnixMillis(now.0 + 250 * DAY);
            let renewal = world.renew(now).unwrap();
            let trust = world.trust(now);
            let valid = trust.renew(&renewal, now).unwrap();
            assert_eq!(valid.not_after_unix_ms, (now.0 + 365 * DAY) / 1000 * 1000);
            // As long as until its next certificate, and a season more.
            let shown = trust.membership.get().unwrap();
            let until = UnixMillis(now.0 + 330 * DAY);
            let membership = shown
                .verify(trust.identity.trust(), &world.host, until)
                .unwrap();
            assert_eq!(membership.environments[0].as_str(), "staging");
            let again = world.trust(now);
            assert_eq!(again.membership.get(), Some(shown));
            assert_eq!(again.identity.validity(), valid);
        }
        let record = world.state.enrolment(&world.host).unwrap().unwrap();
        assert_eq!(record.how, How::Renewal);
    }

    #[test]
    fn e2_a_host_that_shows_another_key_than_its_enrolment_gets_no_certificate() {
        let world = World::new();
        let stranger = scap_proto::identity::SecretKey::generate();
        let valid = world.trust(NOW).identity.validity();
        let refused = world
            .state
            .renew_host(&world.host, stranger.public(), valid, NOW)
            .unwrap_err();
        assert!(matches!(refused, HostRenewalError::OtherKey), "{refused}");
        assert_eq!(refused.code(), Reason::NotEnrolled);
    }

    #[test]
    fn e3_a_host_without_a_record_is_renewed_while_its_certificate_is_valid_and_not_after() {
        let world = World::new();
        let records = world.folder.path().join("state/enrolments");
        std::fs::remove_dir_all(records).unwrap();
        let renewal = world.renew(later(300)).unwrap();
        let trust = world.trust(later(300));
        let before = trust.membership.get();
        trust.renew(&renewal, later(300)).unwrap();
        assert_eq!(trust.membership.get(), before);
        let refused = world.renew(later(300 + 366)).unwrap_err();
        assert!(
            matches!(refused, HostRenewalError::NotEnrolled),
            "{refused}"
        );
    }

    #[test]
    fn the_coordinators_own_certificate_is_renewed_once_a_month_and_also_when_it_has_expired() {
        let world = World::new();
        let end = |now| {
            let identity = world.state.identity_at(now).unwrap();
            identity.check_time(now.0).unwrap();
            identity.validity().not_after_unix_ms
        };
        let first = end(NOW);
        assert_eq!(end(later(29)), first);
        let second = end(later(31));
        assert_eq!(second, first + 31 * DAY);
        assert_eq!(end(later(800)), first + 800 * DAY);
        // And what a clock that was ahead made does not last.
        assert_eq!(end(later(90)), first + 90 * DAY);
    }

    #[test]
    fn where_the_authority_is_kept_elsewhere_the_coordinator_goes_on_with_what_it_has() {
        let world = World::new();
        let state = world.folder.path().join("state");
        std::fs::rename(state.join("ca"), world.folder.path().join("safe")).unwrap();
        let (identity, renewal) = world.state.renew_own(later(300), OWN_AGE_MS_MAX).unwrap();
        assert!(matches!(renewal, OwnRenewal::Failed(_)), "{renewal:?}");
        assert!(identity.check_time(later(300).0).is_ok());
        let refused = world.renew(later(300)).unwrap_err();
        assert!(refused.is_for_all(), "{refused}");
    }
}
