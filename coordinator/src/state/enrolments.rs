//! Who was enrolled: the certificates that this state directory's authority gave, a record a host.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use scap_agent::{store::durable, trust::HostFile};
use scap_proto::{
    codec,
    extensions::Extensions,
    id::NodeId,
    identity::{
        Enrolment, Identity, IdentityError, IdentityRequest, PUBLIC_KEY_BYTES, Role, Validity,
        install::{self, Staged},
        key_fingerprint,
    },
    release::{Environment, Membership, SignedMembership, UnixMillis},
};
use serde::{Deserialize, Serialize};

use super::{
    StateDirectory, StateError,
    directory::{ALLOWED_SIGNERS, read},
    trust::{TrustError, revoked},
};

/// A host that is to be enrolled, as its enroller knows it.
#[derive(Debug, Clone)]
pub struct Enrolled {
    /// Its name, which its certificate will say.
    pub host: NodeId,
    /// The environments that it is in; the default one where none is named.
    pub environments: Vec<Environment>,
    /// By which way.
    pub how: How,
    /// Whether its revocation is lifted, where it is revoked; else it is refused then.
    pub readmit: bool,
}

/// What a host is given.
#[derive(Debug)]
pub struct Certified {
    /// All that makes a key its identity.
    pub enrolment: Enrolment,
    /// Whether it was revoked until now.
    pub is_readmitted: bool,
}

/// By which way a host got its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// The deployment host made its key, and somebody copied it.
    Offline,
    /// It made its key, and was asked for it over ssh.
    Ssh,
    /// It made its key, and showed a token.
    Token,
    /// It had a certificate.
    Renewal,
}

impl How {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Ssh => "ssh",
            Self::Token => "token",
            Self::Renewal => "renewal",
        }
    }
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The latest certificate that a host got. It is saved before the certificate leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentRecord {
    /// [`SCHEMA`].
    schema: String,
    /// Its name.
    pub host: NodeId,
    /// Its public key, in hex.
    #[serde(with = "in_hex")]
    pub public_key: [u8; PUBLIC_KEY_BYTES],
    /// The environments that it is in.
    pub environments: Vec<Environment>,
    /// By which way it got its certificate.
    pub how: How,
    /// When, as its certificate says.
    pub enrolled: Timestamp,
    /// Until when the certificate is valid.
    pub valid_until: Timestamp,
    /// The BLAKE3 of the certificate (in DER), in hex. Builds before this one do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
    /// The keys that it had before, the latest last: one that was stolen stays known when the host has another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<EarlierKey>,
}

/// A key that a host had before its present one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct EarlierKey {
    #[serde(with = "in_hex")]
    public_key: [u8; PUBLIC_KEY_BYTES],
    /// When it was certified last.
    enrolled: Timestamp,
}

impl EnrolmentRecord {
    /// Its key as people compare it.
    pub fn fingerprint(&self) -> String {
        key_fingerprint(&self.public_key)
    }

    /// Whether the certificate (in DER) is the one that it is about.
    pub fn is_of(&self, certificate: &[u8]) -> bool {
        self.certificate
            .as_deref()
            .is_some_and(|hash| hash == certificate_hash(certificate))
    }

    /// Whether the host had this key when it was revoked: certified last at or before `until`.
    fn had_by(&self, key: &[u8; PUBLIC_KEY_BYTES], until: UnixMillis) -> bool {
        // Certificates say whole seconds.
        let until = i64::try_from(until.0 / 1000).unwrap_or(i64::MAX);
        let present = (&self.public_key, self.enrolled);
        let earlier = self.earlier.iter().map(|it| (&it.public_key, it.enrolled));
        earlier
            .chain([present])
            .any(|(had, enrolled)| had == key && enrolled.as_second() <= until)
    }

    /// The keys before the one that takes the place of this.
    fn earlier_than(self, next: &[u8; PUBLIC_KEY_BYTES]) -> Vec<EarlierKey> {
        let mut earlier = self.earlier;
        earlier.push(EarlierKey {
            public_key: self.public_key,
            enrolled: self.enrolled,
        });
        earlier.retain(|it| it.public_key != *next);
        let too_many = earlier.len().saturating_sub(EARLIER_KEYS_MAX);
        earlier.split_off(too_many)
    }
}

/// Why what is recorded of a host's enrolment cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentRecordError {
    /// It is no such text.
    #[error("parse the record of an enrolment {path}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// Of a later version, or of another host.
    #[error("the record of an enrolment {0} is of another version or host")]
    Other(PathBuf),
}

