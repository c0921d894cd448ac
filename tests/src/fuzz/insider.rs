//! Somebody of the fleet who may sign all there is and signs whatever it is given: so that fuzzing reaches what is
//! checked after a signature.

use std::{num::NonZeroUsize, sync::LazyLock};

use bytes::Bytes;
use scap_proto::{
    codec,
    content::SnapshotRef,
    extensions::Extensions,
    id::SnapshotId,
    identity::{Certificate, CertificateAuthority, Identity, Role, SecretKey, Validity},
    release::{
        Authority, Grant, LeafSigned, Release, SignedGrant, SignedRelease, UnixMillis,
        VerifiedGrant, VerifiedRelease,
        signature::{AllowedSigners, Signer, allowed_signers_line},
        signed::SessionSigned,
    },
};

/// What every clock says: 2026-01-02 03:04:05 UTC.
pub const NOW: UnixMillis = UnixMillis(1_767_323_045_000);

/// Keys of a fleet that is there while a process runs.
pub struct Insider {
    /// An agent, `web1`.
    pub agent: Identity,
    /// The coordinator.
    pub coordinator: Identity,
    /// A deployer, who may release anything.
    pub signer: Signer,
    /// The file that says so.
    pub signers: AllowedSigners,
    /// Its text.
    pub signers_text: String,
    /// The certificate of who issues the others.
    pub issuer: Certificate,
    /// The key that [`Self::grant`] names.
    pub session: SecretKey,
    /// Always the same release, so that inputs can name it.
    pub release: VerifiedRelease,
    /// Its grant, of epoch 1.
    pub grant: VerifiedGrant,
}

/// The insider of this process.
pub static INSIDER: LazyLock<Insider> = LazyLock::new(Insider::create);

impl Insider {
    fn create() -> Self {
        let made = "the harness makes keys in a directory of its own";
        let directory = tempfile::tempdir().expect(made);
        let at = |name: &str| directory.path().join(name);
        let fleet = "fuzzed".parse().expect("a plain name");
        let authority = CertificateAuthority::create(&fleet, NOW.0).expect(made);
        let identity = |role, name: &str| {
            let node = authority.node(role, name.parse().expect("a plain name"));
            Identity::create(&at(name), &authority, &node, Validity::leaf(NOW.0)).expect(made)
        };
        let (agent, coordinator) = (
            identity(Role::Agent, "web1"),
            identity(Role::Coordinator, "deploy1"),
        );
        let signer = Signer::create(&at("deployer"), "deployer").expect(made);
        let line = allowed_signers_line("deployer", "scap-release:*", signer.public_key());
        let signers: AllowedSigners = line.parse().expect("a line of ours");
        let session = SecretKey::generate();
        let trusted = Authority {
            signers: &signers,
            threshold: NonZeroUsize::MIN,
        };
        let about = release();
        let release = SignedRelease::sign(&about, &signer)
            .expect(made)
            .verify(&trusted, NOW)
            .expect("the deployer may release anything");
        let grant = Grant {
            release: release.id(),
            session_key: *session.public(),
            epoch: 1,
            expires: about.expires,
            extensions: Extensions::default(),
        };
        let grant = SignedGrant::sign(&grant, &about.namespace(), &signer)
            .expect(made)
            .verify(&release, &trusted, NOW)
            .expect("a signer of the release grants");
        Self {
            issuer: authority.certificate().clone(),
            signers_text: line,
            agent,
            coordinator,
            signer,
            signers,
            session,
            release,
            grant,
        }
    }

    /// Whom a host believes about releases.
    pub fn authority(&self) -> Authority<'_> {
        Authority {
            signers: &self.signers,
            threshold: NonZeroUsize::MIN,
        }
    }

    /// A payload signed by a node.
    pub fn by_leaf(identity: &Identity, payload: &[u8]) -> LeafSigned {
        LeafSigned {
            payload: Bytes::copy_from_slice(payload),
            certificate: identity.certificate(),
            signature: Bytes::copy_from_slice(&identity.sign(payload)),
        }
    }

    /// A payload signed with the session key, as the kind of object that it is.
    ///
    /// # Panics
    /// Where `T` is not one that a session key signs.
    pub fn by_session<T: serde::de::DeserializeOwned>(&self, payload: &[u8]) -> T {
        let signed = SessionSigned {
            payload: Bytes::copy_from_slice(payload),
            signature: Bytes::copy_from_slice(&self.session.sign(payload)),
        };
        codec::decode(&codec::encode(&signed)).expect("a payload and its signature")
    }
}

/// The release that [`Insider::release`] is.
pub fn release() -> Release {
    Release {
        repo: "mw/config".parse().expect("a plain name"),
        environment: "production".parse().expect("a plain name"),
        audience: "all".parse().expect("a plain name"),
        sequence: 7,
        snapshot: SnapshotRef {
            id: SnapshotId::from_bytes([0x11; 32]),
            descriptor_length: 300,
        },
        commit: None,
        config: None,
        deltas: Vec::new(),
        previous: None,
        created: NOW,
        expires: UnixMillis(NOW.0 + 3_600_000),
        extensions: Extensions::default(),
    }
}
