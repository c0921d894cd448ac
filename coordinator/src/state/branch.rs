//! The state branch: an orphan branch on which each change is a commit, made by compare and swap.
//!
//! A change reads the tip, edits one folder, writes a commit of it on the tip, and pushes that to the upstream, plainly: the
//! upstream takes it only if its tip is the one that was read. Then the branch here is moved to it, by the same rule. Whoever
//! comes second reads again. So a crash leaves each of the two tips old or new, and nothing is ever forced.
//!
//! What was committed here and is not yet at the upstream, since that was out of reach, is carried onto its tip by the next
//! change. Where somebody changed the same folder there, what is here of it is set aside under a ref of its own, so that all
//! other folders go on, and who changes that folder is halted until a person has looked.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use scap_proto::id::GitOid;

use super::{
    carry::{Key, carry},
    failpoint::Failpoint,
    folder::{Folder, Place, folder_name},
    lock::Holder,
    record::DocumentError,
    tip::{KnownTip, TipError},
};
use crate::git::{Author, BranchName, GitError, Item, Objects, Pushed, Remote, Repo};

/// The file at the top that says what the branch is; its first line is the version of the layout. No environment can have
/// its name.
pub(super) const FORMAT_FILE: &str = ".scap-state";
/// The first line of that file.
pub(super) const FORMAT: &str = "scap-state/1";
const FORMAT_TEXT: &str = "scap-state/1

What scap-coordinator deployed, a commit a step. <environment>/<repo>/record.json says what an environment is on;
latest/ and stable/ beside it hold what was signed. Do not edit it, nor rewrite its history.
";

/// How long the upstream may take for an answer where a change can go without it: who waits may have better things to do.
pub const MAY_MAX: Duration = Duration::from_secs(5);

/// How often a change is tried again because others were quicker. Each time somebody else got through, so this many in a row
/// is no chance but something that undoes what is written.
const ATTEMPTS_MAX: usize = 20;

/// A state branch.
#[derive(Debug, Clone)]
pub struct Branch {
    pub(super) repo: Repo,
    pub(super) name: BranchName,
    base: Base,
    known: Option<KnownTip>,
    failpoint: Failpoint,
}

/// Where others write to the branch too.
#[derive(Debug, Clone)]
pub enum Base {
    /// Nowhere but here.
    Here,
    /// At a remote.
    Upstream(Remote),
    /// At a remote that is not asked: what is written gets there with a later change.
    Offline(Remote),
}

/// Whether a change may go without the upstream, where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upstream {
    /// It must have it.
    Must,
    /// What it does not get now it gets with the next change.
    May,
    /// The same where it does not answer. What stands in the way for another reason is for a person to look at first.
    MayBeAway,
}

impl Upstream {
    /// Whether a change is made here alone then.
    fn goes_on_without(self, error: &BranchError) -> bool {
        match self {
            Self::Must => false,
            Self::May => error.is_upstreams(),
            Self::MayBeAway => matches!(error, BranchError::Unreachable { .. }),
        }
    }
}

/// A change that was made.
#[derive(Debug)]
pub struct Updated {
    /// The commit.
    pub commit: GitOid,
    /// Whether there is an upstream that has it not: the next change takes it there.
    pub is_here_only: bool,
    /// Why the upstream has it not, where it should; or, where it has, why the branch here does not follow or the commit is not
    /// remembered.
    pub problem: Option<BranchError>,
}

impl Updated {
    /// Logs the problem, where there is one.
    pub fn warn(&self) {
        let Some(problem) = &self.problem else {
            return;
        };
        let error = scap_agent::error_chain(problem);
        match self.is_here_only {
            true => tracing::warn!(error, "recorded here only"),
            false => tracing::warn!(error, "recorded, and not all that belongs to it here"),
        }
    }
}

/// Who makes a change, when, and at which step of a deployment.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// Where.
    pub place: &'a Place,
    /// The step, for the failpoints and the branch's log.
    pub step: &'static str,
    /// Who.
    pub by: &'a Holder,
    /// When.
    pub now: Timestamp,
    /// Whether the upstream must have it.
    pub upstream: Upstream,
}

