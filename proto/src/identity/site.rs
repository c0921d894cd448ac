//! An authority that a site has already, a Puppet CA say: whom its certificates are taken for.
//!
//! Such certificates name hosts by DNS names, know neither fleets nor roles, and have RSA or ECDSA keys. A file beside the
//! identity says what is missing. The rest is as with a fleet's own authority: the same TLS, depth one (an issuing
//! authority below a root is a line of its own in `ca.crt`), nobody but the authorities in `ca.crt`, and never those of the
//! system.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::{
    digest,
    signature::{self, UnparsedPublicKey, VerificationAlgorithm},
};
use rustls::{
    SignatureScheme,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::{CertifiedKey, SigningKey, SingleCertAndKey},
};
use serde::Deserialize;
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
    },
};

use super::{
    file::{self, FileError},
    fleet::{FleetName, Role},
    key::{KeyError, PUBLIC_KEY_BYTES},
    peer::PeerIdentity,
    trust::provider,
};
use crate::id::NodeId;

/// The file beside an identity that says that its authority is not of this fleet's making.
pub const SITE_AUTHORITY_FILE: &str = "authority.toml";

/// Whom the certificates of a site's own authority are taken for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteAuthority {
    /// The fleet; no certificate says it.
    fleet: FleetName,
    /// The names in certificates of coordinators. Nobody else is one.
    coordinators: BTreeSet<String>,
    /// By the name in a certificate, the node's name, where they differ.
    #[serde(default)]
    names: BTreeMap<String, NodeId>,
}

impl SiteAuthority {
    /// Reads the file in an identity directory, where there is one.
    ///
    /// # Errors
    /// [`SiteError`].
    pub fn load(directory: &Path) -> Result<Option<Self>, SiteError> {
        let path = directory.join(SITE_AUTHORITY_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = file::read_file(&path)?;
        let site: Self = toml::from_str(&text).map_err(|error| SiteError::Parse {
            path: path.clone(),
            source: error.into(),
        })?;
        let mut seen = BTreeSet::new();
        for (name, node) in &site.names {
            if !seen.insert(node) {
                let node = node.clone();
                return Err(SiteError::Twice { path, node });
            }
            check_name(name, &path)?;
        }
        for name in &site.coordinators {
            check_name(name, &path)?;
        }
        Ok(Some(site))
    }

    /// The fleet.
    pub fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    /// Who the holder of a certificate is, or what about it is not a node's.
    pub(super) fn identify(
        &self,
        x509: &X509Certificate<'_>,
    ) -> Result<PeerIdentity, &'static str> {
        let name = self.name_in(x509)?;
        let role = match self.coordinators.contains(&name) {
            true => Role::Coordinator,
            false => Role::Agent,
        };
        let mapped = self.names.get(&name).cloned();
        // A name that the table gives to one host is not another's by being called so.
        let own = || {
            let node: NodeId = name.parse().map_err(|_| "its name is no host name")?;
            match self.names.values().any(|taken| *taken == node) {
                true => Err("its name is given to another certificate"),
                false => Ok(node),
            }
        };
        Ok(PeerIdentity {
            fleet: self.fleet.clone(),
            role,
            name: mapped.map_or_else(own, Ok)?,
        })
    }

