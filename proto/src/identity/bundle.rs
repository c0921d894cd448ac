//! A node's identity: a directory with its key, its certificate and whom it trusts.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use bytes::Bytes;
use pem::{EncodeConfig, LineEnding, Pem};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{
    authority::{AuthorityError, CertificateAuthority, Validity},
    enrolment::Enrolment,
    file::{self, FileError},
    install::{InstallError, Staged, file_in},
    key::{KeyError, PUBLIC_KEY_BYTES, SIGNATURE_BYTES, SecretKey},
    peer::{AuthorityCertificate, Leaf, PeerIdentity},
    pin::{AUTHORITIES_SHOWN_MAX, AuthorityPin},
    refusal::Refusal,
    renewal::Life,
    trust::{Trust, provider},
};
use crate::extensions::Extensions;

/// A node's own identity. Cheap to share behind an [`Arc`]: all that share it have the certificate of the latest
/// [`Self::renew`].
///
/// Its directory holds `node.key` (mode 0600), `node.crt`, and `ca.crt` with the authorities it
/// trusts: one, or several while a fleet moves from one to the next.
pub struct Identity {
    own: PeerIdentity,
    key: SecretKey,
    trust: Trust,
    directory: PathBuf,
    shown: RwLock<Shown>,
    /// Held by who renews its certificate.
    renewing: Mutex<()>,
}

/// The certificate that a node shows now.
#[derive(Clone)]
struct Shown {
    validity: Validity,
    certificate: Bytes,
    resolver: Arc<SingleCertAndKey>,
}

impl Identity {
    /// Enrols a new node: makes its key, has `authority` certify it, and writes its directory,
    /// which is made with mode 0700 if absent. After a crash each file is there whole or not at
    /// all; the certificate comes last.
    ///
    /// # Errors
    /// [`IdentityError::File`]: an identity that is there already is never replaced;
    /// [`IdentityError::Authority`].
    pub fn create(
        directory: &Path,
        authority: &CertificateAuthority,
        node: &PeerIdentity,
        validity: Validity,
    ) -> Result<Self, IdentityError> {
        let key = SecretKey::generate();
        let certificate = authority.issue(node, key.public(), validity)?;
        file::create_private_directory(directory)?;
        key.create_file(&directory.join(KEY_FILE))?;
        file::create_file(
            &directory.join(AUTHORITIES_FILE),
            &authority.certificate().pem,
        )?;
        file::create_file(&directory.join(CERTIFICATE_FILE), &certificate.pem)?;
        Self::load(directory)
    }

    /// Reads an identity and checks that its parts belong together. Whether the certificate is
    /// valid now is [`Self::check_time`]: a clock may be wrong for a while after a start.
    ///
    /// # Errors
    /// [`IdentityError`]; each names the file and, where there is one, the remedy.
    pub fn load(directory: &Path) -> Result<Self, IdentityError> {
        let key = SecretKey::load(&file_in(directory, KEY_FILE))?;
        let certificate_path = file_in(directory, CERTIFICATE_FILE);
        let authorities_path = file_in(directory, AUTHORITIES_FILE);
        let [certificate] =
            <[_; 1]>::try_from(read_certificates(&certificate_path)?).map_err(|found| {
                IdentityError::Certificates {
                    path: certificate_path.clone(),
                    found: found.len(),
                }
            })?;
        let authorities = read_certificates(&authorities_path)?;
        let malformed = |path: &Path, problem| IdentityError::Malformed {
            path: path.into(),
            problem,
        };
        for authority in &authorities {
            AuthorityCertificate::parse(authority)
                .map_err(|problem| malformed(&authorities_path, problem))?;
        }
        let own =
            Leaf::parse(&certificate).map_err(|problem| malformed(&certificate_path, problem))?;
        let trust = Trust::new(own.identity.fleet.clone(), &authorities)
            .map_err(|_| malformed(&authorities_path, "it is not usable as an authority"))?;
        trust
            .check_issuer(&certificate)
            .map_err(|_| IdentityError::Issuer {
                certificate: certificate_path.clone(),
                authorities: authorities_path,
            })?;
        if own.public_key != *key.public() {
            return Err(IdentityError::Mismatch {
                path: certificate_path,
            });
        }
        let resolver = resolver(&certificate, &key).map_err(IdentityError::Tls)?;
        Ok(Self {
            own: own.identity,
            key,
            trust,
            directory: directory.into(),
            shown: RwLock::new(Shown {
                validity: own.validity,
                certificate: Bytes::copy_from_slice(&certificate),
                resolver,
            }),
            renewing: Mutex::new(()),
        })
    }