impl StateDirectory {
    /// Certifies that `public_key` is that of `enrolled`, and says all that makes it that host's identity. It is recorded first.
    ///
    /// A key that the host had when it was revoked is never certified again, whoever asks.
    ///
    /// # Errors
    /// [`StateError`]; [`StateError::Trust`] where what is believed is against it, or is lost.
    pub fn certify(
        &self,
        enrolled: &Enrolled,
        public_key: &[u8; PUBLIC_KEY_BYTES],
        now: UnixMillis,
    ) -> Result<Certified, StateError> {
        let lock = self.lock_trust()?;
        self.certify_locked(&lock, enrolled, public_key, now)
    }

    /// As [`Self::certify`], for who was let pass when the host was `denied` until then: one that was revoked since is not certified, as
    /// if the revocation had come first.
    ///
    /// # Errors
    /// As [`Self::certify`]; [`TrustError::Revoked`].
    pub fn certify_unless_revoked_since(
        &self,
        denied: Option<UnixMillis>,
        enrolled: &Enrolled,
        public_key: &[u8; PUBLIC_KEY_BYTES],
        now: UnixMillis,
    ) -> Result<Certified, StateError> {
        let lock = self.lock_trust()?;
        if self.denied_until(Role::Agent, &enrolled.host)? != denied {
            return Err(TrustError::Revoked(enrolled.host.clone()).into());
        }
        self.certify_locked(&lock, enrolled, public_key, now)
    }

    /// Nobody is revoked meanwhile: either the record is there when it is decided until when the host is denied, or the denial is seen here.
    fn certify_locked(
        &self,
        lock: &fs::File,
        enrolled: &Enrolled,
        public_key: &[u8; PUBLIC_KEY_BYTES],
        now: UnixMillis,
    ) -> Result<Certified, StateError> {
        self.refuse_cut_off_key(&enrolled.host, public_key)?;
        let own = self.identity_at(now)?;
        if !enrolled.readmit {
            refuse_revoked(&own, &enrolled.host, enrolled.how)?;
        }
        let before = self.enrolment(&enrolled.host)?;
        let authority = self.authority()?;
        let issued = self.issued_from(Role::Agent, &enrolled.host, now)?;
        let mut host = HostFile::default();
        if !enrolled.environments.is_empty() {
            host.environments.clone_from(&enrolled.environments);
        }
        self.enrol_with(&mut host)?;
        let signers = read(&self.path(ALLOWED_SIGNERS))?;
        let membership = Membership {
            host: enrolled.host.clone(),
            environments: host.environments.clone(),
            audiences: host.audiences.clone(),
            extensions: Extensions::default(),
        };
        let membership = SignedMembership::sign(&membership, &own);
        let node = authority.node(Role::Agent, enrolled.host.clone());
        let certificate = authority.issue(&node, public_key, Validity::leaf(issued.0))?;
        let validity = certificate
            .leaf_validity()
            .expect("it was just issued as a node's");
        self.save_enrolment(&EnrolmentRecord {
            schema: SCHEMA.into(),
            host: enrolled.host.clone(),
            public_key: *public_key,
            environments: host.environments.clone(),
            how: enrolled.how,
            enrolled: timestamp(issued.0),
            valid_until: timestamp(validity.not_after_unix_ms),
            certificate: Some(certificate_hash(&certificate.der)),
            earlier: before.map_or_else(Vec::new, |before| before.earlier_than(public_key)),
        })?;
        let is_readmitted = self.note_enrolled_locked(lock, &enrolled.host, issued)?;
        let host = toml::to_string(&host).expect("a list of names is TOML");
        let enrolment = Enrolment {
            certificate: certificate.pem,
            authorities: self.authorities_pem(own.trust())?,
            allowed_signers: Some(signers.into()),
            host: Some(host.into()),
            membership: Some(codec::encode(&membership).into()),
            extensions: Extensions::default(),
        };
        Ok(Certified {
            enrolment: self.with_trust(enrolment)?,
            is_readmitted,
        })
    }

    /// With whose certificates count, so that the host begins with what the others know. Where that is too much for an enrolment,
    /// the host learns it from the first that it meets, as any that was away.
    fn with_trust(&self, enrolment: Enrolment) -> Result<Enrolment, StateError> {
        let Some(kept) = self.kept_trust()? else {
            return Ok(enrolment);
        };
        let with_trust = enrolment.clone().with_trust(&kept);
        Ok(with_trust.unwrap_or_else(|error| {
            let reason = scap_agent::error_chain(&error);
            tracing::warn!(
                reason,
                "who is revoked does not fit an enrolment, and is learnt from other hosts"
            );
            enrolment
        }))
    }

