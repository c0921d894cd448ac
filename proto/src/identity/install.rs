//! Identities that are made on the host itself: a key, what was certified of it, and the one step between.
//!
//! An identity is several files, and a host that starts must see all of the old ones or all of the new ones. So
//! they are written into a directory of their own and checked there ([`Staged`]); one rename makes them hold,
//! and then they move to their places. Who reads in between finds each by [`file_in`].

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;

pub use super::bundle::CERTIFICATE_FILE;
use super::{
    bundle::{
        AUTHORITIES_FILE, Identity, IdentityError, KEY_FILE, certificates, read_certificates,
    },
    enrolment::Enrolment,
    file::{self, FileError},
    fleet::FleetName,
    key::{KeyError, SecretKey},
    peer::{Leaf, PeerIdentity},
    pin::AuthorityPin,
    request::{IdentityRequest, key_fingerprint},
};
use crate::place::{self, PlaceError};

/// The file that says what a host is in, beside its certificate.
pub const HOST_FILE: &str = "host.toml";
/// The file in which a coordinator says what a host is in, beside its certificate.
pub const MEMBERSHIP_FILE: &str = "membership";
/// The file that says whose certificates counted when the host was enrolled, as [`Trust::learn_from`](super::Trust::learn_from)
/// reads it.
pub const TRUST_FILE: &str = "trust";
/// The file that says who may release, in OpenSSH's format.
pub const ALLOWED_SIGNERS_FILE: &str = "allowed_signers";

