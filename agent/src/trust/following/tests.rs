//! What is kept of signers files over restarts, and that its loss is noticed.

use std::fs;

use scap_proto::{
    extensions::Extensions,
    release::{
        SignersFile,
        signature::{Signer, allowed_signers_line},
    },
};
use tempfile::TempDir;

use super::*;

/// 2026-01-02 03:04:05 UTC.
const NOW: UnixMillis = UnixMillis(1_767_323_045_000);

/// One key that brings file after file, each with a comment of its own.
struct Host {
    directory: TempDir,
    _key: Signer,
    files: Vec<SignersInForce>,
    chain: Vec<SignedSigners>,
}

impl Host {
    fn new(links: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = Signer::create(&directory.path().join("key"), "").unwrap();
        let line = allowed_signers_line("k", "scap-signers:prod", key.public_key());
        let text = |number: u64| format!("# {number}\n{line}\n");
        let mut files = vec![SignersInForce::new(0, text(0)).unwrap()];
        let mut chain = Vec::new();
        for number in 1..=links {
            let mut link = SignedSigners::unsigned(&SignersFile {
                number,
                previous: files.last().unwrap().hash(),
                text: text(number),
                expires: NOW,
                extensions: Extensions::default(),
            });
            link.sign(&fleet(), &key).unwrap();
            chain.push(link);
            files.push(SignersInForce::new(number, text(number)).unwrap());
        }
        Self {
            directory,
            _key: key,
            files,
            chain,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// As the process starts that keeps its record in `own`, enrolled with the file of that number.
    fn start_enrolled(
        &self,
        number: usize,
        own: &str,
        other: &str,
    ) -> Result<Following, FollowError> {
        let enrolled = self.files[number].clone();
        let mut following = Following::new(enrolled, fleet(), NonZeroUsize::MIN);
        // Long after the dates of all files.
        let now = UnixMillis(2 * NOW.0);
        following.keep_in(&self.path(own), &self.path(other), now)?;
        Ok(following)
    }

    fn start(&self, own: &str, other: &str) -> Result<Following, FollowError> {
        self.start_enrolled(0, own, other)
    }
}

fn fleet() -> FleetName {
    "prod".parse().unwrap()
}

fn number(following: &Following) -> u64 {
    following.now().signers.number()
}

#[test]
fn b9_what_was_taken_is_in_force_after_a_restart_and_goes_on_from_there() {
    let host = Host::new(3);
    let daemon = host.start("a", "b").unwrap();
    assert_eq!(number(&daemon), 0);
    daemon.take(&host.chain[..2], NOW, None).unwrap();
    let again = host.start("a", "b").unwrap();
    assert_eq!(number(&again), 2);
    assert_eq!(again.now().signers.hash(), host.files[2].hash());
    let end = again.take(&host.chain[2..], NOW, None).unwrap();
    assert_eq!(end.signers.number(), 3);
    assert_eq!(number(&host.start("a", "b").unwrap()), 3);
}

#[test]
fn the_loss_of_one_record_is_made_good_by_the_other_and_a_damaged_one_is_not_passed_over() {
    let host = Host::new(2);
    for name in ["a", "b"] {
        let process = host.start(name, "none").unwrap();
        process.take(&host.chain, NOW, None).unwrap();
    }
    fs::remove_file(host.path("a")).unwrap();
    assert_eq!(number(&host.start("a", "b").unwrap()), 2);
    assert_eq!(
        number(&host.start("a", "none").unwrap()),
        2,
        "written again"
    );

    let whole = fs::read(host.path("a")).unwrap();
    for at in [0, MAGIC.len(), whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(host.path("a"), &damaged).unwrap();
        let alone = host.start("a", "none");
        assert!(matches!(alone, Err(FollowError::Damaged(_))), "{at}");
        assert_eq!(number(&host.start("a", "b").unwrap()), 2, "{at}");
        assert_eq!(fs::read(host.path("a")).unwrap(), whole);
    }
}

#[test]
fn the_other_process_is_believed_no_more_than_a_peer() {
    let host = Host::new(1);
    let forged = Record {
        enrolled: (0, host.files[0].hash()),
        links: vec![SignedSigners {
            signatures: Vec::new(),
            ..host.chain[0].clone()
        }],
    };
    let body = codec::encode(&forged);
    let bytes = [MAGIC, blake3::hash(&body).as_bytes(), &body].concat();
    fs::write(host.path("b"), &bytes).unwrap();
    assert_eq!(number(&host.start("a", "b").unwrap()), 0);
    // Its damage does not keep us from starting.
    fs::write(host.path("b"), b"nothing").unwrap();
    assert_eq!(number(&host.start("a", "b").unwrap()), 0);
}

#[test]
fn an_identity_older_than_what_was_followed_is_refused_and_a_later_one_begins_anew() {
    let host = Host::new(3);
    let daemon = host.start_enrolled(1, "a", "b").unwrap();
    daemon.take(&host.chain[1..2], NOW, None).unwrap();
    assert!(matches!(
        host.start("a", "b"),
        Err(FollowError::Behind {
            enrolled: 0,
            followed: 2,
            ..
        })
    ));
    assert_eq!(number(&host.start_enrolled(3, "a", "b").unwrap()), 3);
}

#[test]
fn nothing_is_taken_that_cannot_be_written() {
    let host = Host::new(1);
    let mut following = Following::new(host.files[0].clone(), fleet(), NonZeroUsize::MIN);
    let nowhere = host.path("none/a");
    following.keep_in(&nowhere, &host.path("b"), NOW).unwrap();
    let after = following.take(&host.chain, NOW, None).unwrap();
    assert_eq!(after.signers.number(), 0);
}