    /// Who this node is.
    pub fn own(&self) -> &PeerIdentity {
        &self.own
    }

    /// When its certificate is valid.
    pub fn validity(&self) -> Validity {
        self.shown().validity
    }

    /// The directory that it was read from.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Puts a later certificate (in PEM) of this very node and key in the place of the present one, and with it the
    /// membership where one is given, and the authorities that are believed now: first in the directory, where after a crash there is all of the old or all of the new,
    /// then here. Handshakes from now on show it; links that there are stay. Blocks while it writes. Returns when the new one
    /// is valid.
    ///
    /// # Errors
    /// [`RenewError`]; the present one stays.
    pub fn renew(
        &self,
        pem: &str,
        membership: Option<Bytes>,
        now_unix_ms: u64,
    ) -> Result<Validity, RenewError> {
        let _one_at_a_time = self.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        let Ok([certificate]) = certificates
            .map_err(|_| ())
            .and_then(|found| <[_; 1]>::try_from(found).map_err(|_| ()))
        else {
            return Err(RenewError::Form);
        };
        let leaf = self.trust.check_leaf(&certificate, now_unix_ms)?;
        if leaf.identity != self.own {
            return Err(RenewError::Other {
                found: leaf.identity,
                ours: self.own.clone(),
            });
        }
        if leaf.public_key != *self.key.public() {
            return Err(RenewError::OtherKey);
        }
        let present = self.validity();
        // One that a wrong clock made for later than now is of no use until then.
        let is_of_use = present.life(now_unix_ms) != Life::Early;
        if is_of_use && leaf.validity.not_after_unix_ms <= present.not_after_unix_ms {
            return Err(RenewError::NotLater);
        }
        let resolver = resolver(&certificate, &self.key).map_err(RenewError::Tls)?;
        let enrolment = Enrolment {
            certificate: pem.to_owned(),
            // While a fleet moves to another authority, the new one issued it, and is not in the file yet.
            authorities: authorities_pem(&self.trust),
            allowed_signers: None,
            host: None,
            membership,
            extensions: Extensions::default(),
        };
        Staged::new(&self.directory, &enrolment, None)?.commit()?;
        let mut shown = self.shown.write().unwrap_or_else(PoisonError::into_inner);
        *shown = Shown {
            validity: leaf.validity,
            certificate: Bytes::copy_from_slice(&certificate),
            resolver,
        };
        Ok(leaf.validity)
    }

    /// Whether its certificate is valid now by this clock; where not, every peer with a right clock
    /// refuses this node.
    ///
    /// # Errors
    /// [`Refusal::Expired`] and [`Refusal::NotYetValid`].
    pub fn check_time(&self, now_unix_ms: u64) -> Result<(), Refusal> {
        let shown = self.shown();
        self.trust
            .check(&shown.certificate, now_unix_ms)
            .map(|_| ())
    }

    /// Its certificate in DER, by which others check what it signed.
    pub fn certificate(&self) -> Bytes {
        self.shown().certificate
    }

    /// The public half of its key, which its certificate names.
    pub fn public_key(&self) -> &[u8; PUBLIC_KEY_BYTES] {
        self.key.public()
    }

