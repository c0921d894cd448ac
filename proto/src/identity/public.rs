//! What an identity directory says to who may not have its key.

use std::path::Path;

use super::{
    authority::Validity,
    bundle::{AUTHORITIES_FILE, CERTIFICATE_FILE, IdentityError, read_certificates},
    install::file_in,
    peer::{Leaf, PeerIdentity},
    refusal::Refusal,
    trust::Trust,
};

/// Who a node is and whom it trusts, without its key: for a process of its host that verifies and never speaks for it. It can
/// sign nothing and make no link, and the key need not be readable for it.
#[derive(Debug, Clone)]
pub struct PublicIdentity {
    own: PeerIdentity,
    validity: Validity,
    certificate: Vec<u8>,
    trust: Trust,
}

impl PublicIdentity {
    /// Reads the certificate and the authorities of an identity directory, and checks that they belong together.
    ///
    /// # Errors
    /// [`IdentityError`]; each names the file and, where there is one, the remedy.
    pub fn load(directory: &Path) -> Result<Self, IdentityError> {
        let certificate_path = file_in(directory, CERTIFICATE_FILE);
        let authorities_path = file_in(directory, AUTHORITIES_FILE);
        let malformed = |path: &Path, problem| IdentityError::Malformed {
            path: path.into(),
            problem,
        };
        let found = read_certificates(&certificate_path)?;
        let [certificate] = found.as_slice() else {
            return Err(IdentityError::Certificates {
                path: certificate_path,
                found: found.len(),
            });
        };
        let own =
            Leaf::parse(certificate).map_err(|problem| malformed(&certificate_path, problem))?;
        let authorities = read_certificates(&authorities_path)?;
        let trust = Trust::new(own.identity.fleet.clone(), &authorities)
            .map_err(|_| malformed(&authorities_path, "it is not usable as an authority"))?;
        trust
            .check_issuer(certificate)
            .map_err(|_| IdentityError::Issuer {
                certificate: certificate_path.clone(),
                authorities: authorities_path,
            })?;
        Ok(Self {
            own: own.identity,
            validity: own.validity,
            certificate: certificate.to_vec(),
            trust,
        })
    }

    /// Who the node is.
    pub fn own(&self) -> &PeerIdentity {
        &self.own
    }

    /// When its certificate is valid.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Whom it trusts.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Whether its certificate is valid now by this clock.
    ///
    /// # Errors
    /// [`Refusal::Expired`] and [`Refusal::NotYetValid`].
    pub fn check_time(&self, now_unix_ms: u64) -> Result<(), Refusal> {
        self.trust.check(&self.certificate, now_unix_ms).map(|_| ())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::identity::{CertificateAuthority, Identity, Role};

    const NOW: u64 = 1_767_323_045_000;

    #[test]
    fn who_may_not_read_the_key_knows_the_same_of_the_node() {
        let authority = CertificateAuthority::create(&"prod".parse().unwrap(), NOW).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let node = authority.node(Role::Agent, "web1".parse().unwrap());
        let whole = Identity::create(directory.path(), &authority, &node, Validity::leaf(NOW));
        let whole = whole.unwrap();
        std::fs::remove_file(directory.path().join("node.key")).unwrap();
        assert!(Identity::load(directory.path()).is_err());
        let public = PublicIdentity::load(directory.path()).unwrap();
        assert_eq!(public.own(), whole.own());
        assert_eq!(public.validity(), whole.validity());
        assert_eq!(public.trust().authorities(), whole.trust().authorities());
        assert!(public.check_time(NOW).is_ok());
        let end = public.validity().not_after_unix_ms;
        assert!(public.check_time(end + 1).is_err());
    }

    #[test]
    fn a_certificate_of_another_authority_than_the_one_beside_it_is_refused() {
        let make = |name: &str| {
            let authority = CertificateAuthority::create(&"prod".parse().unwrap(), NOW).unwrap();
            let directory = tempfile::tempdir().unwrap();
            let node = authority.node(Role::Agent, name.parse().unwrap());
            Identity::create(directory.path(), &authority, &node, Validity::leaf(NOW)).unwrap();
            directory
        };
        let (one, other) = (make("web1"), make("web1"));
        let file = |of: &tempfile::TempDir| of.path().join(AUTHORITIES_FILE);
        std::fs::copy(file(&other), file(&one)).unwrap();
        let error = PublicIdentity::load(one.path()).unwrap_err();
        assert!(matches!(error, IdentityError::Issuer { .. }), "{error}");
    }
}
