//! What the state branch has about one repo in one environment, as a folder of files.

use std::collections::BTreeMap;

use scap_proto::{
    id::{GitOid, NodeId},
    limits::PLAN_HOSTS_MAX,
    release::{
        Environment, RepoPath, SignedFinalization, SignedGrant, SignedRelease,
        signature::SshSignature,
    },
};

use super::{
    branch::BranchError,
    lock::Lock,
    record::{Document, Hosts, Record},
};
use crate::git::{Item, Objects, Repo};

pub(super) const RECORD: &str = "record.json";
const LOCK: &str = "lock.json";
const HOSTS: &str = "hosts.json";
const RELEASE: &str = "release";
const GRANT: &str = "grant";
/// The signed objects of what was stable for all, while `stable` is so for some hosts alone.
const OPEN: &str = "open";
const FINALIZATION: &str = "finalization";
/// Whose certificates count, as a state directory keeps it.
const FLEET_TRUST: &str = "fleet-trust";

/// Largest file that is read, in bytes: the outcome of ten thousand hosts is about 300 KiB, and a release with all its
/// deltas and signatures 40 KiB.
pub(super) const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
// The outcome of as many hosts as a plan has, of the longest names and with the most and longest reasons, can be read. A host takes
// a line with twelve bytes more than its name; a character of a reason takes six bytes at most; there are ten outcomes or fewer.
const _: () = assert!(
    (PLAN_HOSTS_MAX * (NodeId::BYTES_MAX + 12)
        + 10 * (Hosts::REASONS_MAX + 1) * (6 * Hosts::REASON_CHARS_MAX + 256)) as u64
        <= FILE_BYTES_MAX
);

/// Where it is: the repo and the environment.
pub type Place = (RepoPath, Environment);

/// A repo's name as that of a folder. Names of repos hold no `+`.
pub(super) fn folder_name(repo: &RepoPath) -> String {
    repo.as_str().replace('/', "+")
}

/// The repo of a folder's name.
pub(super) fn repo_of(name: &str) -> Option<RepoPath> {
    name.replace('+', "/").parse().ok()
}

/// Which signed objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Those of the latest rollout.
    Latest,
    /// Those of what the environment is on.
    Stable,
}

impl Which {
    /// The folder's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Latest => "latest",
            Self::Stable => "stable",
        }
    }
}

/// The signed objects of one release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedObjects {
    /// The release.
    pub release: SignedRelease,
    /// Who directs it.
    pub grant: SignedGrant,
    /// That it is the stable one, where it is.
    pub finalization: Option<SignedFinalization>,
}

/// A folder of the branch: what is in it, and what is to be in it.
#[derive(Debug, Clone, Default)]
pub struct Folder {
    /// What the environment is on; `None` where nothing was ever released.
    pub record: Option<Record>,
    /// Who deploys, if anybody does.
    pub lock: Option<Lock>,
    /// All else, by name: what this version does not know stays as it is.
    others: BTreeMap<Vec<u8>, Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Kept(Item),
    File(Vec<u8>),
    Folder(Vec<(String, Vec<u8>)>),
}

impl Folder {
    /// Reads the folder `tree`.
    ///
    /// # Errors
    /// [`BranchError::Git`], [`BranchError::Document`].
    pub fn read(objects: &mut Objects, tree: &GitOid) -> Result<Self, BranchError> {
        let mut folder = Self::default();
        for item in objects.folder(tree)? {
            match item.name.as_slice() {
                name if name == RECORD.as_bytes() => {
                    folder.record = Some(document(objects, &item.id, RECORD)?);
                }
                name if name == LOCK.as_bytes() => {
                    folder.lock = Some(document(objects, &item.id, LOCK)?);
                }
                _ => {
                    folder.others.insert(item.name.clone(), Part::Kept(item));
                }
            }
        }
        Ok(folder)
    }