/// Why the branch is not read or written.
#[derive(Debug, thiserror::Error)]
pub enum BranchError {
    /// Git, or the repository.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A branch of somebody else's.
    #[error("branch `{0}` is not a state branch: it has no file `{FORMAT_FILE}`")]
    NotOurs(BranchName),
    /// A branch of a later version.
    #[error("the state branch is a `{found}`, and this program knows {FORMAT}")]
    Newer {
        /// What it says to be, escaped.
        found: String,
    },
    /// A file that cannot be read.
    #[error("read {file} of the state branch")]
    Document {
        /// Which.
        file: &'static str,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// Signed objects that are not whole.
    #[error("the signed objects in `{0}` of the state branch are not whole")]
    Objects(&'static str),
    /// What was written last is not part of the branch any more.
    #[error(
        "the state branch was rewritten: {known}, which was written last, is not in it any more"
    )]
    Rewritten {
        /// What was written last.
        known: GitOid,
        /// Where that is remembered.
        file: PathBuf,
    },
    /// The upstream's branch and this one say different things of the same.
    #[error("the state branch here and at the upstream have both changed {what}")]
    Diverged {
        /// What both have changed.
        what: String,
        /// The branch.
        branch: BranchName,
        /// The upstream's tip.
        there: GitOid,
        /// The ref under which what was here is set aside, where the branch here follows the upstream already.
        aside: Option<String>,
    },
    /// The upstream does not answer, or not as it should.
    #[error("reach the upstream `{remote}` of the state branch")]
    Unreachable {
        /// Which.
        remote: String,
        /// Why.
        source: GitError,
    },
    /// The upstream does not take what it should.
    #[error("the upstream `{remote}` of the state branch refuses it: {reason}")]
    Refused {
        /// Which.
        remote: String,
        /// Its words.
        reason: String,
    },
    /// Others are always quicker.
    #[error("the state branch was changed by others {ATTEMPTS_MAX} times in a row")]
    Busy,
    /// Somebody deploys.
    #[error("{what} is locked by {holder}")]
    Held {
        /// What.
        what: String,
        /// Who, why, and since when.
        holder: String,
    },
    /// The lock is not ours any more.
    #[error("the lock of {what} is not ours any more: {how}")]
    Lost {
        /// Of what.
        what: String,
        /// Who broke it, or has it now.
        how: String,
    },
    /// There is no lock.
    #[error("{0} is not locked")]
    NotLocked(String),
    /// What was written last cannot be remembered.
    #[error(transparent)]
    Tip(#[from] TipError),
}

impl BranchError {
    /// Whether somebody else holds the lock.
    pub fn is_held(&self) -> bool {
        matches!(self, Self::Held { .. })
    }

    /// Whether this program is too old, or the branch none of ours.
    pub fn is_misuse(&self) -> bool {
        match self {
            Self::NotOurs(_) | Self::Newer { .. } | Self::NotLocked(_) => true,
            Self::Document { source, .. } => matches!(source, DocumentError::Newer { .. }),
            Self::Git(error) => matches!(error, GitError::NoRemote(_)),
            _ => false,
        }
    }

    /// Whether a person must look at the branch before anything is deployed.
    pub fn needs_a_person(&self) -> bool {
        match self {
            Self::Git(_) | Self::Unreachable { .. } | Self::Busy | Self::Tip(_) => false,
            _ => !self.is_held() && !self.is_misuse(),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Git(GitError::NoRemote(_)) => {
                "name one of `git remote` with --state-remote, or `none`".into()
            }
            Self::Git(error) => return error.hint(),
            Self::NotOurs(_) => "name another branch with --state-branch".into(),
            Self::Newer { .. } => "upgrade scap-coordinator".into(),
            Self::Document { source: DocumentError::Newer { .. }, .. } => {
                "upgrade scap-coordinator".into()
            }
            Self::Document { .. } | Self::Objects(_) => {
                "see with `git log` who wrote it; nothing is deployed until it is put right".into()
            }
            Self::Rewritten { file, .. } => format!(
                "find out who rewrote it, and push the old commit again; if it was meant, remove {}",
                file.display()
            ),
            Self::Diverged {
                aside: Some(aside), ..
            } => format!(
                "what was here is set aside as {aside}: compare it with the branch; then, to go on with what the upstream has: git update-ref -d {aside}"
            ),
            Self::Diverged { branch, there, .. } => format!(
                "compare both; to follow the upstream: git update-ref {} {there} (what is here only stays in the branch's reflog)",
                branch.full()
            ),
            Self::Unreachable { .. } => {
                "try again when it is reached, or deploy with --offline, which is recorded".into()
            }
            Self::Refused { .. } => {
                "may you push this branch there? --state-remote names another upstream, or none".into()
            }
            Self::Busy => "try again".into(),
            Self::Held { .. } => {
                "wait for it to end; if it never will, break its lock with `scap-coordinator unlock`".into()
            }
            Self::Lost { .. } => "see `scap-coordinator status` and `history` for who deploys now".into(),
            Self::NotLocked(_) => "`scap-coordinator status` says what is".into(),
            Self::Tip(_) => return None,
        };
        Some(hint)
    }

