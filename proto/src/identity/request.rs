//! What a host that made its own key sends to be certified.

use rcgen::{CertificateParams, DistinguishedName, DnType};
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};
use ssh_key::{
    HashAlg,
    public::{Ed25519PublicKey, KeyData},
};
use x509_parser::{
    asn1_rs::BitString, certification_request::X509CertificationRequest,
    oid_registry::OID_SIG_ED25519, prelude::FromDer,
};

use super::key::{self, PUBLIC_KEY_BYTES, SecretKey};

/// Longest request that is read, in bytes: one of ours has some 330, and one of another tool, with a long
/// subject and a dozen names, or with a banner before it, fits too.
pub const REQUEST_BYTES_MAX: usize = 4096;

/// A request for a certificate: PKCS#10 in PEM, which proves that its sender holds the private half of the
/// Ed25519 key in it.
///
/// The key is all that is taken from it. Names, roles, extensions and the right to certify, which the format
/// lets a requester ask for, are never looked at: what a host is, its enroller knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdentityRequest {
    public_key: [u8; PUBLIC_KEY_BYTES],
}

impl IdentityRequest {
    /// Asks for a certificate of `key`: the text to send. The same key always asks the same.
    pub fn create(key: &SecretKey) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, SUBJECT);
        let request = params.serialize_request(key.pair());
        let pem = request.and_then(|request| request.pem());
        pem.expect("a name and an Ed25519 key make a request")
    }

    /// Reads a request and checks the proof in it. Text around it is skipped, such as what a shell says when
    /// it starts.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RequestError> {
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(RequestError::TooLong(bytes.len()));
        }
        let der = CertificateSigningRequestDer::from_pem_slice(bytes)
            .map_err(|_| RequestError::Malformed)?;
        Self::from_der(&der)
    }

    fn from_der(der: &[u8]) -> Result<Self, RequestError> {
        let Ok((&[], request)) = X509CertificationRequest::from_der(der) else {
            return Err(RequestError::Malformed);
        };
        let info = &request.certification_request_info;
        let algorithms = [&info.subject_pki.algorithm, &request.signature_algorithm];
        if algorithms.iter().any(|it| it.algorithm != OID_SIG_ED25519) {
            return Err(RequestError::Algorithm);
        }
        let public_key = whole_bytes(&info.subject_pki.subject_public_key);
        let public_key = public_key.ok_or(RequestError::Algorithm)?;
        let signature = whole_bytes(&request.signature_value).ok_or(RequestError::Proof)?;
        if !key::verify(&public_key, info.raw, &signature) {
            return Err(RequestError::Proof);
        }
        Ok(Self { public_key })
    }

    /// The key that is to be certified.
    pub fn public_key(&self) -> &[u8; PUBLIC_KEY_BYTES] {
        &self.public_key
    }
}

fn whole_bytes<const N: usize>(bits: &BitString<'_>) -> Option<[u8; N]> {
    let bytes = bits.data.as_ref().try_into().ok()?;
    (bits.unused_bits == 0).then_some(bytes)
}

/// How people compare a node's public key: its SHA-256 as `ssh-keygen -l` writes that of an Ed25519 key.
pub fn key_fingerprint(public_key: &[u8; PUBLIC_KEY_BYTES]) -> String {
    let key = KeyData::from(Ed25519PublicKey(*public_key));
    key.fingerprint(HashAlg::Sha256).to_string()
}

/// Why bytes are no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Longer than one is.
    #[error("a request of {0} bytes, at most {REQUEST_BYTES_MAX} are read")]
    TooLong(usize),
    /// There is none in it.
    #[error("no certificate request (PKCS#10 in PEM)")]
    Malformed,
    /// Of another kind of key.
    #[error("a request for another key than Ed25519")]
    Algorithm,
    /// Its sender does not show that the key is its own.
    #[error("a request that was not signed with the key in it")]
    Proof,
}

/// What a request of ours calls its subject. Nobody reads it but people who look at one.
const SUBJECT: &str = "scap identity request";

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use rcgen::{BasicConstraints, CustomExtension, IsCa, KeyPair, SanType};

    use super::*;

    #[test]
    fn a_request_proves_its_key_and_is_always_the_same() {
        let key = SecretKey::generate();
        let sent = IdentityRequest::create(&key);
        assert_eq!(sent, IdentityRequest::create(&key));
        let banner = format!("Welcome to web1\n{sent}bye\n");
        for text in [&sent, &banner] {
            let read = IdentityRequest::parse(text.as_bytes()).unwrap();
            assert_eq!(read.public_key(), key.public());
        }
    }

    #[test]
    fn e2_whatever_else_a_request_asks_for_only_its_key_is_read() {
        let key = SecretKey::generate();
        let mut params = CertificateParams::default();
        let uri = "scap://prod/coordinator/evil".try_into().unwrap();
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // One that rcgen itself does not read.
        let odd = CustomExtension::from_oid_content(&[2, 5, 29, 54], vec![2, 1, 0]);
        params.custom_extensions = vec![odd];
        let sent = params.serialize_request(key.pair()).unwrap().pem().unwrap();
        let read = IdentityRequest::parse(sent.as_bytes()).unwrap();
        let public_key = *key.public();
        assert_eq!(read, IdentityRequest { public_key });
    }

    #[test]
    fn what_is_no_request_or_proves_nothing_is_refused() {
        let key = SecretKey::generate();
        let sent = IdentityRequest::create(&key);
        let parse = |text: &str| IdentityRequest::parse(text.as_bytes()).unwrap_err();
        for text in ["", "no", "-----BEGIN CERTIFICATE REQUEST-----\n"] {
            assert_eq!(parse(text), RequestError::Malformed, "{text}");
        }
        let long = sent.clone() + &" ".repeat(REQUEST_BYTES_MAX);
        assert_eq!(parse(&long), RequestError::TooLong(long.len()));

        let p256 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let other = CertificateParams::default().serialize_request(&p256);
        let other = other.unwrap().pem().unwrap();
        assert_eq!(parse(&other), RequestError::Algorithm);

        let der = CertificateSigningRequestDer::from_pem_slice(sent.as_bytes()).unwrap();
        let mut taken = 0;
        for index in 0..der.len() {
            let mut damaged = der.to_vec();
            damaged[index] ^= 1;
            if let Ok(read) = IdentityRequest::from_der(&damaged) {
                assert_eq!(read.public_key(), key.public(), "byte {index}");
                taken += 1;
            }
        }
        // What is not signed: the tag around the name of the algorithm, which the parser does not look at.
        assert!(taken <= 1, "{taken} damaged requests were taken");
        assert!(IdentityRequest::from_der(&der).is_ok());
    }

    #[test]
    fn a_fingerprint_is_the_one_that_ssh_keygen_shows() {
        let shown = key_fingerprint(&[0; PUBLIC_KEY_BYTES]);
        assert_eq!(shown, "SHA256:kmYcvdi2GkPeWxB6XLjrZB8JHsy2Hm8luHMFp9GMvqk");
    }
}