/// Makes an identity directory (mode 0700) and a key in it, where they are not there, and says what to have
/// certified: each time the same. A key that is there is never replaced.
///
/// # Errors
/// [`InstallError::Place`], [`InstallError::Key`], [`InstallError::File`], [`InstallError::Io`].
pub fn request(directory: &Path) -> Result<String, InstallError> {
    place::make(directory)?;
    let path = directory.join(KEY_FILE);
    let made = match path.exists() {
        true => Ok(()),
        false => SecretKey::generate().create_file(&path),
    };
    match made {
        // Another made it meanwhile.
        Ok(()) | Err(FileError::Exists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let key = SecretKey::load(&file_in(directory, KEY_FILE))?;
    Ok(IdentityRequest::create(&key))
}

/// Refuses a directory in which an identity is.
///
/// # Errors
/// [`FileError::Exists`].
pub fn refuse_present(directory: &Path) -> Result<(), FileError> {
    let path = file_in(directory, CERTIFICATE_FILE);
    match path.exists() {
        true => Err(FileError::Exists { path }),
        false => Ok(()),
    }
}

/// Where a file of an identity is: in its directory, or, where an installation was cut short after it had come to hold, in
/// the part of it that has not moved yet.
pub fn file_in(directory: &Path, name: &str) -> PathBuf {
    let incoming = directory.join(INCOMING).join(name);
    match incoming.exists() {
        true => incoming,
        false => directory.join(name),
    }
}

/// Of whom what comes must be, where that is known before: what a host's token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The fleet.
    pub fleet: FleetName,
    /// The authority that issues in it.
    pub pin: AuthorityPin,
}

/// What comes to be a host's identity, written beside the present one and checked. Dropped, it comes to nothing.
#[derive(Debug)]
pub struct Staged {
    directory: PathBuf,
    identity: Identity,
    /// One installation at a time; the kernel unlocks it when we die.
    _lock: Locked,
}

/// A directory that nobody else installs into. It is unlocked when this goes, and not only when the last descriptor does: a child that
/// another thread has just forked has one more, until it runs its program.
#[derive(Debug)]
struct Locked(File);

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl Staged {
    /// Writes and checks what `enrolment` makes of the key in `directory`, or of `new_key`, which then takes that one's
    /// place. Where an identity is there, it must be of the same node.
    ///
    /// A crash leaves the present identity, or none where there was none.
    ///
    /// # Errors
    /// [`InstallError`]; the present identity stays.
    pub fn new(
        directory: &Path,
        enrolment: &Enrolment,
        new_key: Option<&SecretKey>,
    ) -> Result<Self, InstallError> {
        place::check(directory)?;
        let lock = lock(directory)?;
        finish(directory)?;
        let present;
        let key = match new_key {
            Some(key) => key,
            None => {
                present = SecretKey::load(&directory.join(KEY_FILE))?;
                &present
            }
        };
        check(directory, enrolment, key)?;
        let staged = directory.join(STAGED);
        discard(&staged)?;
        let made =
            write(directory, &staged, enrolment, key).and_then(|()| Ok(Identity::load(&staged)?));
        match made {
            Ok(identity) => Ok(Self {
                directory: directory.to_owned(),
                identity,
                _lock: lock,
            }),
            Err(error) => {
                // It may not be there, and the error to tell is the first one.
                let _ = discard(&staged);
                Err(error)
            }
        }
    }

    /// A directory with the whole identity as it will be, for checks of more than this module knows.
    pub fn path(&self) -> PathBuf {
        self.directory.join(STAGED)
    }

    /// The identity as it will be.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether it is of the expected fleet, and was issued by the expected authority, which is among those that it trusts.
    ///
    /// # Errors
    /// [`InstallError::OtherFleet`], [`InstallError::OtherAuthority`].
    pub fn check(&self, expected: &Expected) -> Result<(), InstallError> {
        let own = self.identity.own();
        if own.fleet != expected.fleet {
            return Err(InstallError::OtherFleet {
                expected: expected.fleet.clone(),
                came: own.clone(),
            });
        }
        match self.identity.is_issued_by(expected.pin) {
            true => Ok(()),
            false => Err(InstallError::OtherAuthority { pin: expected.pin }),
        }
    }

    /// Has it hold. A crash leaves the identity of before, or this one.
    ///
    /// # Errors
    /// [`InstallError::Io`]; before the first step that fails nothing has changed, and after it
    /// [`Identity::load`] finds the one or the other.
    pub fn commit(self) -> Result<Identity, InstallError> {
        let incoming = self.directory.join(INCOMING);
        fs::rename(self.path(), &incoming).map_err(|source| io_error("make", &incoming, source))?;
        sync(&self.directory)?;
        finish(&self.directory)?;
        Ok(self.identity)
    }
}

/// Why no key was made, or what came back for it was not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Others can change what is in the directory.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// Another installation is under way.
    #[error("another installation into {} is under way", .0.display())]
    Busy(PathBuf),
    /// What came back is for another key.
    #[error("the certificate is for the key {certified}, and the key here is {ours}")]
    OtherKey {
        /// The fingerprint of the key in the certificate.
        certified: String,
        /// The fingerprint of ours.
        ours: String,
    },
    /// There is an identity of another node.
    #[error(
        "{} is the identity of {present}, and the certificate is for {certified} (hint: move it away first)",
        path.display()
    )]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Whose identity is there.
        present: PeerIdentity,
        /// Whose came.
        certified: PeerIdentity,
    },
    /// It is of another fleet than was expected.
    #[error(
        "what came is the identity of {came}, and this host was to become one of fleet {expected}"
    )]
    OtherFleet {
        /// The fleet that was expected.
        expected: FleetName,
        /// Who it would have become.
        came: PeerIdentity,
    },
    /// It is of another authority than was expected.
    #[error("what came was not issued by the authority {pin}, which this host was to believe")]
    OtherAuthority {
        /// The authority that was expected.
        pin: AuthorityPin,
    },
    /// The certificate is none.
    #[error("the certificate that came is not usable: {0}")]
    Malformed(&'static str),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A file of the identity.
    #[error(transparent)]
    File(#[from] FileError),
    /// What came does not belong together.
    #[error("check what came")]
    Identity(#[from] IdentityError),
    /// A step on the disk.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Where an identity is written; what is found there was never finished.
const STAGED: &str = ".staged";
/// Where it is once it holds, until its files have moved to their places.
const INCOMING: &str = ".incoming";
/// All files of an identity.
const FILES: [&str; 7] = [
    KEY_FILE,
    AUTHORITIES_FILE,
    ALLOWED_SIGNERS_FILE,
    HOST_FILE,
    MEMBERSHIP_FILE,
    TRUST_FILE,
    CERTIFICATE_FILE,
];
/// Modes of files: of certificates, and of what the host is told to hold to, which its activator reads by its group where that has a
/// user of its own.
const PUBLIC: u32 = 0o644;
const GROUPS: u32 = 0o640;

fn lock(directory: &Path) -> Result<Locked, InstallError> {
    let file = File::open(directory).map_err(|source| io_error("open", directory, source))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Locked(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(InstallError::Busy(directory.to_owned())),
        Err(error) => Err(io_error("lock", directory, error.into())),
    }
}

/// Whether what came is for this key, and for the node that is here already, if one is.
fn check(directory: &Path, enrolment: &Enrolment, key: &SecretKey) -> Result<(), InstallError> {
    let found = certificates(&enrolment.certificate);
    let [der] = found.as_slice() else {
        return Err(InstallError::Malformed("it is not one certificate in PEM"));
    };
    let leaf = Leaf::parse(der).map_err(InstallError::Malformed)?;
    if leaf.public_key != *key.public() {
        return Err(InstallError::OtherKey {
            certified: key_fingerprint(&leaf.public_key),
            ours: key_fingerprint(key.public()),
        });
    }
    let path = directory.join(CERTIFICATE_FILE);
    if !path.exists() {
        return Ok(());
    }
    let present = read_certificates(&path)?;
    let present = present.first().map(|der| Leaf::parse(der));
    match present {
        Some(Ok(present)) if present.identity != leaf.identity => Err(InstallError::OtherNode {
            path: directory.to_owned(),
            present: present.identity,
            certified: leaf.identity,
        }),
        _ => Ok(()),
    }
}

fn write(
    directory: &Path,
    staged: &Path,
    enrolment: &Enrolment,
    key: &SecretKey,
) -> Result<(), InstallError> {
    DirBuilder::new()
        .mode(0o700)
        .create(staged)
        .map_err(|source| io_error("make", staged, source))?;
    key.create_file(&staged.join(KEY_FILE))?;
    for (name, text) in [
        (CERTIFICATE_FILE, &enrolment.certificate),
        (AUTHORITIES_FILE, &enrolment.authorities),
    ] {
        file::create(&staged.join(name), text.as_bytes(), PUBLIC)?;
    }
    for (name, bytes) in [
        (ALLOWED_SIGNERS_FILE, &enrolment.allowed_signers),
        (HOST_FILE, &enrolment.host),
        (MEMBERSHIP_FILE, &enrolment.membership),
    ] {
        let path = directory.join(name);
        let kept = match bytes {
            Some(bytes) => Some(bytes.to_vec()),
            None if path.exists() => Some(file::read_bytes(&path)?),
            None => None,
        };
        if let Some(bytes) = kept {
            file::create(&staged.join(name), &bytes, GROUPS)?;
        }
    }
    // Where none came, what is there stays: it is not looked at here.
    if let Some(trust) = enrolment.trust() {
        file::create(&staged.join(TRUST_FILE), &trust, PUBLIC)?;
    }
    sync(staged)
}

/// Moves what holds to its places. It does again what a crash cut short.
fn finish(directory: &Path) -> Result<(), InstallError> {
    let incoming = directory.join(INCOMING);
    if !incoming.exists() {
        return Ok(());
    }
    for name in FILES {
        let from = incoming.join(name);
        if from.exists() {
            fs::rename(&from, directory.join(name))
                .map_err(|source| io_error("move", &from, source))?;
        }
    }
    sync(directory)?;
    fs::remove_dir(&incoming).map_err(|source| io_error("remove", &incoming, source))?;
    sync(directory)
}

fn discard(staged: &Path) -> Result<(), InstallError> {
    match fs::remove_dir_all(staged) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", staged, source))
        }
        _ => Ok(()),
    }
}

fn sync(directory: &Path) -> Result<(), InstallError> {
    File::open(directory)
        .and_then(|file| file.sync_all())
        .map_err(|source| io_error("sync", directory, source))
}

fn io_error(doing: &'static str, path: &Path, source: io::Error) -> InstallError {
    InstallError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use bytes::Bytes;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        extensions::Extensions,
        identity::{CertificateAuthority, Role, Validity},
    };

    const NOW: u64 = 1_767_323_045_000;

    struct World {
        authority: CertificateAuthority,
        host: TempDir,
    }

    impl World {
        fn new() -> Self {
            Self {
                authority: CertificateAuthority::create(&"prod".parse().unwrap(), NOW).unwrap(),
                host: tempfile::tempdir().unwrap(),
            }
        }

        fn path(&self) -> &Path {
            self.host.path()
        }

        fn certify(&self, name: &str, key: &[u8; 32], signers: &'static [u8]) -> Enrolment {
            let node = self.authority.node(Role::Agent, name.parse().unwrap());
            let issued = self.authority.issue(&node, key, Validity::leaf(NOW));
            Enrolment {
                certificate: issued.unwrap().pem,
                authorities: self.authority.certificate().pem.clone(),
                allowed_signers: Some(Bytes::from_static(signers)),
                host: Some(Bytes::from_static(b"environments = []\n")),
                membership: None,
                extensions: Extensions::default(),
            }
        }

        /// For the key that is in the directory.
        fn answer(&self, signers: &'static [u8]) -> Enrolment {
            let asked = request(self.path()).unwrap();
            let asked = IdentityRequest::parse(asked.as_bytes()).unwrap();
            self.certify("web1", asked.public_key(), signers)
        }

        fn install(&self, enrolment: &Enrolment) -> Result<Identity, InstallError> {
            Staged::new(self.path(), enrolment, None)?.commit()
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(file_in(self.path(), name)).unwrap()
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.path()).unwrap();
            let names = entries.map(|it| it.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.collect();
            names.sort();
            names
        }
    }

    #[test]
    fn a_host_makes_its_key_once_and_becomes_who_it_was_certified_to_be() {
        let world = World::new();
        let inner = world.path().join("etc/identity");
        let first = request(&inner).unwrap();
        assert_eq!(request(&inner).unwrap(), first);
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&inner), 0o700);
        assert_eq!(mode(&inner.join("node.key")), 0o600);

        let world = World::new();
        let installed = world.install(&world.answer(b"one")).unwrap();
        assert_eq!(installed.own().to_uri(), "scap://prod/agent/web1");
        let loaded = Identity::load(world.path()).unwrap();
        assert_eq!(loaded.certificate(), installed.certificate());
        let expected = [
            "allowed_signers",
            "ca.crt",
            "host.toml",
            "node.crt",
            "node.key",
        ];
        assert_eq!(world.names(), expected);
        assert_eq!(world.read("allowed_signers"), "one");
        assert_eq!(mode(&world.path().join("node.crt")), 0o644);
        assert_eq!(mode(&world.path().join("host.toml")) & !0o040, 0o600);
    }

    #[test]
    fn what_is_for_another_key_or_another_node_leaves_all_as_it_was() {
        let world = World::new();
        let stranger = SecretKey::generate();
        world.answer(b"one");
        let other = world.certify("web1", stranger.public(), b"evil");
        let error = world.install(&other).unwrap_err();
        assert!(matches!(error, InstallError::OtherKey { .. }), "{error}");
        assert_eq!(world.names(), ["node.key"]);

        world.install(&world.answer(b"one")).unwrap();
        let key = SecretKey::load(&world.path().join("node.key")).unwrap();
        let other = world.certify("web2", key.public(), b"evil");
        let error = world.install(&other).unwrap_err();
        assert!(matches!(error, InstallError::OtherNode { .. }), "{error}");

        let mut mixed = world.answer(b"evil");
        mixed.authorities = World::new().authority.certificate().pem.clone();
        let error = world.install(&mixed).unwrap_err();
        assert!(matches!(error, InstallError::Identity(_)), "{error}");
        assert_eq!(world.read("allowed_signers"), "one");
        assert!(!world.path().join(STAGED).exists());
        let mut none = world.answer(b"evil");
        none.certificate = "nothing".into();
        let error = world.install(&none).unwrap_err();
        assert!(matches!(error, InstallError::Malformed(_)), "{error}");
    }

    #[test]
    fn an_identity_is_renewed_for_the_same_key_or_a_new_one_and_keeps_what_is_not_said() {
        let world = World::new();
        world.install(&world.answer(b"one")).unwrap();
        let mut renewed = world.answer(b"two");
        renewed.host = None;
        world.install(&renewed).unwrap();
        assert_eq!(world.read("allowed_signers"), "two");
        assert_eq!(world.read("host.toml"), "environments = []\n");

        let key = SecretKey::generate();
        let renewed = world.certify("web1", key.public(), b"three");
        let staged = Staged::new(world.path(), &renewed, Some(&key)).unwrap();
        let held = Staged::new(world.path(), &renewed, Some(&key)).unwrap_err();
        assert!(matches!(held, InstallError::Busy(_)), "{held}");
        staged.commit().unwrap();
        let identity = Identity::load(world.path()).unwrap();
        assert_eq!(identity.public_key(), key.public());
        assert_eq!(world.names().len(), 5);
    }

    #[test]
    fn whose_certificates_count_comes_with_an_identity_and_stays_where_none_comes() {
        let world = World::new();
        let first = world.answer(b"one").with_trust(b"kept").unwrap();
        world.install(&first).unwrap();
        assert_eq!(world.read(TRUST_FILE), "kept");
        world.install(&world.answer(b"two")).unwrap();
        assert_eq!(world.read(TRUST_FILE), "kept");
        let third = world.answer(b"three").with_trust(b"later").unwrap();
        world.install(&third).unwrap();
        assert_eq!(world.read(TRUST_FILE), "later");
        assert_eq!(world.names().len(), 6);
    }

    #[test]
    fn an_installation_that_is_cut_short_anywhere_leaves_the_old_identity_or_the_new_one() {
        let (old, new) = (SecretKey::generate(), SecretKey::generate());
        for moved in 0..=FILES.len() {
            let world = World::new();
            old.create_file(&world.path().join(KEY_FILE)).unwrap();
            let first = world.certify("web1", old.public(), b"old");
            world.install(&first).unwrap();
            let second = world.certify("web1", new.public(), b"new");
            // Written, and never made to hold.
            drop(Staged::new(world.path(), &second, Some(&new)).unwrap());
            let found = Identity::load(world.path()).unwrap();
            assert_eq!(found.public_key(), old.public());
            assert_eq!(world.read("allowed_signers"), "old");

            let staged = Staged::new(world.path(), &second, Some(&new)).unwrap();
            fs::rename(staged.path(), world.path().join(INCOMING)).unwrap();
            drop(staged);
            for name in &FILES[..moved] {
                // The host has no membership.
                let from = world.path().join(INCOMING).join(name);
                let _ = fs::rename(from, world.path().join(name));
            }
            let found = Identity::load(world.path()).unwrap();
            assert_eq!(found.public_key(), new.public(), "{moved} files moved");
            assert_eq!(world.read("allowed_signers"), "new");
            // And the next one goes on from there.
            let third = world.certify("web1", new.public(), b"third");
            world.install(&third).unwrap();
            assert_eq!(world.read("allowed_signers"), "third");
            assert_eq!(world.names().len(), 5);
        }
    }

    #[test]
    fn an_installation_that_is_over_keeps_nobody_out_though_a_child_has_its_descriptor() {
        let world = World::new();
        let key = SecretKey::generate();
        key.create_file(&world.path().join(KEY_FILE)).unwrap();
        let came = world.certify("web1", key.public(), b"one");
        let staged = Staged::new(world.path(), &came, None).unwrap();
        let forked = staged._lock.0.try_clone().unwrap();
        let busy = Staged::new(world.path(), &came, None);
        assert!(matches!(busy, Err(InstallError::Busy(_))), "{busy:?}");
        drop(staged);
        Staged::new(world.path(), &came, None).unwrap();
        drop(forked);
    }

    #[test]
    fn c8_a_directory_that_others_can_change_is_refused() {
        let world = World::new();
        let answer = world.answer(b"one");
        let open = fs::Permissions::from_mode(0o770);
        fs::set_permissions(world.path(), open).unwrap();
        for refused in [
            request(world.path()).map(|_| ()),
            world.install(&answer).map(|_| ()),
        ] {
            let error = refused.unwrap_err();
            assert!(
                matches!(
                    error,
                    InstallError::Place(PlaceError::Writable { mode: 0o770, .. })
                ),
                "{error}"
            );
        }
    }
}
