//! A host takes its next certificate.

use scap_proto::{
    codec,
    identity::{RenewError, Validity},
    release::{AuthorityError, SignedRenewal, UnixMillis, renewal::RenewalError},
};

use super::HostTrust;

/// Why a host does not take a renewal; it keeps what it has.
#[derive(Debug, thiserror::Error)]
pub enum NotRenewed {
    /// It is no renewal, or not for this host.
    #[error(transparent)]
    Renewal(#[from] RenewalError),
    /// Its membership is none.
    #[error("check the membership that came with a renewal")]
    Membership(#[source] AuthorityError),
    /// Its certificate is not this node's next, or cannot be kept.
    #[error(transparent)]
    Renew(#[from] RenewError),
}

impl NotRenewed {
    /// Whether the renewal is good, and this host could not keep it.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Renew(RenewError::Install(_)))
    }

    /// Whether it is what the host has already, or older: nothing is wrong with that.
    pub fn is_repeat(&self) -> bool {
        matches!(self, Self::Renew(RenewError::NotLater))
    }
}

impl HostTrust {
    /// Takes a renewal: certificate and membership come to the disk in one step, and are used from then on. Blocks while it
    /// writes. Returns when the new certificate is valid.
    ///
    /// # Errors
    /// [`NotRenewed`].
    pub fn renew(&self, signed: &SignedRenewal, now: UnixMillis) -> Result<Validity, NotRenewed> {
        let trust = self.identity.trust();
        let renewal = signed.verify(trust, &self.addressee.host, now)?;
        if let Some(membership) = &renewal.membership {
            membership
                .verify(trust, &self.addressee.host, now)
                .map_err(NotRenewed::Membership)?;
        }
        let encoded = renewal.membership.as_ref().map(codec::encode);
        let encoded = encoded.map(Into::into);
        let valid = self.identity.renew(&renewal.certificate, encoded, now.0)?;
        if let Some(membership) = renewal.membership {
            self.membership.set(membership);
        }
        Ok(valid)
    }
}
