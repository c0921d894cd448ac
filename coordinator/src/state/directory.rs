//! The state directory: the fleet's authority, the deployer's key, and what was released.

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use scap_agent::store::durable;
use scap_proto::{
    codec,
    content::SnapshotRef,
    id::{ChunkId, NodeId},
    identity::{
        self, AuthorityPin, CertificateAuthority, FleetName, Identity, IdentityError, KeyError,
        Role, SecretKey, Validity, install::InstallError,
    },
    limits::DELTAS_MAX,
    place::{self, PlaceError},
    reason::Reason,
    release::{
        Environment, RepoPath, SignedGrant, SignedRelease, UnixMillis,
        signature::{
            AllowedSigners, AllowedSignersError, PublicKey, PublicKeyError, SignError, Signer,
            allowed_signers_line,
        },
        signers_namespace,
    },
};
use serde::{Deserialize, Serialize};

use super::{FleetAuthorityError, configs, enrolments::EnrolmentRecordError, trust::TrustError};
use crate::enroll::Tokens;

pub(super) const AUTHORITY: &str = "ca";
pub(super) const COORDINATOR: &str = "coordinator";
const DEPLOYER_KEY: &str = "deployer_key";
pub(super) const ALLOWED_SIGNERS: &str = "allowed_signers";
const STORE: &str = "store";
const RECORDS: &str = "records";
const LOCK: &str = "lock";
const LOCKS: &str = "locks";
const TIPS: &str = "tips";
const STATE_REPO: &str = "state.git";
const CONTROL: &str = "control";
const TOKENS: &str = "tokens";

/// The first bytes of each record: kind and version. A record of another version is refused by name.
const MAGIC: &[u8] = b"scap-coordinator-record/1\n";

/// The state directory of one fleet.
#[derive(Debug, Clone)]
pub struct StateDirectory(PathBuf);

/// What was last released of one repo to one environment. It is saved before the release is sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Its sequence.
    pub sequence: u64,
    /// The release.
    pub release: SignedRelease,
    /// The epoch of its latest grant.
    pub epoch: u64,
    /// Its latest grant.
    pub grant: SignedGrant,
    /// Whether it was finalized.
    pub is_finalized: bool,
    /// The snapshots whose chunks are worth keeping: its own, and those of releases before it that were finalized.
    pub snapshots: Vec<SnapshotRef>,
}

/// Most snapshots of one repo whose chunks the coordinator keeps: the latest, and so many before it as deltas may be made
/// from, of which one is to go back to. They share most of their chunks.
pub const SNAPSHOTS_KEPT: usize = 1 + DELTAS_MAX;

