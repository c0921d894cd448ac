//! Whose signatures a fleet takes, as its state directory has it: how many, and the chain of signers files.

use std::{
    fs, io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use scap_agent::{
    store::durable,
    trust::{HostFile, ThresholdRule, Thresholds, TooMany},
};
use scap_proto::{
    codec,
    id::NodeId,
    release::{SignedSigners, SignersError, SignersInForce, UnixMillis, signature::LineError},
};
use serde::Deserialize;

use super::{StateDirectory, StateError};

/// How many signatures what takes, and from where releases are taken. Without it one does, and they are taken from here.
const SIGNATURES: &str = "signatures.toml";
/// The folder of the chain: a file for each link, by its number.
const SIGNERS: &str = "signers";
/// The first bytes of a link's file: kind and version.
const MAGIC: &[u8] = b"scap-coordinator-signers/1\n";

/// `signatures.toml`: what `host.toml` says of the same names.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignaturesFile {
    signatures_min: Option<NonZeroUsize>,
    signers_signatures_min: Option<NonZeroUsize>,
    #[serde(default)]
    signatures: Vec<ThresholdRule>,
    require_origin: Option<bool>,
    #[serde(default)]
    origins: Vec<NodeId>,
}

/// Why it is not known whose signatures a fleet takes.
#[derive(Debug, thiserror::Error)]
pub enum FleetAuthorityError {
    /// A file cannot be read or written.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// `signatures.toml` says something else than it can.
    #[error("parse {}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: Box<toml::de::Error>,
    },
    /// It asks for more than there can be.
    #[error("read {}", path.display())]
    TooMany {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: TooMany,
    },
    /// A link of the chain is damaged, or missing before a later one.
    #[error("{} is damaged, or not the next link of the chain of signers files", .0.display())]
    Link(PathBuf),
    /// The file is no signers file.
    #[error("read the signers file")]
    File(#[from] LineError),
    /// It is not what the last link brought.
    #[error(
        "{} is not the signers file that link {number} brought: it was changed by hand",
        path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// The last link.
        number: u64,
    },
    /// A new file is none.
    #[error(transparent)]
    Signers(#[from] SignersError),
}

/// The chain of signers files, and the one in force.
#[derive(Debug)]
pub struct SignersChain {
    /// The links, from the first.
    pub links: Vec<SignedSigners>,
    /// What they lead to.
    pub in_force: SignersInForce,
}

impl StateDirectory {
    /// How many signatures releases and signers files take.
    ///
    /// # Errors
    /// [`FleetAuthorityError`].
    pub fn thresholds(&self) -> Result<Thresholds, FleetAuthorityError> {
        let path = self.path(SIGNATURES);
        let said = self.signatures()?;
        let otherwise = said.signatures_min.unwrap_or(NonZeroUsize::MIN);
        Thresholds::new(otherwise, said.signatures, said.signers_signatures_min)
            .map_err(|source| FleetAuthorityError::TooMany { path, source })
    }

    /// What a host that is enrolled now is told of signatures, and of deployment hosts: unless said, it takes releases from this one.
    ///
    /// # Errors
    /// [`StateError::FleetAuthority`], [`StateError::Identity`].
    pub(super) fn enrol_with(&self, host: &mut HostFile) -> Result<(), StateError> {
        self.thresholds()?;
        let said = self.signatures()?;
        host.require_origin = said.require_origin;
        host.origins = said.origins;
        if host.origins.is_empty() && host.require_origin != Some(false) {
            host.origins = vec![self.identity()?.own().name.clone()];
        }
        host.signatures_min = said.signatures_min.unwrap_or(host.signatures_min);
        host.signers_signatures_min = said.signers_signatures_min;
        host.signatures = said.signatures;
        host.signers_number = self.signers_chain()?.in_force.number();
        Ok(())
    }

    fn signatures(&self) -> Result<SignaturesFile, FleetAuthorityError> {
        let path = self.path(SIGNATURES);
        match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|error| FleetAuthorityError::Parse {
                path,
                source: error.into(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(SignaturesFile::default()),
            Err(source) => Err(io_error("read", &path, source)),
        }
    }

    /// The chain of signers files. Its signatures are for hosts to check. Where a link was taken, and a crash left the file before it, the
    /// file is put right.
    ///
    /// # Errors
    /// [`FleetAuthorityError`].
    pub fn signers_chain(&self) -> Result<SignersChain, FleetAuthorityError> {
        let links = self.signers_links()?;
        let path = self.allowed_signers_path();
        let mut text =
            fs::read_to_string(&path).map_err(|source| io_error("read", &path, source))?;
        let number = links.len() as u64;
        if let Some(last) = links.last() {
            let brought = last.read_unverified().map_err(SignersError::from)?;
            if brought.previous == *blake3::hash(text.as_bytes()).as_bytes() {
                write(&path, brought.text.as_bytes())?;
                text.clone_from(&brought.text);
            }
            if brought.text != text {
                return Err(FleetAuthorityError::Changed { path, number });
            }
        }
        let in_force = SignersInForce::new(number, text)?;
        Ok(SignersChain { links, in_force })
    }

    fn signers_links(&self) -> Result<Vec<SignedSigners>, FleetAuthorityError> {
        let mut links = Vec::new();
        loop {
            let number = links.len() as u64 + 1;
            let path = self.link_path(number);
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(links),
                Err(source) => return Err(io_error("read", &path, source)),
            };
            let damaged = || FleetAuthorityError::Link(path.clone());
            let body = bytes.strip_prefix(MAGIC).ok_or_else(damaged)?;
            let link: SignedSigners = codec::decode(body).map_err(|_| damaged())?;
            match link.read_unverified() {
                Ok(file) if file.number == number => links.push(link),
                _ => return Err(damaged()),
            }
        }
    }