    /// The outcome per host of the latest rollout.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn hosts(&self, objects: &mut Objects) -> Result<Hosts, BranchError> {
        match self.others.get(HOSTS.as_bytes()) {
            Some(Part::Kept(item)) => document(objects, &item.id, HOSTS),
            Some(Part::File(json)) => parse(json, HOSTS),
            _ => Ok(Hosts::default()),
        }
    }

    /// The signed objects that are there. Whether anybody signed them is another question.
    ///
    /// # Errors
    /// As [`Self::read`], and [`BranchError::Objects`] where a file is missing or none of its kind.
    pub fn signed(
        &self,
        objects: &mut Objects,
        which: Which,
    ) -> Result<Option<SignedObjects>, BranchError> {
        let Some(Part::Kept(item)) = self.others.get(which.as_str().as_bytes()) else {
            return Ok(None);
        };
        let mut files = BTreeMap::new();
        for item in objects.folder(&item.id)? {
            let content = objects.file(&item.id, FILE_BYTES_MAX)?;
            files.insert(String::from_utf8_lossy(&item.name).into_owned(), content);
        }
        let broken = || BranchError::Objects(which.as_str());
        let signature = |name: &str| {
            let text = String::from_utf8(files.get(name)?.clone()).ok()?;
            SshSignature::try_from(text).ok()
        };
        let file = |name: &str| files.get(name).cloned().map(bytes::Bytes::from);
        let signatures: Vec<_> = (1..)
            .map(|number| signature_name(RELEASE, number))
            .map_while(|name| files.contains_key(&name).then(|| signature(&name)))
            .collect::<Option<_>>()
            .ok_or_else(broken)?;
        let finalization = match (file(FINALIZATION), file("finalization.sig")) {
            (Some(payload), Some(signature)) => {
                Some(SignedFinalization::from_parts(payload, signature))
            }
            _ => None,
        };
        Ok(Some(SignedObjects {
            release: SignedRelease {
                payload: file(RELEASE).ok_or_else(broken)?,
                signatures,
            },
            grant: SignedGrant {
                payload: file(GRANT).ok_or_else(broken)?,
                signature: signature("grant.sig").ok_or_else(broken)?,
            },
            finalization,
        }))
    }

    /// Whose certificates counted when something was deployed last. Whether an authority signed it is for who believes it.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn fleet_trust(&self, objects: &mut Objects) -> Result<Option<Vec<u8>>, BranchError> {
        match self.others.get(FLEET_TRUST.as_bytes()) {
            Some(Part::Kept(item)) => Ok(Some(objects.file(&item.id, FILE_BYTES_MAX)?)),
            Some(Part::File(kept)) => Ok(Some(kept.clone())),
            _ => Ok(None),
        }
    }

    /// With whose certificates count.
    pub fn set_fleet_trust(&mut self, kept: Vec<u8>) {
        self.others.insert(FLEET_TRUST.into(), Part::File(kept));
    }

    /// With this outcome per host.
    pub fn set_hosts(&mut self, hosts: &Hosts) {
        let json = hosts.to_json();
        assert!(
            json.len() as u64 <= FILE_BYTES_MAX,
            "it is grouped, and of as many hosts as a plan may have"
        );
        let part = Part::File(json);
        self.others.insert(HOSTS.into(), part);
    }

    /// With these signed objects.
    pub fn set_signed(&mut self, which: Which, signed: &SignedObjects) {
        let SignedObjects {
            release,
            grant,
            finalization,
        } = signed;
        let mut files = vec![
            (RELEASE.to_owned(), release.payload.to_vec()),
            (GRANT.to_owned(), grant.payload.to_vec()),
            ("grant.sig".to_owned(), grant.signature.as_str().into()),
        ];
        for (number, signature) in (1..).zip(&release.signatures) {
            files.push((signature_name(RELEASE, number), signature.as_str().into()));
        }
        if let Some(finalization) = finalization {
            let (payload, signature) = finalization.parts();
            files.push((FINALIZATION.to_owned(), payload.to_vec()));
            files.push(("finalization.sig".to_owned(), signature.to_vec()));
        }
        let part = Part::Folder(files);
        self.others.insert(which.as_str().into(), part);
    }

    /// Keeps what is stable beside what comes in its place, for the hosts that the latter is not for.
    pub fn keep_open(&mut self) {
        if let Some(Part::Kept(item)) = self.others.get(Which::Stable.as_str().as_bytes()) {
            let name = OPEN.as_bytes().to_vec();
            let item = Item {
                name,
                ..item.clone()
            };
            self.others.insert(item.name.clone(), Part::Kept(item));
        }
    }

    /// What is stable is so for all.
    pub fn forget_open(&mut self) {
        self.others.remove(OPEN.as_bytes());
    }

    /// Writes it; returns what is to be in the folder above.
    ///
    /// # Errors
    /// [`crate::git::GitError`], as [`BranchError::Git`].
    pub(super) fn write(
        &self,
        repo: &Repo,
        writer: &mut crate::git::Writer,
    ) -> Result<GitOid, BranchError> {
        let documents = [
            (RECORD, self.record.as_ref().map(Document::to_json)),
            (LOCK, self.lock.as_ref().map(Document::to_json)),
        ];
        let documents: Vec<(&str, Vec<u8>)> = documents
            .into_iter()
            .filter_map(|(name, json)| Some((name, json?)))
            .collect();
        // All new files in one go, in the order in which they are used below.
        let mut contents: Vec<&[u8]> = documents.iter().map(|(_, json)| json.as_slice()).collect();
        for part in self.others.values() {
            match part {
                Part::Kept(_) => {}
                Part::File(content) => contents.push(content),
                Part::Folder(files) => contents.extend(files.iter().map(|(_, it)| it.as_slice())),
            }
        }
        let mut ids = repo.write_files(&contents)?.into_iter();
        let mut next = || ids.next().expect("there is an id a file");
        let mut items: Vec<Item> = documents
            .iter()
            .map(|(name, _)| Item::file(name, next()))
            .collect();
        for (name, part) in &self.others {
            let text = String::from_utf8_lossy(name);
            items.push(match part {
                Part::Kept(item) => item.clone(),
                Part::File(_) => Item::file(&text, next()),
                Part::Folder(files) => {
                    let files: Vec<Item> = files
                        .iter()
                        .map(|(name, _)| Item::file(name, next()))
                        .collect();
                    Item::folder(&text, writer.write(&files)?)
                }
            });
        }
        Ok(writer.write(&items)?)
    }
}

/// `release.sig`, `release.2.sig`, …
fn signature_name(of: &str, number: usize) -> String {
    match number {
        1 => format!("{of}.sig"),
        _ => format!("{of}.{number}.sig"),
    }
}

fn document<T: Document>(
    objects: &mut Objects,
    id: &GitOid,
    file: &'static str,
) -> Result<T, BranchError> {
    parse(&objects.file(id, FILE_BYTES_MAX)?, file)
}

pub(super) fn parse<T: Document>(json: &[u8], file: &'static str) -> Result<T, BranchError> {
    T::from_json(json).map_err(|source| BranchError::Document { file, source })
}