    /// Whom it trusts.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Signs with the node's key.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.key.sign(message)
    }

    /// The fingerprints of the authorities that it trusts.
    pub fn authority_pins(&self) -> Vec<AuthorityPin> {
        let authorities = self.trust.authorities();
        authorities
            .iter()
            .map(|der| AuthorityPin::of(der))
            .collect()
    }

    /// Whether the authority with this fingerprint is among those that it trusts, and issued its certificate.
    pub(super) fn is_issued_by(&self, pin: AuthorityPin) -> bool {
        let authorities = self.trust.authorities().into_iter();
        let pinned = authorities.filter(|der| AuthorityPin::of(der) == pin);
        let pinned: Vec<_> = pinned.map(|der| der.to_vec().into()).collect();
        let trust = Trust::new(self.own.fleet.clone(), &pinned);
        trust.is_ok_and(|trust| trust.check_issuer(&self.certificate()).is_ok())
    }

    /// What rustls shows to who has no authority's certificate but a fingerprint: ours, and those that we trust.
    pub(crate) fn resolver_with_authorities(&self) -> Arc<SingleCertAndKey> {
        let authorities = self.trust.authorities().into_iter();
        let chain =
            std::iter::once(self.certificate()).chain(authorities.take(AUTHORITIES_SHOWN_MAX));
        let chain = chain.map(|der| der.to_vec().into()).collect();
        let key = PrivateKeyDer::Pkcs8(self.key.to_pkcs8());
        let certified = CertifiedKey::from_der(chain, key, &provider());
        let certified =
            certified.expect("the same key and certificate were taken when it was loaded");
        Arc::new(SingleCertAndKey::from(certified))
    }

    /// What rustls shows and signs handshakes with.
    pub(crate) fn resolver(&self) -> Arc<SingleCertAndKey> {
        self.shown().resolver
    }

    fn shown(&self) -> Shown {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        shown.clone()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.own)
    }
}

/// The key of the node whose certificate is in a file. Whether it counts is not looked at.
///
/// # Errors
/// [`IdentityError`]: there is no such certificate.
pub fn certificate_key(path: &Path) -> Result<[u8; PUBLIC_KEY_BYTES], IdentityError> {
    let certificates = read_certificates(path)?;
    let [certificate] =
        <[_; 1]>::try_from(certificates).map_err(|found: Vec<_>| IdentityError::Certificates {
            path: path.into(),
            found: found.len(),
        })?;
    let leaf = Leaf::parse(&certificate).map_err(|problem| IdentityError::Malformed {
        path: path.into(),
        problem,
    })?;
    Ok(leaf.public_key)
}

/// Why an identity cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The key cannot be read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The authority did not certify it.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A certificate file does not hold as many certificates as it should.
    #[error("{} holds {found} certificates, expected one", path.display())]
    Certificates {
        /// Which file.
        path: PathBuf,
        /// How many it holds.
        found: usize,
    },
    /// There is no certificate where one should be.
    #[error("{} holds no certificate in PEM (hint: enroll this host again)", path.display())]
    NoCertificate {
        /// Which file.
        path: PathBuf,
    },
    /// A certificate is not what should be there.
    #[error("a certificate in {} is not usable: {problem}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What about it.
        problem: &'static str,
    },
    /// The certificate was issued by nobody that the node itself trusts.
    #[error(
        "{} was not issued by an authority in {} (hint: take both files from one enrolment)",
        certificate.display(), authorities.display()
    )]
    Issuer {
        /// The certificate's file.
        certificate: PathBuf,
        /// The authorities' file.
        authorities: PathBuf,
    },
    /// Key and certificate are of two identities.
    #[error(
        "{} is not for the node.key beside it (hint: take both files from one enrolment)",
        path.display()
    )]
    Mismatch {
        /// The certificate's file.
        path: PathBuf,
    },
    /// The TLS library does not take the key.
    #[error("use the key in TLS")]
    Tls(#[source] rustls::Error),
}