    /// Whether it is the upstream's state that stands in the way, and a change that need not reach it can be made here.
    fn is_upstreams(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Refused { .. }
                | Self::Diverged { .. }
                | Self::Rewritten { .. }
        )
    }
}

/// On what a change is made.
struct Start {
    /// The commit.
    base: Option<GitOid>,
    /// The upstream's tip, where it was asked.
    there: Option<Option<GitOid>>,
    /// The folders whose commits here are not in `base`.
    left: BTreeSet<Key>,
}

impl Start {
    fn here(base: Option<GitOid>) -> Self {
        Self {
            base,
            there: None,
            left: BTreeSet::new(),
        }
    }
}

/// A tip that was read, taken apart.
struct Opened {
    root: Vec<Item>,
    environment: Vec<Item>,
    folder: Folder,
}

impl Branch {
    /// The branch `name` of a repository, which need not be there yet. `known` remembers what was
    /// written last.
    pub fn new(
        repo: Repo,
        name: BranchName,
        base: Base,
        known: Option<KnownTip>,
        failpoint: Failpoint,
    ) -> Self {
        Self {
            repo,
            name,
            base,
            known,
            failpoint,
        }
    }

    /// Whether there is an upstream that is not asked.
    pub fn is_offline(&self) -> bool {
        matches!(self.base, Base::Offline(_))
    }

    /// The same, whose upstream is not asked any more.
    #[must_use]
    pub fn offline(self) -> Self {
        let base = match self.base {
            Base::Upstream(remote) => Base::Offline(remote),
            base => base,
        };
        Self { base, ..self }
    }

    /// Makes one change: `edit` changes the folder, and returns the words of the commit. It may be called several times, each
    /// time with what the folder is then. Blocking, at most three times as long as the remote's limit for each attempt.
    ///
    /// A crash leaves the branch, here and at the upstream, as it was or as it is after the change.
    ///
    /// # Errors
    /// What `edit` returns, and [`BranchError`].
    pub fn update(
        &self,
        change: Change<'_>,
        mut edit: impl FnMut(&mut Folder) -> Result<String, BranchError>,
    ) -> Result<Updated, BranchError> {
        let started = Instant::now();
        let Change {
            place,
            step,
            by,
            now,
            upstream,
        } = change;
        let remote = match &self.base {
            Base::Upstream(remote) if upstream != Upstream::Must => {
                Some(remote.clone().within(MAY_MAX))
            }
            Base::Upstream(remote) => Some(remote.clone()),
            Base::Here | Base::Offline(_) => None,
        };
        for _ in 0..ATTEMPTS_MAX {
            // Before any tip is read: others of this clone may write meanwhile, and what they remember must be in what is read.
            let known = self.known.as_ref().map(KnownTip::read).transpose()?;
            let known = known.flatten();
            let local = self.repo.tip(&self.name)?;
            let mut problem = None;
            let start = match self.start(remote.as_ref(), local.as_ref(), known.as_ref(), place) {
                Err(error) if upstream.goes_on_without(&error) => {
                    // What was read there may refuse the change, as where the lock is another's by now.
                    if let BranchError::Diverged { there, .. } = &error {
                        edit(&mut self.open(Some(there), place)?.folder)?;
                    }
                    problem = Some(error);
                    Start::here(local.clone())
                }
                start => start?,
            };
            let Start { base, there, left } = start;
            let mut opened = self.open(base.as_ref(), place)?;
            let message = edit(&mut opened.folder)?;
            let author = Author {
                name: by.name.clone(),
                mail: by.name.clone(),
                time: now.as_second(),
            };
            let commit = self.commit(base.as_ref(), &opened, place, &author, &message)?;
            // Before the branch here leaves it, and before there is no way back.
            if let Some(local) = &local {
                for key in &left {
                    self.repo.set_aside(&self.aside(key), local)?;
                }
            }
            self.failpoint.hit(step, "written");
            if let (Some(remote), Some(there)) = (&remote, &there) {
                match self.push(remote, &commit, there.as_ref()) {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(error) if upstream.goes_on_without(&error) => problem = Some(error),
                    Err(error) => return Err(error),
                }
                self.failpoint.hit(step, "pushed");
            }
            let is_pushed = there.is_some() && problem.is_none();
            let moved = self
                .repo
                .move_branch(&self.name, local.as_ref(), &commit, step);
            // What the upstream has is done, whatever comes of it here.
            match moved {
                Ok(true) => {}
                // Somebody here was quicker.
                Ok(false) if is_pushed => problem = self.follow(&commit, step).err(),
                Ok(false) => continue,
                Err(error) if is_pushed => problem = Some(error.into()),
                Err(error) => return Err(error.into()),
            }
            self.failpoint.hit(step, "moved");
            let is_final = is_pushed || matches!(self.base, Base::Here);
            if let Some(known) = &self.known
                && is_final
                && let Err(error) = known.save(&commit)
            {
                problem.get_or_insert(error.into());
            }
            let millis = started.elapsed().as_millis();
            tracing::debug!(step, %commit, millis, is_pushed, "state branch written");
            return Ok(Updated {
                commit,
                is_here_only: !is_final,
                problem,
            });
        }
        Err(BranchError::Busy)
    }

