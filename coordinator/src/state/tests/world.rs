//! Clones, an upstream, and ledgers on them.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use jiff::Timestamp;
use scap_proto::{
    content::SnapshotRef,
    id::{NodeId, ReleaseId, SnapshotId},
    identity::SecretKey,
    release::{
        Finalization, Grant, Reach, Release, SignedFinalization, SignedGrant, SignedRelease,
        UnixMillis, VerifiedRelease, signature::Signer,
    },
};

use crate::{
    git::{BranchName, Repo, tests::TestRepo},
    state::{
        Base, Branch, BranchError, End, Failpoint, History, Hosts, KnownTip, Ledger, Outcome,
        Place, Present, Rollout, SignedObjects,
    },
};

/// A second of the tests' time.
pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

pub(super) fn place(environment: &str) -> Place {
    ("mw/config".parse().unwrap(), environment.parse().unwrap())
}

pub(super) fn name() -> BranchName {
    "scap/state".parse().unwrap()
}

/// A repository with a commit, in which things are as a user leaves them.
pub(super) fn repo(init: &[&str]) -> TestRepo {
    let test = TestRepo::new(init);
    test.write("a", b"1");
    test.commit("First");
    test
}

/// The upstream of two clones.
pub(super) struct Shared {
    pub(super) upstream: TestRepo,
    pub(super) clones: [TestRepo; 2],
}

impl Shared {
    pub(super) fn new() -> Self {
        let upstream = TestRepo::new(&["--bare"]);
        let clones = [(); 2].map(|()| {
            let clone = repo(&[]);
            clone.git(&["remote", "add", "origin", upstream.path().to_str().unwrap()]);
            clone
        });
        Self { upstream, clones }
    }

    /// The branch in one of the clones.
    pub(super) fn branch(&self, clone: usize) -> Branch {
        branch_of(&self.clones[clone].open(), true)
    }

    /// The branch in one of the clones, which does not ask the upstream.
    pub(super) fn offline(&self, clone: usize) -> Branch {
        let repo = self.clones[clone].open();
        let remote = repo.remote("origin", Duration::from_secs(20)).unwrap();
        Branch::new(
            repo,
            name(),
            Base::Offline(remote),
            None,
            Failpoint::default(),
        )
    }

    pub(super) fn tip(&self) -> String {
        self.upstream.git(&["rev-parse", "refs/heads/scap/state"])
    }

    /// Makes the upstream unreachable, or reachable again.
    pub(super) fn cut(&self, clone: usize, is_cut: bool) {
        let url = match is_cut {
            true => "/nowhere/at/all",
            false => self.upstream.path().to_str().unwrap(),
        };
        self.clones[clone].git(&["remote", "set-url", "origin", url]);
    }
}

/// The branch of a repository, with `origin` as its upstream or without any.
pub(super) fn branch_of(repo: &Repo, has_upstream: bool) -> Branch {
    let base = match has_upstream {
        true => Base::Upstream(repo.remote("origin", Duration::from_secs(20)).unwrap()),
        false => Base::Here,
    };
    // Beside what is compared, and gone with it.
    let file = repo.git_dir().join("objects/known-tip");
    let known = KnownTip::new(file, "one".into());
    Branch::new(
        repo.clone(),
        name(),
        base,
        Some(known),
        Failpoint::default(),
    )
}

pub(super) fn ledger(branch: &Branch, environment: &str, second: i64) -> Ledger {
    Ledger::new(branch.clone(), place(environment), at(second))
}

/// Signs for a test.
pub(super) struct Signing {
    signer: Signer,
    session: SecretKey,
    pub(super) folder: tempfile::TempDir,
}