    /// The one name of a certificate that counts: that which the file says, else that which is also its common name, else the
    /// only one. Certificates without alternative names, which older authorities make, have their common name.
    fn name_in(&self, x509: &X509Certificate<'_>) -> Result<String, &'static str> {
        if x509.is_ca() {
            return Err("it is an authority's");
        }
        let names = dns_names(x509)?;
        let common = common_name(x509);
        let is_said =
            |name: &&String| self.names.contains_key(*name) || self.coordinators.contains(*name);
        let said: Vec<&String> = names.iter().filter(is_said).collect();
        match (said.as_slice(), names.len(), common) {
            ([one], _, _) => Ok((*one).clone()),
            ([_, ..], _, _) => {
                Err("it has several of the names that the file of the site's authority says")
            }
            ([], 0, Some(common)) => Ok(common),
            ([], _, Some(common)) if names.contains(&common) => Ok(common),
            ([], 1, _) => Ok(names.into_iter().next().expect("there is one")),
            _ => Err("it has not one DNS name"),
        }
    }
}

/// Names in certificates are compared in lower case.
fn check_name(name: &str, path: &Path) -> Result<(), SiteError> {
    let is_plain = name.parse::<NodeId>().is_ok() && *name == name.to_ascii_lowercase();
    match is_plain {
        true => Ok(()),
        false => Err(SiteError::Name {
            path: path.to_owned(),
            name: name.escape_debug().take(64).collect(),
        }),
    }
}

fn dns_names(x509: &X509Certificate<'_>) -> Result<BTreeSet<String>, &'static str> {
    let names = x509.subject_alternative_name();
    let names = names.map_err(|_| "its alternative names cannot be read")?;
    let general = names.map(|names| names.value.general_names.as_slice());
    let dns = general
        .unwrap_or_default()
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
    Ok(dns.collect())
}

fn common_name(x509: &X509Certificate<'_>) -> Option<String> {
    let mut names = x509.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?;
    names.next().is_none().then(|| name.to_ascii_lowercase())
}

/// A public key of a kind that nodes sign with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeafKey {
    kind: KeyKind,
    bytes: Vec<u8>,
    id: [u8; PUBLIC_KEY_BYTES],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyKind {
    Ed25519,
    EcdsaP256,
    Rsa,
}

impl LeafKey {
    /// That of a certificate; none where it is of another kind.
    pub(super) fn of(x509: &X509Certificate<'_>) -> Option<Self> {
        let key = x509.public_key();
        let algorithm = &key.algorithm;
        let curve = || algorithm.parameters.as_ref()?.as_oid().ok();
        let kind = if algorithm.algorithm == OID_SIG_ED25519 {
            KeyKind::Ed25519
        } else if algorithm.algorithm == OID_PKCS1_RSAENCRYPTION {
            KeyKind::Rsa
        } else if algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve()? == OID_EC_P256 {
            KeyKind::EcdsaP256
        } else {
            return None;
        };
        let bytes = key.subject_public_key.data.to_vec();
        let id = match kind {
            KeyKind::Ed25519 => bytes.as_slice().try_into().ok()?,
            KeyKind::EcdsaP256 | KeyKind::Rsa => {
                let hash = digest::digest(&digest::SHA256, key.raw);
                hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
            }
        };
        Some(Self { kind, bytes, id })
    }

    pub(super) fn is_ed25519(&self) -> bool {
        self.kind == KeyKind::Ed25519
    }

    /// What tells it from others: an Ed25519 key is its own, of others it is the SHA-256 of the key as a certificate has it.
    pub(super) fn id(&self) -> [u8; PUBLIC_KEY_BYTES] {
        self.id
    }

    /// Whether `signature` is that of `message` by its private half.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match self.kind {
            KeyKind::Ed25519 => &signature::ED25519,
            KeyKind::EcdsaP256 => &signature::ECDSA_P256_SHA256_ASN1,
            KeyKind::Rsa => &signature::RSA_PSS_2048_8192_SHA256,
        };
        UnparsedPublicKey::new(algorithm, &self.bytes)
            .verify(message, signature)
            .is_ok()
    }
}

/// How nodes of a site's authority sign, in TLS and else.
pub(super) const SITE_SCHEMES: [SignatureScheme; 3] = [
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::RSA_PSS_SHA256,
];

/// A private key of one of these kinds.
#[derive(Debug)]
pub(super) struct SiteKey(Arc<dyn SigningKey>);

impl SiteKey {
    /// Reads a key file, in PKCS#8, PKCS#1 or SEC1.
    pub(super) fn load(path: &Path) -> Result<Self, KeyError> {
        let format = || KeyError::SiteFormat { path: path.into() };
        let pem = file::read_secret_file(path)?;
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| format())?;
        let key = provider().key_provider.load_private_key(der);
        let key = key.map_err(|_| format())?;
        match key.choose_scheme(&SITE_SCHEMES) {
            Some(_) => Ok(Self(key)),
            None => Err(format()),
        }
    }

    /// Signs `message`.
    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signer = self.0.choose_scheme(&SITE_SCHEMES);
        let signer = signer.expect("it was chosen when the key was read");
        signer
            .sign(message)
            .expect("a key that was read signs any message")
    }

    /// What rustls shows and signs handshakes with.
    ///
    /// # Errors
    /// Where it is not the key of the first certificate.
    pub(super) fn resolver(
        &self,
        chain: Vec<CertificateDer<'static>>,
    ) -> Result<Arc<SingleCertAndKey>, rustls::Error> {
        let certified = CertifiedKey::new(chain, Arc::clone(&self.0));
        certified.keys_match()?;
        Ok(Arc::new(SingleCertAndKey::from(certified)))
    }
}