    /// Refuses a key that is not certified for a host any more.
    ///
    /// # Errors
    /// [`TrustError::KeyRevoked`], and as [`Self::is_key_cut_off`].
    pub(super) fn refuse_cut_off_key(
        &self,
        host: &NodeId,
        key: &[u8; PUBLIC_KEY_BYTES],
    ) -> Result<(), StateError> {
        match self.is_key_cut_off(host, key)? {
            true => Err(TrustError::KeyRevoked(host.clone()).into()),
            false => Ok(()),
        }
    }

    /// Whether a key is not certified for a host any more: it is denied itself, or the host had it when it was revoked, as far as
    /// is recorded here.
    ///
    /// # Errors
    /// As [`Self::denied_until`], and [`StateError::Enrolment`].
    pub fn is_key_cut_off(
        &self,
        host: &NodeId,
        key: &[u8; PUBLIC_KEY_BYTES],
    ) -> Result<bool, StateError> {
        if self.is_key_denied(key)? {
            return Ok(true);
        }
        let Some(until) = self.denied_until(Role::Agent, host)? else {
            return Ok(false);
        };
        let record = self.enrolment(host)?;
        Ok(record.is_some_and(|record| record.had_by(key, until)))
    }

    /// Makes the identity directory of one agent: its key and certificate, whom it trusts, and which
    /// environments it is in. A crash leaves a directory without a certificate; the same again goes on from there. A
    /// revocation of the host is lifted.
    ///
    /// # Errors
    /// [`StateError`]; an identity that exists is never replaced.
    pub fn enroll(
        &self,
        name: &NodeId,
        out: &Path,
        environments: &[Environment],
        now: UnixMillis,
    ) -> Result<Identity, StateError> {
        let enrolled = self.enroll_or_readmit(name, out, environments, now);
        enrolled.map(|(identity, _)| identity)
    }

    /// As [`Self::enroll`], and says whether the host was revoked until now.
    ///
    /// # Errors
    /// As [`Self::enroll`].
    pub fn enroll_or_readmit(
        &self,
        name: &NodeId,
        out: &Path,
        environments: &[Environment],
        now: UnixMillis,
    ) -> Result<(Identity, bool), StateError> {
        install::refuse_present(out).map_err(IdentityError::from)?;
        let request = install::request(out)?;
        let request =
            IdentityRequest::parse(request.as_bytes()).expect("it was just made, as a request is");
        let enrolled = Enrolled {
            host: name.clone(),
            environments: environments.to_vec(),
            how: How::Offline,
            readmit: true,
        };
        let certified = self.certify(&enrolled, request.public_key(), now)?;
        let identity = Staged::new(out, &certified.enrolment, None)?.commit()?;
        self.give_trust(out)?;
        Ok((identity, certified.is_readmitted))
    }

    /// What is recorded of a host's latest certificate.
    ///
    /// # Errors
    /// [`StateError::Io`], [`StateError::Enrolment`].
    pub fn enrolment(&self, host: &NodeId) -> Result<Option<EnrolmentRecord>, StateError> {
        let path = self.enrolment_path(host);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io_error("read", path, source)),
        };
        let record: EnrolmentRecord =
            toml::from_str(&text).map_err(|error| EnrolmentRecordError::Parse {
                path: path.clone(),
                source: error.into(),
            })?;
        match record.schema == SCHEMA && record.host == *host {
            true => Ok(Some(record)),
            false => Err(EnrolmentRecordError::Other(path).into()),
        }
    }

    /// What is recorded of all hosts, sorted by name.
    ///
    /// # Errors
    /// As [`Self::enrolment`].
    pub fn enrolments(&self) -> Result<Vec<EnrolmentRecord>, StateError> {
        let folder = self.path(ENROLMENTS);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries.collect::<Result<Vec<_>, _>>(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let entries = entries.map_err(|source| io_error("list", folder, source))?;
        let names = entries.iter().map(fs::DirEntry::file_name);
        let mut hosts: Vec<NodeId> = names
            .filter_map(|name| name.to_str()?.parse().ok())
            .collect();
        hosts.sort();
        let records = hosts.iter().map(|host| self.enrolment(host).transpose());
        records.flatten().collect()
    }

    fn save_enrolment(&self, record: &EnrolmentRecord) -> Result<(), StateError> {
        let path = self.enrolment_path(&record.host);
        let folder = path.parent().expect("it was made of a folder and a name");
        let text = toml::to_string(record).expect("names and times are TOML");
        fs::create_dir_all(folder)
            .and_then(|()| durable::replace_file(&path, text.as_bytes()))
            .map_err(|source| io_error("write", path, source))
    }

    /// A folder a host: the longest name leaves no room for more in the name of a file.
    fn enrolment_path(&self, host: &NodeId) -> PathBuf {
        self.path(ENROLMENTS).join(host.as_str()).join(RECORD)
    }
}