/// Why a certificate is not put in the place of the present one.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// It is not one certificate in PEM.
    #[error("it is not one certificate in PEM")]
    Form,
    /// Nobody that the node trusts issued it, or it is not valid now.
    #[error("refused the new certificate")]
    Refused(#[from] Refusal),
    /// It is another node's.
    #[error("the new certificate is of {found}, and this is {ours}")]
    Other {
        /// Whose.
        found: PeerIdentity,
        /// Who this is.
        ours: PeerIdentity,
    },
    /// It is of another key.
    #[error("the new certificate is not for this node's key")]
    OtherKey,
    /// It ends no later than the present one: it was sent twice, or somebody sent an old one again.
    #[error("the new certificate ends no later than the present one")]
    NotLater,
    /// It cannot be written.
    #[error("keep the new certificate")]
    Install(#[from] InstallError),
    /// The TLS library does not take it.
    #[error("use the new certificate in TLS")]
    Tls(#[source] rustls::Error),
}

/// Name of the node's certificate in its directory.
pub const CERTIFICATE_FILE: &str = "node.crt";
/// Name of the node's key in its directory.
pub(super) const KEY_FILE: &str = "node.key";
/// Name of the trusted authorities in a node's directory.
pub(super) const AUTHORITIES_FILE: &str = "ca.crt";

/// When each of the authorities is valid that a node's directory trusts.
///
/// # Errors
/// [`IdentityError::File`], [`IdentityError::NoCertificate`], [`IdentityError::Malformed`].
pub fn authority_validities(directory: &Path) -> Result<Vec<Validity>, IdentityError> {
    let path = file_in(directory, AUTHORITIES_FILE);
    let authorities = read_certificates(&path)?;
    let parsed = authorities
        .iter()
        .map(|der| AuthorityCertificate::parse(der));
    let validities: Result<Vec<_>, _> = parsed.map(|it| Ok(it?.validity)).collect();
    validities.map_err(|problem| IdentityError::Malformed { path, problem })
}

/// Where the key of a node's directory is.
pub fn key_file(directory: &Path) -> PathBuf {
    file_in(directory, KEY_FILE)
}

pub(super) fn read_certificates(
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let certificates = certificates(&file::read_file(path)?);
    match certificates.is_empty() {
        false => Ok(certificates),
        true => Err(IdentityError::NoCertificate { path: path.into() }),
    }
}

/// The certificates in a text in PEM; none where one of them is damaged.
pub(super) fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    certificates.unwrap_or_default()
}

/// The authorities that are believed, as a node's directory has them.
fn authorities_pem(trust: &Trust) -> String {
    let lines = EncodeConfig::new().set_line_ending(LineEnding::LF);
    let authorities = trust.authorities().into_iter();
    let texts = authorities.map(|der| pem::encode_config(&Pem::new("CERTIFICATE", der), lines));
    texts.collect()
}

fn resolver(
    certificate: &CertificateDer<'static>,
    key: &SecretKey,
) -> Result<Arc<SingleCertAndKey>, rustls::Error> {
    let key = PrivateKeyDer::Pkcs8(key.to_pkcs8());
    let certified = CertifiedKey::from_der(vec![certificate.clone()], key, &provider())?;
    Ok(Arc::new(SingleCertAndKey::from(certified)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use tempfile::TempDir;

    use super::*;
    use crate::identity::{Role, verify};
    use crate::{
        identity::{FleetTrust, SignedFleetTrust},
        release::UnixMillis,
    };

    const NOW: u64 = 1_767_323_045_000;

    fn authority() -> CertificateAuthority {
        CertificateAuthority::create(&"prod".parse().unwrap(), NOW).unwrap()
    }

    fn enrol(authority: &CertificateAuthority) -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        let node = authority.node(Role::Agent, "web1".parse().unwrap());
        Identity::create(directory.path(), authority, &node, Validity::leaf(NOW)).unwrap();
        directory
    }

    fn take(file: &str, from: &TempDir, to: &TempDir) {
        fs::copy(from.path().join(file), to.path().join(file)).unwrap();
    }

    #[test]
    fn an_identity_is_read_back_whole_and_signs() {
        let directory = enrol(&authority());
        let identity = Identity::load(directory.path()).unwrap();
        assert_eq!(identity.own().to_uri(), "scap://prod/agent/web1");
        assert!(identity.check_time(NOW).is_ok());
        let public = Leaf::parse(&identity.certificate()).unwrap().public_key;
        assert!(verify(&public, b"report", &identity.sign(b"report")));
        assert_eq!(
            format!("{identity:?}"),
            "Identity(agent web1 of fleet prod)"
        );
    }

    #[test]
    fn a_later_certificate_takes_the_place_of_the_present_one_here_and_in_the_directory() {
        let fleet = authority();
        let directory = enrol(&fleet);
        let identity = Identity::load(directory.path()).unwrap();
        let later = NOW + 300 * 24 * 3600 * 1000;
        let issued = fleet
            .issue(identity.own(), identity.public_key(), Validity::leaf(later))
            .unwrap();
        let valid = identity.renew(&issued.pem, None, later).unwrap();
        assert_eq!(valid, identity.validity());
        assert_eq!(identity.certificate(), issued.der.as_ref());
        let again = Identity::load(directory.path()).unwrap();
        assert_eq!(again.certificate(), identity.certificate());
        assert!(matches!(
            identity.renew(&issued.pem, None, later),
            Err(RenewError::NotLater)
        ));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_certificate_that_a_clock_which_was_ahead_made_gives_way_to_one_that_ends_before_it() {
        let fleet = CertificateAuthority::create(&"prod".parse().unwrap(), NOW - 1).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let node = fleet.node(Role::Agent, "web1".parse().unwrap());
        let ahead = Validity::leaf(NOW + 400 * 24 * 3600 * 1000);
        let identity = Identity::create(directory.path(), &fleet, &node, ahead).unwrap();
        let issued = fleet.issue(&node, identity.public_key(), Validity::leaf(NOW));
        let valid = identity.renew(&issued.unwrap().pem, None, NOW).unwrap();
        assert!(valid.not_after_unix_ms < ahead.not_after_unix_ms);
        assert!(identity.check_time(NOW).is_ok());
    }

    #[test]
    fn a_certificate_of_the_authority_that_the_fleet_moves_to_is_kept_with_that() {
        let (old, new) = (authority(), authority());
        let directory = enrol(&old);
        let identity = Identity::load(directory.path()).unwrap();
        let later = NOW + 300 * 24 * 3600 * 1000;
        let der = |it: &CertificateAuthority| Bytes::copy_from_slice(&it.certificate().der);
        let both = FleetTrust {
            fleet: "prod".parse().unwrap(),
            number: 1,
            issued: UnixMillis(later),
            authorities: vec![der(&old), der(&new)],
            retired: Vec::new(),
            denials: Vec::new(),
            extensions: Extensions::default(),
        };
        let issued = new
            .issue(identity.own(), identity.public_key(), Validity::leaf(later))
            .unwrap();
        assert!(matches!(
            identity.renew(&issued.pem, None, later),
            Err(RenewError::Refused(Refusal::UnknownIssuer { .. }))
        ));
        let signed = SignedFleetTrust::sign(&both, &old);
        identity.trust().offer(signed).unwrap();
        identity.renew(&issued.pem, None, later).unwrap();
        let again = Identity::load(directory.path()).unwrap();
        assert_eq!(again.certificate(), issued.der.as_ref());
        assert_eq!(again.trust().authorities(), both.authorities);
    }

    #[test]
    fn a_certificate_that_is_not_this_nodes_is_not_installed() {
        let fleet = authority();
        let directory = enrol(&fleet);
        let identity = Identity::load(directory.path()).unwrap();
        let before = fs::read(directory.path().join("node.crt")).unwrap();
        let later = NOW + 300 * 24 * 3600 * 1000;
        let key = identity.public_key();
        let issue = |authority: &CertificateAuthority, role, name: &str, key| {
            let node = authority.node(role, name.parse().unwrap());
            let issued = authority.issue(&node, key, Validity::leaf(later));
            issued.unwrap().pem
        };
        let renew = |pem: &str, now| identity.renew(pem, None, now).unwrap_err().to_string();
        let stranger = issue(&authority(), Role::Agent, "web1", key);
        assert_eq!(renew(&stranger, later), "refused the new certificate");
        for (role, name) in [(Role::Agent, "web2"), (Role::Coordinator, "web1")] {
            let other = issue(&fleet, role, name, key);
            assert!(renew(&other, later).contains("and this is agent web1"));
        }
        let stranger = SecretKey::generate();
        let other_key = issue(&fleet, Role::Agent, "web1", stranger.public());
        assert!(renew(&other_key, later).contains("this node's key"));
        let good = issue(&fleet, Role::Agent, "web1", key);
        // A host whose clock is behind takes none that it would refuse in others.
        assert_eq!(renew(&good, NOW), "refused the new certificate");
        for text in ["", "nothing", &good.repeat(2)] {
            assert!(renew(text, later).contains("not one certificate"));
        }
        assert_eq!(fs::read(directory.path().join("node.crt")).unwrap(), before);
        assert_eq!(identity.validity(), Validity::leaf(NOW / 1000 * 1000));
    }

    #[test]
    fn enrolling_twice_into_one_directory_keeps_the_first_identity() {
        let fleet = authority();
        let directory = enrol(&fleet);
        let before = fs::read(directory.path().join("node.crt")).unwrap();
        let node = fleet.node(Role::Agent, "web2".parse().unwrap());
        let again = Identity::create(directory.path(), &fleet, &node, Validity::leaf(NOW));
        assert!(matches!(
            again,
            Err(IdentityError::File(FileError::Exists { .. }))
        ));
        assert_eq!(fs::read(directory.path().join("node.crt")).unwrap(), before);
    }

    #[test]
    fn each_part_that_does_not_belong_is_named() {
        let fleet = authority();
        let (one, two, stranger) = (enrol(&fleet), enrol(&fleet), enrol(&authority()));
        let load = || Identity::load(one.path()).unwrap_err().to_string();
        take("node.key", &two, &one);
        assert!(
            load().contains("node.crt is not for the node.key beside it"),
            "{}",
            load()
        );
        take("node.crt", &stranger, &one);
        assert!(
            load().contains("was not issued by an authority in"),
            "{}",
            load()
        );
        fs::write(one.path().join("node.crt"), "").unwrap();
        assert!(
            load().contains("node.crt holds no certificate in PEM"),
            "{}",
            load()
        );
        take("ca.crt", &two, &one);
        let both = fs::read_to_string(two.path().join("node.crt"))
            .unwrap()
            .repeat(2);
        fs::write(one.path().join("node.crt"), both).unwrap();
        assert!(
            load().contains("holds 2 certificates, expected one"),
            "{}",
            load()
        );
        take("node.crt", &two, &one);
        fs::copy(two.path().join("node.crt"), one.path().join("ca.crt")).unwrap();
        assert!(
            load().contains("ca.crt is not usable: it is not an authority's"),
            "{}",
            load()
        );
        fs::set_permissions(
            one.path().join("node.key"),
            fs::Permissions::from_mode(0o644),
        )
        .unwrap();
        assert!(load().contains("node.key has mode 644"), "{}", load());
        fs::remove_file(one.path().join("node.key")).unwrap();
        assert!(load().starts_with("read "), "{}", load());
    }
}
