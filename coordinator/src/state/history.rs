//! Reading the state branch: what each environment is on, and everything that was ever released.

use std::collections::BTreeSet;

use scap_proto::{id::GitOid, release::Environment};

use super::{
    branch::{BranchError, open_root},
    folder::{
        FILE_BYTES_MAX, Folder, Place, RECORD, SignedObjects, Which, folder_name, parse, repo_of,
    },
    record::{BrokenLock, Hosts, Record, Rollout},
};
use crate::git::{BranchName, Objects, Repo};

/// A tip of a state branch, to be read.
#[derive(Debug)]
pub struct History {
    repo: Repo,
    name: BranchName,
    tip: GitOid,
}

/// What the branch has about one repo in one environment now.
#[derive(Debug)]
pub struct Present {
    /// Which repo and environment.
    pub place: Place,
    /// All of it.
    pub folder: Folder,
    /// The outcome per host of the latest rollout.
    pub hosts: Hosts,
}

/// A place, and what the branch has about it now, or why that cannot be read.
pub type PresentAt = (Place, Result<Present, BranchError>);

/// One release that was recorded, as it was last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Of which repo and environment.
    pub place: Place,
    /// How it went.
    pub rollout: Rollout,
    /// Whether it was finalized.
    pub is_finalized: bool,
    /// The latest commit of the branch that tells so.
    pub state_commit: GitOid,
}

/// All that was recorded of one repo in one environment, the latest first.
#[derive(Debug, Default)]
pub struct Past {
    /// Releases.
    pub releases: Vec<Recorded>,
    /// Locks that were broken.
    pub broken_locks: Vec<BrokenLock>,
    /// The commits with a record that cannot be read, and why: what these alone tell of is not in here.
    pub unreadable: Vec<(GitOid, BranchError)>,
}

/// Why a name is not that of one release.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// None has it.
    #[error("no release `{0}` is recorded")]
    Unknown(String),
    /// Several have it.
    #[error("`{name}` may be {}", .candidates.join(", "))]
    Ambiguous {
        /// As it was given, escaped.
        name: String,
        /// Which.
        candidates: Vec<String>,
    },
}

impl History {
    /// The branch `name` of a repository, where it is there: as it was written here, or as it was last fetched from
    /// `remote`, whichever is later.
    ///
    /// # Errors
    /// [`BranchError::Git`].
    pub fn open(
        repo: &Repo,
        name: &BranchName,
        remote: Option<&str>,
    ) -> Result<Option<Self>, BranchError> {
        let here = repo.tip(name)?;
        let fetched = match remote {
            Some(remote) => repo.tracked_tip(remote, name)?,
            None => None,
        };
        let tip = match (here, fetched) {
            (Some(here), Some(fetched)) if repo.is_ancestor(&here, &fetched)? => Some(fetched),
            (Some(here), _) => Some(here),
            (None, fetched) => fetched,
        };
        Ok(tip.map(|tip| Self::at(repo, name, tip)))
    }

    /// The branch as it was at `tip`.
    pub fn at(repo: &Repo, name: &BranchName, tip: GitOid) -> Self {
        Self {
            repo: repo.clone(),
            name: name.clone(),
            tip,
        }
    }

    /// The tip.
    pub fn tip(&self) -> &GitOid {
        &self.tip
    }

    /// Everything that the branch has now, by environment and repo; of a place that cannot be read, why.
    ///
    /// # Errors
    /// [`BranchError`], where none of it can be read.
    pub fn present(&self) -> Result<Vec<PresentAt>, BranchError> {
        let mut objects = self.repo.objects()?;
        let mut found = Vec::new();
        for (place, tree) in self.folders(&mut objects, &self.tip)? {
            let present = match present_of(&mut objects, &place, &tree) {
                // Git ends with it: what comes after would fail for its sake.
                Err(BranchError::Git(error)) => return Err(error.into()),
                present => present,
            };
            found.push((place, present));
        }
        Ok(found)
    }

    /// The repos and environments that it is about.
    ///
    /// # Errors
    /// [`BranchError`].
    pub fn places(&self) -> Result<Vec<Place>, BranchError> {
        let mut objects = self.repo.objects()?;
        let folders = self.folders(&mut objects, &self.tip)?;
        Ok(folders.into_iter().map(|(place, _)| place).collect())
    }

    /// What the branch had about one place at one of its commits, and what was signed of it then. Whether anybody signed it
    /// is another question.
    ///
    /// # Errors
    /// [`BranchError`].
    pub fn signed_at(
        &self,
        commit: &GitOid,
        place: &Place,
        which: Which,
    ) -> Result<Option<(Present, Option<SignedObjects>)>, BranchError> {
        let mut objects = self.repo.objects()?;
        let folders = self.folders(&mut objects, commit)?;
        let Some((_, tree)) = folders.into_iter().find(|(it, _)| it == place) else {
            return Ok(None);
        };
        let present = present_of(&mut objects, place, &tree)?;
        let signed = present.folder.signed(&mut objects, which)?;
        Ok(Some((present, signed)))
    }