impl Signing {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            signer: Signer::create(&folder.path().join("key"), "test").unwrap(),
            session: SecretKey::generate(),
            folder,
        }
    }

    /// A release, and what is recorded of it.
    pub(super) fn release(
        &self,
        ledger: &Ledger,
        place: &Place,
        sequence: u64,
    ) -> (Rollout, SignedObjects) {
        let snapshot = SnapshotRef {
            id: SnapshotId::of(&sequence.to_be_bytes()),
            descriptor_length: 100,
        };
        let release = Release {
            repo: place.0.clone(),
            environment: place.1.clone(),
            audience: Default::default(),
            sequence,
            snapshot,
            commit: None,
            config: None,
            deltas: Vec::new(),
            previous: None,
            created: UnixMillis(0),
            expires: UnixMillis(u64::MAX),
            extensions: Default::default(),
        };
        let signed = SignedRelease::sign(&release, &self.signer).unwrap();
        let grant = Grant {
            release: signed.id(),
            session_key: *self.session.public(),
            epoch: 1,
            expires: UnixMillis(u64::MAX),
            extensions: Default::default(),
        };
        let grant = SignedGrant::sign(&grant, &release.namespace(), &self.signer).unwrap();
        let rollout = Rollout {
            release: signed.id(),
            sequence,
            snapshot: snapshot.id,
            descriptor_length: snapshot.descriptor_length,
            commit: None,
            subject: None,
            rollout: ledger.holder().rollout.clone(),
            by: ledger.holder().name.clone(),
            started: at(0),
            ended: None,
            outcome: Outcome::Running,
            waves: Vec::new(),
            is_offline: ledger.is_offline(),
            is_limited: false,
            rolls_back_to: None,
            code: None,
            going_back: None,
            flags: Default::default(),
        };
        let objects = SignedObjects {
            release: signed,
            grant,
            finalization: None,
        };
        (rollout, objects)
    }

    /// With the finalization, for some hosts or all, of a release that is verified elsewhere.
    fn finalized_for(
        &self,
        release: &VerifiedRelease,
        signed: SignedObjects,
        reach: &Reach,
    ) -> SignedObjects {
        let finalization = Finalization::of(release).reaching(reach);
        SignedObjects {
            finalization: Some(SignedFinalization::sign(&finalization, &self.session)),
            ..signed
        }
    }

    /// Deploys from lock to end, and gives the release's id.
    pub(super) fn deploy(
        &self,
        branch: &Branch,
        environment: &str,
        sequence: u64,
    ) -> Result<ReleaseId, BranchError> {
        self.deploy_to(branch, environment, sequence, &Reach::All)
    }

    /// The same to some hosts.
    pub(super) fn deploy_to(
        &self,
        branch: &Branch,
        environment: &str,
        sequence: u64,
        reach: &Reach,
    ) -> Result<ReleaseId, BranchError> {
        let ledger = ledger(branch, environment, 0);
        let place = place(environment);
        ledger.lock("a test", at(0))?;
        let (rollout, signed) = self.release(&ledger, &place, sequence);
        ledger.begin(&rollout, &signed, at(1))?;
        ledger.end_wave("canary", &hosts("promoted"), at(2))?;
        let signers = self.allowed_signers();
        let authority = scap_proto::release::Authority {
            signers: &signers,
            threshold: std::num::NonZeroUsize::MIN,
        };
        let verified = signed
            .release
            .clone()
            .verify(&authority, UnixMillis(1))
            .unwrap();
        let end = End {
            outcome: Outcome::Done,
            code: None,
            hosts: hosts("promoted"),
            signed: self.finalized_for(&verified, signed, reach),
        };
        ledger.end(&end, at(3))?;
        Ok(rollout.release)
    }

    pub(super) fn allowed_signers(&self) -> scap_proto::release::signature::AllowedSigners {
        let path = self.folder.path().join("allowed_signers");
        let line = scap_proto::release::signature::allowed_signers_line(
            "deployer",
            "scap-release:*",
            self.signer.public_key(),
        );
        fs::write(&path, format!("{line}\n")).unwrap();
        scap_proto::release::signature::AllowedSigners::load(&path).unwrap()
    }
}

pub(super) fn hosts(outcome: &str) -> Hosts {
    let names: Vec<NodeId> = ["web1", "web2"].map(|name| name.parse().unwrap()).into();
    Hosts::group(names.iter().map(|name| (name, outcome, None)))
}

pub(super) fn history(repo: &Repo) -> History {
    History::open(repo, &name(), None).unwrap().unwrap()
}

/// What a repository's branch has now, all of which can be read.
pub(super) fn present(repo: &Repo) -> Vec<Present> {
    let all = history(repo).present().unwrap();
    all.into_iter().map(|(_, it)| it.unwrap()).collect()
}

/// All files of a folder with their content, but for what is the state branch's own: its ref, that ref's log, and objects.
pub(super) fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut below = vec![folder.to_owned()];
    while let Some(folder) = below.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let text = path.to_str().unwrap().to_owned();
            let is_ours = ["/objects/", "refs/heads/scap", "logs/refs/heads/scap"]
                .iter()
                .any(|part| format!("{text}/").contains(part));
            if is_ours {
                continue;
            }
            match path.symlink_metadata().unwrap() {
                it if it.is_dir() => {
                    found.insert(format!("{text}/"), Vec::new());
                    below.push(path);
                }
                it if it.is_symlink() => {}
                _ => {
                    found.insert(text, fs::read(&path).unwrap());
                }
            }
        }
    }
    found
}