/// What [`StateDirectory::init`] made.
#[derive(Debug)]
pub struct Made {
    /// The fleet's name.
    pub fleet: FleetName,
    /// The deployer key's fingerprint.
    pub fingerprint: String,
    /// Each file or folder, and what it is.
    pub files: Vec<(PathBuf, &'static str)>,
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It is one already.
    #[error("{0} is a state directory already")]
    Exists(PathBuf),
    /// It is none.
    #[error("{0} is not a state directory")]
    Missing(PathBuf),
    /// A file or folder cannot be read or written.
    #[error("{doing} {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// An older program uses it, which wants it alone.
    #[error("a scap-coordinator of an older version holds the lock {path}{holder}")]
    Locked {
        /// The lock.
        path: PathBuf,
        /// Who, where known.
        holder: String,
    },
    /// Somebody deploys the same from here.
    #[error("{what} is locked by {holder}")]
    Held {
        /// What.
        what: String,
        /// Who, why, and since when.
        holder: String,
        /// The state directory.
        state: String,
    },
    /// It is not ours alone.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The fleet's authority.
    #[error("the fleet's certificate authority")]
    Authority(#[from] identity::AuthorityError),
    /// A node's identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// What came of a host's own key was not made its identity.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// What is recorded of a host's enrolment.
    #[error(transparent)]
    Enrolment(#[from] EnrolmentRecordError),
    /// The deployer's key.
    #[error("the deployer's key")]
    Sign(#[from] SignError),
    /// A public key's file that holds none.
    #[error("read the public key in {path}")]
    PublicKey {
        /// Which.
        path: PathBuf,
        /// Why.
        source: PublicKeyError,
    },
    /// No ssh-agent to sign with.
    #[error("SSH_AUTH_SOCK is not set, so there is no ssh-agent to sign with")]
    NoAgent,
    /// A session's key.
    #[error("the session's key")]
    Key(#[from] KeyError),
    /// Who may release.
    #[error(transparent)]
    Signers(#[from] AllowedSignersError),
    /// How many signatures it takes, or the chain of signers files.
    #[error("whose signatures the fleet takes")]
    FleetAuthority(#[source] Box<FleetAuthorityError>),
    /// Whose certificates count.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A record that is damaged or of another version.
    #[error("record {0} is damaged or of another version")]
    Record(PathBuf),
}

impl StateError {
    /// Its code.
    pub fn code(&self) -> Reason {
        match self {
            Self::Trust(error) => error.code().unwrap_or(Reason::IoError),
            Self::Place(error) => error.code(),
            _ => Reason::IoError,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Exists(path) => Some(format!(
                "use it as it is, or give another --state; nothing in {} was touched",
                path.display()
            )),
            Self::Missing(path) => Some(format!(
                "make it with `scap-coordinator init --state {}`",
                path.display()
            )),
            Self::Locked { .. } => {
                Some("it leads one deployment at a time: wait for it to end, then try again".into())
            }
            Self::Held { state, .. } => Some(format!(
                "wait for it to end, then try again; `scap-coordinator status --state {state}` says how far it is, and `abort` takes its hosts back"
            )),
            Self::Trust(error) => error.hint(),
            Self::Enrolment(_) => {
                Some("move it away, and enrol the host again; nothing else needs it".into())
            }
            Self::Record(_) => {
                Some("move it away: the next deployment learns the sequence from the hosts".into())
            }
            _ => None,
        }
    }
}

impl StateDirectory {
    /// The state directory at `path`, which [`Self::init`] made.
    ///
    /// # Errors
    /// [`StateError::Missing`], and [`StateError::Place`] where others could change it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        // The last that `init` makes.
        if !path.join(ALLOWED_SIGNERS).is_file() {
            return Err(StateError::Missing(path.to_owned()));
        }
        place::check(path)?;
        Ok(Self(path.to_owned()))
    }

    /// Makes a state directory: the authority of a new fleet, the coordinator's identity, a deployer's key,
    /// and the file that allows that key to release everything. A crash leaves a directory that is
    /// [`StateError::Missing`]; remove it and begin again.
    ///
    /// # Errors
    /// [`StateError`]; nothing that exists is ever replaced.
    pub fn init(path: &Path, fleet: &FleetName, now: UnixMillis) -> Result<Made, StateError> {
        if path.join(ALLOWED_SIGNERS).exists() || path.join(AUTHORITY).exists() {
            return Err(StateError::Exists(path.to_owned()));
        }
        place::make(path)?;
        let authority = CertificateAuthority::create(fleet, now.0)?;
        authority.save(&path.join(AUTHORITY))?;
        let name: NodeId = "coordinator".parse().expect("a plain name");
        let node = authority.node(Role::Coordinator, name);
        Identity::create(
            &path.join(COORDINATOR),
            &authority,
            &node,
            Validity::leaf(now.0),
        )?;
        let key = path.join(DEPLOYER_KEY);
        let signer = Signer::create(&key, &format!("scap deployer of {fleet}"))?;
        let namespaces = format!("scap-release:*,{}", signers_namespace(fleet));
        let line = allowed_signers_line("deployer", &namespaces, signer.public_key());
        let signers = path.join(ALLOWED_SIGNERS);
        durable::replace_file(&signers, format!("{line}\n").as_bytes()).map_err(|source| {
            StateError::Io {
                doing: "write",
                path: signers.clone(),
                source,
            }
        })?;
        let files = vec![
            (
                path.join(AUTHORITY),
                "the fleet's private certificate authority; keep it safe",
            ),
            (path.join(COORDINATOR), "this coordinator's identity"),
            (key, "the deployer's key (ed25519, OpenSSH format)"),
            (
                signers,
                "who may release what; goes to every host that is enrolled",
            ),
        ];
        Ok(Made {
            fleet: fleet.clone(),
            fingerprint: signer.fingerprint(),
            files,
        })
    }

    /// The coordinator's identity, which believes what the fleet believes as far as that is known here.
    ///
    /// # Errors
    /// [`StateError::Identity`], [`StateError::Trust`].
    pub fn identity(&self) -> Result<Arc<Identity>, StateError> {
        self.recover_coordinator()?;
        let identity = Identity::load(&self.path(COORDINATOR))?;
        self.keep_trust(identity.trust())?;
        Ok(Arc::new(identity))
    }

    /// The fleet, and the fingerprint of the authority that certifies its hosts.
    ///
    /// # Errors
    /// [`StateError::Authority`].
    pub fn authority_pin(&self) -> Result<(FleetName, AuthorityPin), StateError> {
        let authority = self.authority()?;
        let pin = AuthorityPin::of(&authority.certificate().der);
        Ok((authority.fleet().clone(), pin))
    }

    /// The tokens by which hosts enrol themselves.
    pub fn tokens(&self) -> Tokens {
        Tokens::new(self.path(TOKENS))
    }

    /// The deployer's key: the file of [`Self::init`], or another private key's file, or the key of the ssh-agent whose
    /// public half is in a file that ends in `.pub`.
    ///
    /// # Errors
    /// [`StateError::Sign`], [`StateError::Io`], [`StateError::PublicKey`], [`StateError::NoAgent`].
    pub fn signer(&self, key: Option<&Path>) -> Result<Signer, StateError> {
        let Some(path) = key else {
            return Ok(Signer::from_file(&self.path(DEPLOYER_KEY))?);
        };
        if path.extension().is_none_or(|extension| extension != "pub") {
            return Ok(Signer::from_file(path)?);
        }
        let text = String::from_utf8_lossy(&read(path)?).into_owned();
        let socket = std::env::var_os("SSH_AUTH_SOCK").ok_or(StateError::NoAgent)?;
        let public = text.trim().parse::<PublicKey>();
        let public = public.map_err(|source| StateError::PublicKey {
            path: path.into(),
            source,
        })?;
        Ok(Signer::from_agent(Path::new(&socket), &public)?)
    }

    /// The files of what is recorded of all repos and environments.
    pub(super) fn recorded(&self) -> Result<Vec<PathBuf>, StateError> {
        let directory = self.path(RECORDS);
        let list = || -> io::Result<_> {
            let entries = fs::read_dir(&directory)?;
            entries.map(|entry| Ok(entry?.path())).collect()
        };
        list().map_err(|source| StateError::Io {
            doing: "list",
            path: directory.clone(),
            source,
        })
    }

    /// The snapshots that the records of all repos and environments say to keep, and the config snapshots.
    ///
    /// # Errors
    /// [`StateError::Io`], [`StateError::Record`].
    pub fn kept_snapshots(&self) -> Result<BTreeSet<SnapshotRef>, StateError> {
        let mut kept = BTreeSet::new();
        for path in self.recorded()? {
            if path
                .extension()
                .is_some_and(|extension| extension == "record")
            {
                kept.extend(read_record(&path)?.snapshots);
            }
            kept.extend(configs::kept(&path)?);
        }
        Ok(kept)
    }

    /// The parts of deltas that rollouts need which are under way, or may be gone on with: of those whose session is not
    /// over.
    ///
    /// # Errors
    /// [`StateError::Io`], [`StateError::Record`].
    pub fn kept_deltas(&self) -> Result<BTreeSet<ChunkId>, StateError> {
        let mut kept = BTreeSet::new();
        for path in self.recorded()? {
            let is = |wanted| path.extension().is_some_and(|it| it == wanted);
            let record = path.with_extension("record");
            // A session's key is made before its record is.
            if is("session")
                && record.exists()
                && let Ok(release) = read_record(&record)?.release.read_unverified()
            {
                let parts = release.deltas.iter().flat_map(|delta| &delta.chunks);
                kept.extend(parts.map(|part| part.id));
            }
        }
        Ok(kept)
    }

    /// Who may release what, as enrolled hosts get it.
    ///
    /// # Errors
    /// [`StateError::Signers`].
    pub fn allowed_signers(&self) -> Result<AllowedSigners, StateError> {
        Ok(AllowedSigners::load(&self.path(ALLOWED_SIGNERS))?)
    }

    /// Where the seed's chunks are.
    pub fn store(&self) -> PathBuf {
        self.path(STORE)
    }

    /// The folder of the sockets by which running deployments are told what to do.
    pub fn control(&self) -> PathBuf {
        self.path(CONTROL)
    }

    /// What was last released of a repo to an environment.
    ///
    /// # Errors
    /// [`StateError::Record`], [`StateError::Io`].
    pub fn record(
        &self,
        repo: &RepoPath,
        environment: &Environment,
    ) -> Result<Option<Record>, StateError> {
        match read_record(&self.record_path(repo, environment)) {
            Err(StateError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// Saves a record, durably.
    ///
    /// # Errors
    /// [`StateError::Io`]; the old record stays.
    pub fn save_record(
        &self,
        repo: &RepoPath,
        environment: &Environment,
        record: &Record,
    ) -> Result<(), StateError> {
        let body = codec::encode(record);
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(blake3::hash(&body).as_bytes());
        bytes.extend_from_slice(&body);
        let path = self.record_path(repo, environment);
        let directory = self.path(RECORDS);
        fs::create_dir_all(&directory)
            .and_then(|()| durable::replace_file(&path, &bytes))
            .map_err(|source| StateError::Io {
                doing: "write",
                path,
                source,
            })
    }

    /// Makes the key of a new session and keeps it until [`Self::end_session`], so that a rollout that is
    /// interrupted can be gone on with.
    ///
    /// # Errors
    /// [`StateError::Key`].
    pub fn begin_session(
        &self,
        repo: &RepoPath,
        environment: &Environment,
    ) -> Result<SecretKey, StateError> {
        self.end_session(repo, environment)?;
        let key = SecretKey::generate();
        let path = self
            .record_path(repo, environment)
            .with_extension("session");
        fs::create_dir_all(self.path(RECORDS)).map_err(|source| StateError::Io {
            doing: "make",
            path: path.clone(),
            source,
        })?;
        key.create_file(&path).map_err(KeyError::from)?;
        Ok(key)
    }

    /// Forgets the session's key.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn end_session(
        &self,
        repo: &RepoPath,
        environment: &Environment,
    ) -> Result<(), StateError> {
        let path = self
            .record_path(repo, environment)
            .with_extension("session");
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StateError::Io {
                doing: "remove",
                path,
                source,
            }),
            _ => Ok(()),
        }
    }

    /// Where it is remembered which commit of the state branch about a repo and environment was written last from here.
    pub fn tip_path(&self, repo: &RepoPath, environment: &Environment) -> PathBuf {
        let name = file_name(repo, environment);
        self.path(TIPS).join(format!("{name}.tip"))
    }

    /// The bare repository that has the state branch of directories, which are in no repository.
    pub fn state_repo(&self) -> PathBuf {
        self.path(STATE_REPO)
    }

    pub(super) fn records(&self) -> PathBuf {
        self.path(RECORDS)
    }

    pub(super) fn record_path(&self, repo: &RepoPath, environment: &Environment) -> PathBuf {
        let name = file_name(repo, environment);
        self.path(RECORDS).join(format!("{name}.record"))
    }

    pub(super) fn directory_lock(&self) -> PathBuf {
        self.path(LOCK)
    }

    pub(super) fn locks_path(&self) -> PathBuf {
        self.path(LOCKS)
    }

    pub(super) fn allowed_signers_path(&self) -> PathBuf {
        self.path(ALLOWED_SIGNERS)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl fmt::Display for StateDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

/// What files about a repo and an environment are called. Names hold neither `+` nor `@`.
pub(super) fn file_name(repo: &RepoPath, environment: &Environment) -> String {
    let repo = repo.as_str().replace('/', "+");
    format!("{repo}@{environment}")
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, StateError> {
    fs::read(path).map_err(|source| StateError::Io {
        doing: "read",
        path: path.to_owned(),
        source,
    })
}

pub(super) fn read_record(path: &Path) -> Result<Record, StateError> {
    let bytes = read(path)?;
    let damaged = || StateError::Record(path.to_owned());
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(damaged)?;
    let (checksum, body) = rest.split_at_checked(blake3::OUT_LEN).ok_or_else(damaged)?;
    if blake3::hash(body).as_bytes() != checksum {
        return Err(damaged());
    }
    // Whole, and still not ours: of another version.
    codec::decode(body).map_err(|_| damaged())
}