    fn folders(
        &self,
        objects: &mut Objects,
        commit: &GitOid,
    ) -> Result<Vec<(Place, GitOid)>, BranchError> {
        let mut found = Vec::new();
        let root = open_root(objects, &self.name, commit)?;
        for item in root.into_iter().filter(|item| item.mode.is_none()) {
            let name = String::from_utf8_lossy(&item.name);
            let Ok(environment) = name.parse::<Environment>() else {
                continue;
            };
            for item in objects.folder(&item.id)? {
                let name = String::from_utf8_lossy(&item.name);
                if let (Some(repo), None) = (repo_of(&name), item.mode) {
                    found.push(((repo, environment.clone()), item.id));
                }
            }
        }
        Ok(found)
    }

    /// All that was recorded of one repo in one environment. A record that cannot be read is named and passed over: it is there
    /// for good.
    ///
    /// # Errors
    /// [`BranchError`].
    pub fn past(&self, place: &Place) -> Result<Past, BranchError> {
        let (repo, environment) = place;
        let path = format!("{environment}/{}/{RECORD}", folder_name(repo));
        let mut objects = self.repo.objects()?;
        let mut past = Past::default();
        let mut known = BTreeSet::new();
        let written = self.repo.writings(&self.tip, &path)?.into_iter();
        let (commits, files): (Vec<GitOid>, Vec<GitOid>) = written
            .filter_map(|written| Some((written.commit, written.file?)))
            .unzip();
        objects.files(&files, FILE_BYTES_MAX, |index, json| {
            let record = match parse::<Record>(json, RECORD) {
                Ok(record) => record,
                Err(error) => {
                    past.unreadable.push((commits[index].clone(), error));
                    return Ok(());
                }
            };
            if let Some(broken) = record.broken_lock
                && past.broken_locks.last() != Some(&broken)
            {
                past.broken_locks.push(broken);
            }
            let Some(rollout) = record.latest else {
                return Ok(());
            };
            let stable = record.stable.map(|stable| stable.release);
            // Those before say less of the same.
            if known.insert((rollout.sequence, rollout.release)) {
                past.releases.push(Recorded {
                    place: place.clone(),
                    is_finalized: stable == Some(rollout.release),
                    rollout,
                    state_commit: commits[index].clone(),
                });
            }
            Ok::<(), BranchError>(())
        })?;
        Ok(past)
    }
}

/// What is in a place's folder.
fn present_of(objects: &mut Objects, place: &Place, tree: &GitOid) -> Result<Present, BranchError> {
    let folder = Folder::read(objects, tree)?;
    let hosts = folder.hosts(objects)?;
    Ok(Present {
        place: place.clone(),
        folder,
        hosts,
    })
}

/// The one release that `name` names: `#12` or `12` by its sequence, else by how its id begins, with four digits at least.
///
/// # Errors
/// [`FindError`].
pub fn find<'a>(releases: &'a [Recorded], name: &str) -> Result<&'a Recorded, FindError> {
    const PREFIX_MIN: usize = 4;
    let sequence = name.strip_prefix('#').unwrap_or(name).parse::<u64>().ok();
    let by_sequence = |it: &&Recorded| Some(it.rollout.sequence) == sequence;
    let by_id = |it: &&Recorded| {
        name.len() >= PREFIX_MIN && it.rollout.release.to_string().starts_with(name)
    };
    let mut found: Vec<&Recorded> = releases.iter().filter(by_sequence).collect();
    if found.is_empty() {
        found = releases.iter().filter(by_id).collect();
    }
    let escaped = || name.escape_debug().take(80).collect();
    match found[..] {
        [] => Err(FindError::Unknown(escaped())),
        [one] => Ok(one),
        _ => Err(FindError::Ambiguous {
            name: escaped(),
            candidates: found.iter().take(8).map(|it| it.describe()).collect(),
        }),
    }
}

impl Recorded {
    /// Which it is, for people.
    pub fn describe(&self) -> String {
        let (repo, environment) = &self.place;
        let Rollout {
            release, sequence, ..
        } = &self.rollout;
        format!("#{sequence} {} ({environment} {repo})", release.short())
    }
}

/// To which release one goes back from the latest: the last that was finalized before it, of another tree. A rollout that went back
/// and did not get there goes on; one that went forward and was not finalized is left for the last that was. Where hosts were not
/// chosen, it is to none that was the stable one of some chosen hosts alone.
pub fn before_latest(releases: &[Recorded], is_for_chosen: bool) -> Option<&Recorded> {
    let (latest, earlier) = releases.split_first()?;
    let was_for_these = |it: &&Recorded| is_for_chosen || !it.rollout.is_limited;
    let finalized = earlier.iter().filter(|it| it.is_finalized);
    let mut finalized = finalized.filter(was_for_these);
    if latest.is_finalized {
        return finalized.find(|it| it.rollout.snapshot != latest.rollout.snapshot);
    }
    match latest.rollout.rolls_back_to {
        Some(sequence) => finalized.find(|it| it.rollout.sequence == sequence),
        None => finalized.next(),
    }
}
