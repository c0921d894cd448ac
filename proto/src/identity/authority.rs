//! The private certificate authority of a fleet.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SanType, SerialNumber,
    SignatureAlgorithm,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use time::OffsetDateTime;

use super::{
    file::{self, FileError},
    fleet::{FleetName, Role},
    key::{KeyError, PUBLIC_KEY_BYTES, SecretKey},
    peer::{self, AuthorityCertificate, PeerIdentity},
};
use crate::id::NodeId;

/// How long an authority is valid, in days: ten years. Replacing it means visiting every host, so
/// it outlives the hosts; it is private to one fleet and its key is used only to enrol.
pub const AUTHORITY_VALIDITY_DAYS: u64 = 3652;

/// How long a node's certificate is valid, in days: one year. Long enough that a fleet enrolled by
/// hand is not a burden, short enough that a host forgotten in a cupboard stops being a member.
pub const LEAF_VALIDITY_DAYS: u64 = 365;

/// How far before its issue a certificate becomes valid, in seconds: one hour, so that a host whose
/// clock is behind by less can be enrolled and used at once.
pub const CLOCK_SKEW_SECS: u64 = 3600;

/// A period, both ends included. Certificates keep whole seconds of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First instant, in milliseconds since 1970.
    pub not_before_unix_ms: u64,
    /// Last instant, in milliseconds since 1970.
    pub not_after_unix_ms: u64,
}

impl Validity {
    /// From [`CLOCK_SKEW_SECS`] before `now_unix_ms` to [`LEAF_VALIDITY_DAYS`] after it.
    pub fn leaf(now_unix_ms: u64) -> Self {
        Self::days(now_unix_ms, LEAF_VALIDITY_DAYS)
    }

    fn days(now_unix_ms: u64, days: u64) -> Self {
        Self {
            not_before_unix_ms: now_unix_ms.saturating_sub(CLOCK_SKEW_SECS * 1000),
            not_after_unix_ms: now_unix_ms.saturating_add(days * 24 * 3600 * 1000),
        }
    }
}

/// A certificate, in both its forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// As it is sent.
    pub der: CertificateDer<'static>,
    /// As it is kept in a file.
    pub pem: String,
}

impl Certificate {
    /// The first in a text in PEM.
    pub fn from_pem(pem: &str) -> Option<Self> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let pem = pem.to_owned();
        Some(Self { der, pem })
    }

    /// Whose key it certifies, where it is a node's.
    pub fn leaf_key(&self) -> Option<[u8; PUBLIC_KEY_BYTES]> {
        peer::leaf_key(&self.der)
    }

    /// When it is valid, where it is a node's.
    pub fn leaf_validity(&self) -> Option<Validity> {
        peer::Leaf::parse(&self.der).ok().map(|leaf| leaf.validity)
    }
}

/// The authority of one fleet: it certifies which key belongs to which node.
///
/// It is one level deep: what it certifies cannot certify others.
#[derive(Debug)]
pub struct CertificateAuthority {
    fleet: FleetName,
    validity: Validity,
    certificate: Certificate,
    key: SecretKey,
}

impl CertificateAuthority {
    /// Makes the authority of a new fleet, valid for [`AUTHORITY_VALIDITY_DAYS`].
    ///
    /// # Errors
    /// [`AuthorityError::Encode`] where `now_unix_ms` is no date that a certificate can say.
    pub fn create(fleet: &FleetName, now_unix_ms: u64) -> Result<Self, AuthorityError> {
        let key = SecretKey::generate();
        let validity = Validity::days(now_unix_ms, AUTHORITY_VALIDITY_DAYS);
        let mut params = params(
            &format!("scap authority {fleet}"),
            &peer::fleet_uri(fleet),
            validity,
        )?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params
            .self_signed(key.pair())
            .map_err(AuthorityError::Encode)?;
        Ok(Self {
            fleet: fleet.clone(),
            validity,
            certificate: certificate.into(),
            key,
        })
    }

    /// Writes `ca.crt` and `ca.key` (mode 0600) into `directory`, which is made with mode 0700 if
    /// absent. A crash leaves each file whole or absent.
    ///
    /// # Errors
    /// [`AuthorityError::File`]; an authority that is there already is never replaced.
    pub fn save(&self, directory: &Path) -> Result<(), AuthorityError> {
        file::create_private_directory(directory)?;
        self.key.create_file(&directory.join(KEY_FILE))?;
        file::create_file(&directory.join(CERTIFICATE_FILE), &self.certificate.pem)?;
        Ok(())
    }