    /// On what a change of `place` is to be made.
    fn start(
        &self,
        remote: Option<&Remote>,
        local: Option<&GitOid>,
        known: Option<&GitOid>,
        place: &Place,
    ) -> Result<Start, BranchError> {
        let Some(remote) = remote else {
            let local = match (&self.base, local) {
                // A second root would have nothing in common with the upstream's.
                (Base::Offline(remote), None) => {
                    self.repo.tracked_tip(remote.name(), &self.name)?
                }
                (_, local) => local.cloned(),
            };
            self.check_known(known, local.as_ref())?;
            return Ok(Start::here(local));
        };
        let failed = |source| self.unreachable(remote, source);
        let there = remote.tip(&self.name).map_err(failed)?;
        if let Some(tip) = &there
            && !self.repo.has_commit(tip)?
        {
            remote.fetch(&self.name).map_err(failed)?;
        }
        self.check_known(known, there.as_ref())?;
        let key = key_of(place);
        let diverged = |there: &GitOid, aside| BranchError::Diverged {
            what: format!("{} {}", place.1, place.0),
            branch: self.name.clone(),
            there: there.clone(),
            aside,
        };
        let aside = self.aside(&key);
        if let Some(there) = &there
            && self.repo.is_set_aside(&aside)?
        {
            return Err(diverged(there, Some(aside)));
        }
        let mut left = BTreeSet::new();
        let base = match (local, &there) {
            (local, None) => local.cloned(),
            (None, Some(there)) => Some(there.clone()),
            (Some(local), Some(there)) => {
                if self.repo.is_ancestor(local, there)? {
                    Some(there.clone())
                } else if self.repo.is_ancestor(there, local)? {
                    Some(local.clone())
                } else {
                    let carried = carry(self, local, there)?;
                    if carried.left.contains(&key) {
                        return Err(diverged(there, None));
                    }
                    left = carried.left;
                    Some(carried.tip)
                }
            }
        };
        Ok(Start {
            base,
            there: Some(there),
            left,
        })
    }

    /// The ref under which what was written here of a folder is kept, once the branch here follows an upstream that has
    /// other of it.
    fn aside(&self, (environment, repo): &Key) -> String {
        let [environment, repo] = [environment, repo].map(|name| String::from_utf8_lossy(name));
        format!("refs/scap/diverged/{}/{environment}/{repo}", self.name)
    }

    /// Pushes plainly. Whether the upstream was still at `there`.
    fn push(
        &self,
        remote: &Remote,
        commit: &GitOid,
        there: Option<&GitOid>,
    ) -> Result<bool, BranchError> {
        let failed = |source| self.unreachable(remote, source);
        match remote.push(commit, &self.name).map_err(failed)? {
            Pushed::Done => Ok(true),
            Pushed::Refused(reason) => {
                if remote.tip(&self.name).map_err(failed)?.as_ref() != there {
                    return Ok(false);
                }
                let remote = remote.name().to_owned();
                Err(BranchError::Refused { remote, reason })
            }
        }
    }