/// Why the file of a site's authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It says something else than it can.
    #[error("parse {}", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A name that no certificate could say.
    #[error("{} names `{name}`, which is no DNS name in lower case", path.display())]
    Name {
        /// Which file.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// Two certificates for one host.
    #[error("{} gives the name {node} to two certificates", path.display())]
    Twice {
        /// Which file.
        path: PathBuf,
        /// The host.
        node: NodeId,
    },
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
    use x509_parser::parse_x509_certificate;

    use super::*;

    fn site(text: &str) -> Result<SiteAuthority, SiteError> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(SITE_AUTHORITY_FILE), text).unwrap();
        SiteAuthority::load(directory.path()).map(Option::unwrap)
    }

    fn certificate(common: Option<&str>, names: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(common) = common {
            params.distinguished_name.push(DnType::CommonName, common);
        }
        let names = names
            .iter()
            .map(|name| SanType::DnsName((*name).try_into().unwrap()));
        params.subject_alt_names = names.collect();
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_is_that_of_one_host_or_of_none() {
        let site = site(
            "fleet = 'site'\ncoordinators = ['deploy.example.org', 'boss']\n[names]\n\
             'db.example.org' = 'db1'\n'boss' = 'deploy2'",
        )
        .unwrap();
        let uri = |common, names: &[&str]| {
            let der = certificate(common, names);
            let (_, x509) = parse_x509_certificate(&der).unwrap();
            site.identify(&x509).map(|identity| identity.to_uri())
        };
        for (common, names, expected) in [
            (Some("web1"), &["web1"][..], "scap://site/agent/web1"),
            (
                None,
                &["WEB1.example.org"],
                "scap://site/agent/web1.example.org",
            ),
            (Some("x"), &["web1"], "scap://site/agent/web1"),
            (Some("Web1"), &[], "scap://site/agent/web1"),
            // The common name says which of several.
            (Some("web1"), &["puppet", "web1"], "scap://site/agent/web1"),
            (
                Some("x"),
                &["puppet", "db.example.org"],
                "scap://site/agent/db1",
            ),
            (
                Some("web1"),
                &["deploy.example.org"],
                "scap://site/coordinator/deploy.example.org",
            ),
            (None, &["boss", "other"], "scap://site/coordinator/deploy2"),
        ] {
            assert_eq!(uri(common, names).as_deref(), Ok(expected), "{names:?}");
        }
        for (common, names) in [
            (None, &[][..]),
            (None, &["web1", "web2"]),
            (Some("web3"), &["web1", "web2"]),
            (None, &["boss", "db.example.org"]),
            (None, &["*.example.org"]),
            // The common name of a certificate with other names gives no role.
            (Some("boss"), &["web1", "web2"]),
            // Names that the table gives to others.
            (None, &["db1"]),
            (Some("deploy2"), &[]),
        ] {
            assert!(uri(common, names).is_err(), "{common:?} {names:?}");
        }
    }

    #[test]
    fn an_authority_is_no_node() {
        let site = site("fleet = 'site'\ncoordinators = []").unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "web1");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let made = params.self_signed(&key).unwrap();
        let (_, x509) = parse_x509_certificate(made.der()).unwrap();
        assert_eq!(site.identify(&x509), Err("it is an authority's"));
    }

    #[test]
    fn what_a_file_cannot_mean_is_refused() {
        for (text, piece) in [
            ("coordinators = []", "parse"),
            ("fleet = 'f'", "parse"),
            ("fleet = 'f'\ncoordinators = ['A']", "`A`"),
            ("fleet = 'f'\ncoordinators = ['*.a']", "`*.a`"),
            (
                "fleet = 'f'\ncoordinators = []\n[names]\na = 'x'\nb = 'x'",
                "the name x to two",
            ),
        ] {
            let error = site(text).unwrap_err().to_string();
            assert!(error.contains(piece), "{error}");
        }
        let nothing = tempfile::tempdir().unwrap();
        assert_eq!(SiteAuthority::load(nothing.path()).unwrap(), None);
    }

    #[test]
    fn each_kind_of_key_signs_what_its_certificate_verifies() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.key");
        let mut ids = BTreeSet::new();
        for algorithm in [
            &rcgen::PKCS_ED25519,
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_RSA_SHA256,
        ] {
            let pair = KeyPair::generate_for(algorithm).unwrap();
            let _ = std::fs::remove_file(&path);
            file::create_secret_file(&path, &pair.serialize_pem()).unwrap();
            let key = SiteKey::load(&path).unwrap();
            let made = CertificateParams::default().self_signed(&pair).unwrap();
            let (_, x509) = parse_x509_certificate(made.der()).unwrap();
            let public = LeafKey::of(&x509).unwrap();
            let mut signature = key.sign(b"report");
            assert!(public.verify(b"report", &signature), "{:?}", public.kind);
            assert!(!public.verify(b"rapport", &signature));
            signature[10] ^= 1;
            assert!(!public.verify(b"report", &signature));
            assert!(!public.verify(b"report", b""));
            assert!(key.resolver(vec![made.der().clone()]).is_ok());
            let other = KeyPair::generate_for(algorithm).unwrap();
            let other = CertificateParams::default().self_signed(&other).unwrap();
            assert!(key.resolver(vec![other.der().clone()]).is_err());
            ids.insert(public.id());
        }
        assert_eq!(ids.len(), 3);
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let made = CertificateParams::default().self_signed(&p384).unwrap();
        let (_, x509) = parse_x509_certificate(made.der()).unwrap();
        assert_eq!(LeafKey::of(&x509), None);
        std::fs::remove_file(&path).unwrap();
        file::create_secret_file(&path, &p384.serialize_pem()).unwrap();
        let error = SiteKey::load(&path).unwrap_err().to_string();
        assert!(error.contains("is not an unencrypted RSA"), "{error}");
    }
}