    /// Takes a link: from now on grants carry it, and hosts are enrolled with its file. A crash leaves the chain before, or all of
    /// the one with the link.
    ///
    /// # Errors
    /// [`StateError::FleetAuthority`] where hosts would not take it.
    pub fn take_signers(
        &self,
        link: &SignedSigners,
        now: UnixMillis,
    ) -> Result<SignersInForce, StateError> {
        let fleet = self.identity()?.trust().fleet().clone();
        let failed = |error: SignersError| FleetAuthorityError::from(error);
        link.encode().map_err(failed)?;
        let chain = self.signers_chain()?;
        let threshold = self.thresholds()?.of_signers();
        let new = chain
            .in_force
            .next(link, &fleet, threshold, now)
            .map_err(failed)?;
        let follows = std::slice::from_ref(link);
        chain
            .in_force
            .follow(follows, &fleet, threshold, now)
            .map_err(failed)?;
        let folder = self.path(SIGNERS);
        fs::create_dir_all(&folder).map_err(|source| io_error("make", &folder, source))?;
        let bytes = [MAGIC, &codec::encode(link)].concat();
        write(&self.link_path(new.number()), &bytes)?;
        write(&self.allowed_signers_path(), new.text().as_bytes())?;
        Ok(new)
    }

    fn link_path(&self, number: u64) -> PathBuf {
        self.path(SIGNERS).join(number.to_string())
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), FleetAuthorityError> {
    durable::replace_file(path, bytes).map_err(|source| io_error("write", path, source))
}

fn io_error(doing: &'static str, path: &Path, source: io::Error) -> FleetAuthorityError {
    FleetAuthorityError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

impl From<FleetAuthorityError> for StateError {
    fn from(error: FleetAuthorityError) -> Self {
        Self::FleetAuthority(Box::new(error))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use scap_proto::release::{
        SignersFile,
        signature::{Signer, allowed_signers_line},
        signers_namespace,
    };

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_767_323_045_000);

    #[test]
    fn b9_a_new_file_is_taken_whole_or_not_at_all_and_a_crash_between_is_put_right() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("st");
        let fleet = "prod".parse().unwrap();
        StateDirectory::init(&path, &fleet, NOW).unwrap();
        let state = StateDirectory::open(&path).unwrap();
        let (old, new) = (
            state.signer(None).unwrap(),
            Signer::create(&folder.path().join("new"), "").unwrap(),
        );
        let before = state.signers_chain().unwrap().in_force;
        let namespaces = format!("scap-release:*,{}", signers_namespace(&fleet));
        let file = SignersFile {
            number: 1,
            previous: before.hash(),
            text: allowed_signers_line("new", &namespaces, new.public_key()),
            expires: NOW,
            extensions: Default::default(),
        };
        let mut link = SignedSigners::unsigned(&file);
        link.sign(&fleet, &old).unwrap();
        assert!(state.take_signers(&link, NOW).is_err(), "one side alone");
        assert!(state.signers_chain().unwrap().links.is_empty());
        link.sign(&fleet, &new).unwrap();
        assert!(state.take_signers(&link, UnixMillis(NOW.0 + 1)).is_err());
        assert_eq!(state.take_signers(&link, NOW).unwrap().number(), 1);
        assert!(state.take_signers(&link, NOW).is_err(), "it is taken");

        // Whatever the authority signs from now on says so.
        let identity = state.identity().unwrap();
        let trust = state.sign_trust(identity.trust(), NOW, |_| {}).unwrap();
        let vouched = trust.signers().unwrap();
        let hash = *blake3::hash(file.text.as_bytes()).as_bytes();
        assert_eq!((vouched.number, vouched.hash), (1, hash));

        let allowed = path.join("allowed_signers");
        fs::write(&allowed, before.text()).unwrap();
        let chain = state.signers_chain().unwrap();
        assert_eq!((chain.links, chain.in_force.number()), (vec![link], 1));
        assert_eq!(fs::read_to_string(&allowed).unwrap(), file.text);
        fs::write(&allowed, "# changed by hand\n").unwrap();
        assert!(matches!(
            state.signers_chain(),
            Err(FleetAuthorityError::Changed { number: 1, .. })
        ));
    }
}