    /// Moves the branch here to what the upstream has, unless it is there or further.
    fn follow(&self, commit: &GitOid, step: &str) -> Result<(), BranchError> {
        for _ in 0..ATTEMPTS_MAX {
            let local = self.repo.tip(&self.name)?;
            if let Some(local) = &local
                && !self.repo.is_ancestor(local, commit)?
            {
                // Further, or with something of its own, which is carried over by whoever writes next.
                return Ok(());
            }
            if self
                .repo
                .move_branch(&self.name, local.as_ref(), commit, step)?
            {
                return Ok(());
            }
        }
        Err(BranchError::Busy)
    }

    /// That what is remembered of the branch is in it.
    fn check_known(&self, known: Option<&GitOid>, tip: Option<&GitOid>) -> Result<(), BranchError> {
        let Some((file, known)) = self.known.as_ref().zip(known) else {
            return Ok(());
        };
        let is_in_it = match tip {
            Some(tip) => self.repo.is_ancestor(known, tip)?,
            None => false,
        };
        match is_in_it {
            true => Ok(()),
            false => Err(BranchError::Rewritten {
                known: known.clone(),
                file: file.path().to_owned(),
            }),
        }
    }

    fn unreachable(&self, remote: &Remote, source: GitError) -> BranchError {
        let remote = remote.name().to_owned();
        BranchError::Unreachable { remote, source }
    }

    fn open(&self, tip: Option<&GitOid>, place: &Place) -> Result<Opened, BranchError> {
        let mut opened = Opened {
            root: Vec::new(),
            environment: Vec::new(),
            folder: Folder::default(),
        };
        let Some(tip) = tip else {
            return Ok(opened);
        };
        let mut objects = self.repo.objects()?;
        opened.root = open_root(&mut objects, &self.name, tip)?;
        let (repo, environment) = place;
        if let Some(item) = folder_in(&opened.root, environment.as_str()) {
            opened.environment = objects.folder(&item.id)?;
        }
        if let Some(item) = folder_in(&opened.environment, &folder_name(repo)) {
            opened.folder = Folder::read(&mut objects, &item.id)?;
        }
        Ok(opened)
    }

    fn commit(
        &self,
        parent: Option<&GitOid>,
        opened: &Opened,
        (repo, environment): &Place,
        author: &Author,
        message: &str,
    ) -> Result<GitOid, BranchError> {
        let mut writer = self.repo.folder_writer()?;
        let folder = opened.folder.write(&self.repo, &mut writer)?;
        let mut items = opened.environment.clone();
        put(&mut items, Item::folder(&folder_name(repo), folder));
        let mut root = opened.root.clone();
        put(
            &mut root,
            Item::folder(environment.as_str(), writer.write(&items)?),
        );
        if parent.is_none() {
            let [format] = &self.repo.write_files(&[FORMAT_TEXT.as_bytes()])?[..] else {
                unreachable!("one id a file");
            };
            put(&mut root, Item::file(FORMAT_FILE, format.clone()));
        }
        let tree = writer.write(&root)?;
        Ok(self.repo.write_commit(&tree, parent, author, message)?)
    }
}

/// What is at the top of a tip, if it is that of a state branch of this version.
pub(super) fn open_root(
    objects: &mut Objects,
    name: &BranchName,
    tip: &GitOid,
) -> Result<Vec<Item>, BranchError> {
    const FORMAT_BYTES_MAX: u64 = 64 * 1024;
    let root = objects.root(tip)?;
    let items = objects.folder(&root)?;
    let format = items
        .iter()
        .find(|item| item.name == FORMAT_FILE.as_bytes());
    let Some(format) = format else {
        return Err(BranchError::NotOurs(name.clone()));
    };
    let text = objects.file(&format.id, FORMAT_BYTES_MAX)?;
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if line != FORMAT.as_bytes() {
        let found = line.escape_ascii().to_string().chars().take(64).collect();
        return Err(BranchError::Newer { found });
    }
    Ok(items)
}

/// The name of a place's folder.
fn key_of((repo, environment): &Place) -> Key {
    let environment = environment.as_str().as_bytes().to_vec();
    (environment, folder_name(repo).into_bytes())
}

/// The folder of a name.
pub(super) fn folder_in<'a>(items: &'a [Item], name: &str) -> Option<&'a Item> {
    let is_it = |item: &&Item| item.name == name.as_bytes() && item.mode.is_none();
    items.iter().find(is_it)
}

/// Puts an item in the place of the one of its name.
pub(super) fn put(items: &mut Vec<Item>, new: Item) {
    items.retain(|item| item.name != new.name);
    items.push(new);
}