    /// Reads what [`Self::save`] wrote.
    ///
    /// # Errors
    /// [`AuthorityError::Key`], in particular where others may read the key;
    /// [`AuthorityError::File`]; [`AuthorityError::Malformed`]; and [`AuthorityError::Mismatch`]
    /// where key and certificate do not belong together.
    pub fn load(directory: &Path) -> Result<Self, AuthorityError> {
        let path = directory.join(CERTIFICATE_FILE);
        let malformed = |problem| AuthorityError::Malformed {
            path: path.clone(),
            problem,
        };
        let key = SecretKey::load(&directory.join(KEY_FILE))?;
        let pem = file::read_file(&path)?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| malformed("there is no certificate in it"))?;
        let parsed = AuthorityCertificate::parse(&der).map_err(malformed)?;
        if parsed.public_key != *key.public() {
            return Err(AuthorityError::Mismatch { path });
        }
        Ok(Self {
            fleet: parsed.fleet,
            validity: parsed.validity,
            certificate: Certificate { der, pem },
            key,
        })
    }

    /// The fleet it speaks for.
    pub fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    /// A node of its fleet.
    pub fn node(&self, role: Role, name: NodeId) -> PeerIdentity {
        PeerIdentity {
            fleet: self.fleet.clone(),
            role,
            name,
        }
    }

    /// Its own certificate, which is what nodes trust.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The public half of its key, by which it is told from others.
    pub fn public_key(&self) -> &[u8; PUBLIC_KEY_BYTES] {
        self.key.public()
    }

    /// Its key, which signs what the fleet believes.
    pub(super) fn key(&self) -> &SecretKey {
        &self.key
    }

    /// Certifies that `public_key` is that of `node`, which must be of this authority's fleet. The
    /// period is cut to the authority's own, so nothing outlives it.
    ///
    /// # Errors
    /// [`AuthorityError::OtherFleet`]; [`AuthorityError::Encode`] where the period is no period
    /// that a certificate can say.
    pub fn issue(
        &self,
        node: &PeerIdentity,
        public_key: &[u8; PUBLIC_KEY_BYTES],
        validity: Validity,
    ) -> Result<Certificate, AuthorityError> {
        if node.fleet != self.fleet {
            return Err(AuthorityError::OtherFleet {
                node: node.clone(),
                ours: self.fleet.clone(),
            });
        }
        let validity = Validity {
            not_before_unix_ms: validity
                .not_before_unix_ms
                .max(self.validity.not_before_unix_ms),
            not_after_unix_ms: validity
                .not_after_unix_ms
                .min(self.validity.not_after_unix_ms),
        };
        let mut params = params(&format!("scap {}", node.role), &node.to_uri(), validity)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let issuer: Issuer<'_, &KeyPair> =
            Issuer::from_ca_cert_der(&self.certificate.der, self.key.pair())
                .map_err(AuthorityError::Encode)?;
        params
            .signed_by(&RawPublicKey(public_key), &issuer)
            .map(Into::into)
            .map_err(AuthorityError::Encode)
    }
}

/// Why an authority cannot be made, read, kept or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its key cannot be read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Its certificate is not one.
    #[error("{} is not the certificate of a fleet's authority: {problem}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What about it.
        problem: &'static str,
    },
    /// Its key is another's.
    #[error("{} and ca.key beside it do not belong together", path.display())]
    Mismatch {
        /// The certificate's file.
        path: PathBuf,
    },
    /// It was asked to certify a node of another fleet.
    #[error("certify {node}: this is the authority of fleet {ours}")]
    OtherFleet {
        /// Who was to be certified.
        node: PeerIdentity,
        /// The authority's fleet.
        ours: FleetName,
    },
    /// The period is none that a certificate can say.
    #[error("a certificate cannot say {0} ms after 1970")]
    Date(u64),
    /// The certificate could not be made.
    #[error("encode a certificate")]
    Encode(#[source] rcgen::Error),
}

/// Name of the authority's certificate in its directory.
const CERTIFICATE_FILE: &str = "ca.crt";
/// Name of the authority's key in its directory.
const KEY_FILE: &str = "ca.key";

impl From<rcgen::Certificate> for Certificate {
    fn from(made: rcgen::Certificate) -> Self {
        Self {
            pem: made.pem(),
            der: made.into(),
        }
    }
}