/// What the text is, and of which version.
const SCHEMA: &str = "scap.enrolment/1";
const ENROLMENTS: &str = "enrolments";
const RECORD: &str = "certificate.toml";
/// Most earlier keys that are recorded of a host: one made anew each month has as many in ten years.
const EARLIER_KEYS_MAX: usize = 128;

fn certificate_hash(der: &[u8]) -> String {
    blake3::hash(der).to_hex().to_string()
}

/// Refuses a host that is cut off and was not enrolled again since.
pub(super) fn refuse_revoked(own: &Identity, host: &NodeId, how: How) -> Result<(), StateError> {
    if !revoked(own.trust()).contains_key(host) {
        return Ok(());
    }
    let host = host.clone();
    Err(match how {
        How::Renewal => TrustError::Revoked(host),
        How::Offline | How::Ssh | How::Token => TrustError::NotReadmitted(host),
    }
    .into())
}

fn timestamp(unix_ms: u64) -> Timestamp {
    let millis = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
}

fn io_error(doing: &'static str, path: PathBuf, source: io::Error) -> StateError {
    StateError::Io {
        doing,
        path,
        source,
    }
}

mod in_hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::PUBLIC_KEY_BYTES;

    pub(super) fn serialize<S: Serializer>(
        key: &[u8; PUBLIC_KEY_BYTES],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(key))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u8; PUBLIC_KEY_BYTES], D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut key = [0; PUBLIC_KEY_BYTES];
        hex::decode_to_slice(&text, &mut key).map_err(D::Error::custom)?;
        Ok(key)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use scap_agent::trust::HostTrust;
    use scap_proto::identity::SecretKey;
    use tempfile::TempDir;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_767_323_045_000);

    fn world() -> (TempDir, StateDirectory) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        StateDirectory::init(&path, &"prod".parse().unwrap(), NOW).unwrap();
        let state = StateDirectory::open(&path).unwrap();
        (folder, state)
    }

    #[test]
    fn an_offline_identity_is_whole_and_recorded_and_never_replaced() {
        let (folder, state) = world();
        let out = folder.path().join("web1");
        let host: NodeId = "web1".parse().unwrap();
        let staging: Environment = "staging".parse().unwrap();
        let environments = [staging];
        let identity = state.enroll(&host, &out, &environments, NOW).unwrap();
        let trust = HostTrust::load(&out, NOW).unwrap();
        assert_eq!(trust.addressee.environments, environments);
        assert!(trust.membership.get().is_some());

        let record = state.enrolment(&host).unwrap().unwrap();
        assert_eq!(record.public_key, *identity.public_key());
        assert_eq!(record.environments, environments);
        assert_eq!((record.how.as_str(), &record.host), ("offline", &host));
        assert_eq!(record.enrolled.to_string(), "2026-01-02T03:04:05Z");
        assert_eq!(record.valid_until.to_string(), "2027-01-02T03:04:05Z");
        assert_eq!(state.enrolments().unwrap(), std::slice::from_ref(&record));

        let again = state.enroll(&host, &out, &[], NOW).unwrap_err();
        assert!(again.to_string().contains("exists already"), "{again}");
        assert_eq!(state.enrolment(&host).unwrap(), Some(record));
    }

    #[test]
    fn enrolling_offline_goes_on_where_a_crash_left_only_the_key() {
        let (folder, state) = world();
        let out = folder.path().join("web1");
        install::request(&out).unwrap();
        let key = SecretKey::load(&out.join("node.key")).unwrap();
        let host: NodeId = "web1".parse().unwrap();
        let identity = state.enroll(&host, &out, &[], NOW).unwrap();
        assert_eq!(identity.public_key(), key.public());
    }

    #[test]
    fn the_longest_name_is_recorded_and_a_record_of_another_host_is_refused() {
        let (_folder, state) = world();
        let host: NodeId = "x".repeat(NodeId::BYTES_MAX).parse().unwrap();
        let enrolled = Enrolled {
            host: host.clone(),
            environments: Vec::new(),
            how: How::Ssh,
            readmit: false,
        };
        let key = SecretKey::generate();
        state.certify(&enrolled, key.public(), NOW).unwrap();
        let record = state.enrolment(&host).unwrap().unwrap();
        assert_eq!(record.fingerprint(), key_fingerprint(key.public()));

        let other: NodeId = "web2".parse().unwrap();
        let path = state.enrolment_path(&other);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(state.enrolment_path(&host), &path).unwrap();
        let refused = state.enrolments().unwrap_err();
        assert!(matches!(refused, StateError::Enrolment(_)), "{refused}");
        fs::write(&path, "schema = 7").unwrap();
        let refused = state.enrolment(&other).unwrap_err();
        assert!(matches!(refused, StateError::Enrolment(_)), "{refused}");
    }
}
