//! What a grant carries beside itself: the chain of signers files, and from which deployment host it is.

use bytes::Bytes;
use scap_proto::{
    codec,
    extensions::Extensions,
    id::ReleaseId,
    identity::{CertificateAuthority, Identity, Role, SecretKey, Trust, Validity},
    limits::SIGNERS_LINKS_MAX,
    release::{
        AuthorityError, Grant, Origin, Release, SignedGrant, SignedSigners, SignersFile,
        UnixMillis, release::COMMIT_OBJECT_BYTES_MAX, signature::Signer, signed::SignedObject,
    },
};

use super::{EXPIRES, NOW, check_payload};

const SIGNERS_FILE: &str = "
    736361702d7369676e6572732f310a          # scap-signers/1\\n
    03                                      # the third since the first
    4444444444444444444444444444444444444444444444444444444444444444
    03 230a0a                               # a comment and an empty line
    fd 087be07c9b010000                     # an hour later
    00                                      # no extensions
";

const ORIGIN: &str = "
    736361702d6f726967696e2f310a            # scap-origin/1\\n
    5555555555555555555555555555555555555555555555555555555555555555
    6666666666666666666666666666666666666666666666666666666666666666
    07                                      # the seventh grant
    00                                      # no extensions
";

fn grant() -> Grant {
    Grant {
        release: ReleaseId::from_bytes([0x55; 32]),
        session_key: [0x66; 32],
        epoch: 7,
        expires: EXPIRES,
        extensions: Extensions::default(),
    }
}

fn signers_file(number: u64) -> SignersFile {
    SignersFile {
        number,
        previous: [0x44; 32],
        text: "#\n\n".into(),
        expires: EXPIRES,
        extensions: Extensions::default(),
    }
}

#[test]
fn signers_files_and_origins_have_golden_bytes_and_grow_by_extensions() {
    check_payload(&signers_file(3), SIGNERS_FILE);
    check_payload(&Origin::of(&grant()), ORIGIN);
}

/// The grant as it travels, by whomever.
fn sent(grant: &Grant) -> SignedGrant {
    let directory = tempfile::tempdir().unwrap();
    let signer = Signer::create(&directory.path().join("key"), "").unwrap();
    let signed = SignedGrant::sign(grant, "scap-release:production:web", &signer).unwrap();
    codec::decode(&codec::encode(&signed)).unwrap()
}

#[test]
fn a_grant_carries_the_last_links_of_a_chain_in_their_order() {
    let chain: Vec<_> = (1..=10)
        .map(|number| SignedSigners::unsigned(&signers_file(number)))
        .collect();
    let grant = grant().needing_stages();
    for count in [0, 1, SIGNERS_LINKS_MAX, 10] {
        let with = grant.clone().with_signers(&chain[..count]).unwrap();
        let carried = sent(&with).signers().unwrap();
        assert_eq!(
            carried,
            chain[count.saturating_sub(SIGNERS_LINKS_MAX)..count]
        );
    }
    // The tag of the first is 16: who does not know it passes it over.
    let with = grant.clone().with_signers(&chain[..1]).unwrap();
    let bytes = with.extensions.get(16).unwrap();
    assert_eq!(codec::decode::<SignedSigners>(bytes).unwrap(), chain[0]);
    let damaged = grant.extensions.clone();
    let damaged = damaged.with(16, Bytes::from_static(b"\xff")).unwrap();
    let extensions = damaged;
    assert!(
        sent(&Grant {
            extensions,
            ..grant
        })
        .signers()
        .is_err()
    );
}

struct Fleet {
    directory: tempfile::TempDir,
    authority: CertificateAuthority,
}

impl Fleet {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            authority: CertificateAuthority::create(&"prod".parse().unwrap(), NOW.0).unwrap(),
        }
    }

    fn node(&self, role: Role, name: &str) -> Identity {
        let node = self.authority.node(role, name.parse().unwrap());
        let path = self.directory.path().join(name);
        Identity::create(&path, &self.authority, &node, Validity::leaf(NOW.0)).unwrap()
    }
}

#[test]
fn t7_an_origin_is_the_word_of_a_coordinator_about_this_very_grant() {
    let fleet = Fleet::new();
    let (deploy1, web1) = (
        fleet.node(Role::Coordinator, "deploy1"),
        fleet.node(Role::Agent, "web1"),
    );
    let stranger = Fleet::new();
    let strange = stranger.node(Role::Coordinator, "deploy1");
    let trust: &Trust = web1.trust();
    let refused = |grant: &Grant| matches!(grant.origin(trust, NOW), Err(AuthorityError::Origin));

    let ours = grant().from_origin(&deploy1);
    assert_eq!(ours.origin(trust, NOW).unwrap().as_str(), "deploy1");
    assert!(refused(&grant()), "it says nothing");
    assert!(refused(&grant().from_origin(&web1)), "an agent");
    assert!(refused(&grant().from_origin(&strange)), "of another fleet");
    let late = UnixMillis(deploy1.validity().not_after_unix_ms + 1);
    assert!(matches!(
        ours.origin(trust, late),
        Err(AuthorityError::Origin)
    ));

    // What it said of one grant says nothing of another.
    let other_key = *SecretKey::generate().public();
    for change in [
        |grant: &mut Grant, _: [u8; 32]| grant.epoch += 1,
        |grant: &mut Grant, _: [u8; 32]| grant.release = ReleaseId::from_bytes([1; 32]),
        |grant: &mut Grant, key: [u8; 32]| grant.session_key = key,
    ] {
        let mut moved = ours.clone();
        change(&mut moved, other_key);
        assert!(refused(&moved), "{moved:?}");
    }
    let payload = ours.to_payload();
    assert_eq!(Grant::from_payload(&payload).unwrap(), ours);
}

#[test]
fn a_commits_object_comes_along_in_parts_and_whole_or_not_at_all() {
    let release = super::release();
    assert_eq!(release.commit_object(), None);
    for length in [1, 4096, 4097, COMMIT_OBJECT_BYTES_MAX] {
        let object: Vec<u8> = (0..=250).cycle().take(length).collect();
        let with = release.clone().with_commit_object(&object);
        let payload = with.to_payload();
        let read = Release::from_payload(&payload).unwrap();
        assert_eq!(read.commit_object(), Some(object));
    }
    let long = vec![0; COMMIT_OBJECT_BYTES_MAX + 1];
    assert_eq!(release.clone().with_commit_object(&long), release);
    // The first part has number 4: who does not know it passes it over.
    let with = release.with_commit_object(b"tree");
    assert_eq!(with.extensions.get(4).unwrap().as_ref(), b"tree");
}