/// A node's public key, as rcgen takes one.
struct RawPublicKey<'a>(&'a [u8; PUBLIC_KEY_BYTES]);

impl PublicKeyData for RawPublicKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

fn params(
    common_name: &str,
    uri: &str,
    validity: Validity,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.not_before = date(validity.not_before_unix_ms)?;
    params.not_after = date(validity.not_after_unix_ms)?;
    params.serial_number = Some(random_serial());
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    let uri = uri.try_into().map_err(AuthorityError::Encode)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    Ok(params)
}

/// 16 random bytes: unique without a record of those given. The first bit is 0 and the second 1, so
/// the number is positive and has one encoding.
fn random_serial() -> SerialNumber {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives randomness");
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn date(unix_ms: u64) -> Result<OffsetDateTime, AuthorityError> {
    i64::try_from(unix_ms / 1000)
        .ok()
        .and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok())
        .ok_or(AuthorityError::Date(unix_ms))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    const NOW: u64 = 1_767_323_045_000;

    fn authority(fleet: &str) -> CertificateAuthority {
        CertificateAuthority::create(&fleet.parse().unwrap(), NOW).unwrap()
    }

    #[test]
    fn an_authority_is_the_same_after_it_was_saved_and_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca");
        let made = authority("prod");
        made.save(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join("ca.key")), 0o600);
        let loaded = CertificateAuthority::load(&path).unwrap();
        assert_eq!(loaded.fleet().as_str(), "prod");
        assert_eq!(loaded.certificate(), made.certificate());

        let again = authority("prod").save(&path).unwrap_err();
        assert!(matches!(
            again,
            AuthorityError::File(FileError::Exists { .. })
        ));
        fs::set_permissions(path.join("ca.key"), fs::Permissions::from_mode(0o660)).unwrap();
        let error = CertificateAuthority::load(&path).unwrap_err().to_string();
        assert!(error.contains("ca.key has mode 660"), "{error}");
    }

    #[test]
    fn a_certificate_with_another_authoritys_key_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        authority("prod").save(directory.path()).unwrap();
        let path = directory.path().join("ca.crt");
        fs::write(&path, &authority("prod").certificate().pem).unwrap();
        let error = CertificateAuthority::load(directory.path()).unwrap_err();
        assert!(matches!(error, AuthorityError::Mismatch { .. }), "{error}");
        fs::write(&path, "nothing").unwrap();
        let error = CertificateAuthority::load(directory.path()).unwrap_err();
        assert!(matches!(error, AuthorityError::Malformed { .. }), "{error}");
    }

    #[test]
    fn an_authority_certifies_its_own_fleet_alone_and_nothing_beyond_its_own_time() {
        let ours = authority("prod");
        let theirs = authority("staging").node(Role::Agent, "web1".parse().unwrap());
        let key = SecretKey::generate();
        let error = ours
            .issue(&theirs, key.public(), Validity::leaf(NOW))
            .unwrap_err();
        assert!(
            matches!(error, AuthorityError::OtherFleet { .. }),
            "{error}"
        );

        let node = ours.node(Role::Agent, "web1".parse().unwrap());
        let for_ever = Validity {
            not_before_unix_ms: 0,
            not_after_unix_ms: u64::MAX,
        };
        let issued = ours.issue(&node, key.public(), for_ever).unwrap();
        let leaf = peer::Leaf::parse(&issued.der).unwrap();
        assert_eq!(leaf.identity, node);
        assert_eq!(leaf.public_key, *key.public());
        assert_eq!(
            leaf.validity.not_before_unix_ms,
            ours.validity.not_before_unix_ms
        );
        assert_eq!(
            leaf.validity.not_after_unix_ms,
            ours.validity.not_after_unix_ms
        );
    }

    #[test]
    fn serial_numbers_are_sixteen_random_bytes_and_positive() {
        let ours = authority("prod");
        let node = ours.node(Role::Agent, "web1".parse().unwrap());
        let key = SecretKey::generate();
        let serial = || {
            let issued = ours
                .issue(&node, key.public(), Validity::leaf(NOW))
                .unwrap();
            let (_, x509) = x509_parser::parse_x509_certificate(&issued.der).unwrap();
            x509.raw_serial().to_vec()
        };
        let (one, two) = (serial(), serial());
        assert_eq!((one.len(), two.len()), (16, 16));
        assert_ne!(one, two);
        assert_eq!((one[0] & 0xc0, two[0] & 0xc0), (0x40, 0x40));
    }
}
