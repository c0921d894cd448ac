//! One repo on this host: its directories, opened and checked, and what is recorded of it.

use std::{
    collections::BTreeSet,
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{Stat, StatVfsMountFlags};
use scap_proto::{
    content::FileContent,
    id::{ContentHash, ReleaseId},
    place,
    release::RepoPath,
};

use super::{
    ChunkSource, Promoted, Target,
    asked::Asked,
    compare::{Difference, Judge, What, compare, hash_file},
    dir::{DIRECTORY_MODE, Dir, permissions, touch},
    entries::EntryStore,
    error::{ActivateError, Doing},
    failpoint::Failpoints,
    inodes::Inodes,
    record::{self, Found, Installed, Rev, State},
    trash::Trash,
};
use crate::lock::FileLock;

/// How many release directories are kept, the live one included: what scap3 keeps. Until it is finalized
/// there may be one more.
pub const KEPT: usize = 5;

/// One repo on this host. While it is open no other process can work on the repo.
#[derive(Debug)]
pub struct Deployment {
    pub(super) repo: RepoPath,
    /// The deploy root's path, absolute.
    pub(super) root_path: PathBuf,
    /// Opened before anything is written, so that a sync reports what went wrong with any of it.
    pub(super) root: Dir,
    /// The folder of the final path.
    pub(super) parent: Dir,
    pub(super) cache: Dir,
    pub(super) revs: Dir,
    pub(super) own: Dir,
    pub(super) releases: Dir,
    pub(super) entries: EntryStore,
    pub(super) trash: Trash,
    /// None where it is only looked at, beside who has it.
    pub(super) lock: Option<FileLock>,
    pub(super) state: State,
    pub(super) failpoints: Failpoints,
}

/// Names in [`Deployment::own`].
pub(super) const JOURNAL: &str = "journal";
/// See [`JOURNAL`].
pub(super) const LIVE: &str = "live";
/// See [`JOURNAL`].
pub(super) const INODES: &str = "inodes";
/// See [`JOURNAL`].
pub(super) const STAGING: &[u8] = b"staging";

impl Deployment {
    /// Opens `repo` beneath `deploy_root`, makes its directories where they are missing, and finishes or
    /// undoes what was interrupted.
    ///
    /// # Errors
    /// Where the deploy root is missing or read-only, a directory can be changed by others, another
    /// process is at work, or the disk fails. What is live stays live.
    pub fn open(deploy_root: &Path, repo: &RepoPath) -> Result<Self, ActivateError> {
        place::check_above(deploy_root)?;
        let root = open_root(deploy_root)?;
        if is_read_only(&root, deploy_root)? {
            return Err(ActivateError::ReadOnly(deploy_root.to_owned()));
        }
        check_ours(&root, OTHERS, || deploy_root.display().to_string())?;
        let root = (root, deploy_root);
        let mut deployment = Self::enter(root, repo, make_ours, |own| {
            own.open_or_create(b"lock", 0o600).map(Some)
        })?;
        deployment.load()?;
        deployment.recover()?;
        Ok(deployment)
    }

    /// Opens `repo` to look at it: also where its file system is read-only, and then as it was left.
    ///
    /// # Errors
    /// As [`Self::open`], and where nothing was ever deployed on a file system that is read-only.
    pub fn open_to_look(deploy_root: &Path, repo: &RepoPath) -> Result<Self, ActivateError> {
        let root = open_root(deploy_root)?;
        if !is_read_only(&root, deploy_root)? {
            return Self::open(deploy_root, repo);
        }
        let root = (root, deploy_root);
        let mut deployment = Self::enter(root, repo, there, |own| own.file(b"lock").map(Some))?;
        deployment.load()?;
        Ok(deployment)
    }

    /// Opens `repo` as it is recorded now, while another process may be at work on it. Nothing is to be done with it.
    ///
    /// # Errors
    /// As [`Self::open`], and where nothing was ever deployed; [`ActivateError::LiveDamaged`].
    pub(super) fn open_beside(deploy_root: &Path, repo: &RepoPath) -> Result<Self, ActivateError> {
        let root = (open_root(deploy_root)?, deploy_root);
        let mut deployment = Self::enter(root, repo, there, |_| Ok(None))?;
        deployment.state = match record::read(&deployment.own, LIVE)? {
            Found::Record(state) => state,
            Found::Nothing => State::default(),
            Found::Damaged => return Err(ActivateError::LiveDamaged),
        };
        Ok(deployment)
    }

    /// Opens all directories of a repo by `enter`, and takes its lock.
    fn enter(
        (root, root_path): (Dir, &Path),
        repo: &RepoPath,
        enter: impl Fn(&Dir, &str, u32, u32) -> Result<Dir, ActivateError>,
        open_lock: impl Fn(&Dir) -> io::Result<Option<File>>,
    ) -> Result<Self, ActivateError> {
        let mut parent = root
            .dir_at(b"")
            .doing(|| "open the deploy root".to_owned())?;
        let (folders, name) = repo.as_str().rsplit_once('/').unwrap_or(("", repo.name()));
        for folder in folders.split('/').filter(|folder| !folder.is_empty()) {
            parent = enter(&parent, folder, DIRECTORY_MODE, OTHERS)?;
        }
        let cache_name = format!("{name}{}", RepoPath::CACHE_SUFFIX);
        let cache = enter(&parent, &cache_name, DIRECTORY_MODE, GROUP_AND_OTHERS)?;
        let revs = enter(&cache, "revs", DIRECTORY_MODE, GROUP_AND_OTHERS)?;
        let own = enter(&cache, ".scap", PRIVATE_MODE, GROUP_AND_OTHERS)?;
        let lock = open_lock(&own).doing(|| "open the lock".to_owned())?;
        let lock = match lock.map(FileLock::try_take).transpose() {
            Ok(lock) => lock,
            Err(TryLockError::WouldBlock) => return Err(ActivateError::Busy(repo.clone())),
            Err(TryLockError::Error(error)) => {
                return Err(error).doing(|| "take the lock".to_owned());
            }
        };
        let root_path = std::path::absolute(root_path)
            .doing(|| format!("find the whole path of {}", root_path.display()))?;
        Ok(Self {
            repo: repo.clone(),
            root_path,
            parent,
            revs,
            releases: enter(&own, "releases", PRIVATE_MODE, GROUP_AND_OTHERS)?,
            entries: EntryStore::new(
                enter(&own, "entries", PRIVATE_MODE, GROUP_AND_OTHERS)?,
                enter(&own, "pages", PRIVATE_MODE, GROUP_AND_OTHERS)?,
            ),
            trash: Trash::new(enter(&own, "trash", PRIVATE_MODE, GROUP_AND_OTHERS)?),
            lock,
            state: State::default(),
            failpoints: Failpoints::default(),
            root,
            cache,
            own,
        })
    }

    /// Lets a test make the process die at a named place.
    #[must_use]
    pub fn with_failpoints(self, failpoints: Failpoints) -> Self {
        Self { failpoints, ..self }
    }

    /// What is live.
    pub fn live(&self) -> Option<&Installed> {
        self.state.live.as_ref()
    }

    /// What was live before it, and [`Self::revert`] goes back to.
    pub fn previous(&self) -> Option<&Installed> {
        self.state.history.last()
    }

    /// What was last finalized.
    pub fn finalized(&self) -> Option<&Installed> {
        self.state.done.as_ref()
    }

    /// Every release whose directory is kept, the highest sequence first. The chunks of their entries,
    /// and the files that they would be repaired from, are worth keeping.
    ///
    /// # Errors
    /// Where the records cannot be read.
    pub fn releases(&self) -> Result<Vec<Installed>, ActivateError> {
        let names = self
            .releases
            .names()
            .doing(|| "list the kept releases".to_owned())?;
        let mut releases = Vec::new();
        for name in names {
            let Some(rev) = String::from_utf8(name.into())
                .ok()
                .and_then(|name| Rev::try_from(name).ok())
            else {
                continue;
            };
            releases.extend(self.installed(&rev)?);
        }
        releases.sort_by(|a, b| (b.sequence, &b.rev).cmp(&(a.sequence, &a.rev)));
        Ok(releases)
    }

    /// Makes `target` live: [`Self::prepare`] and [`Self::flip`].
    ///
    /// # Errors
    /// As theirs.
    pub fn promote(
        &mut self,
        target: &Target,
        source: &dyn ChunkSource,
    ) -> Result<Promoted, ActivateError> {
        let prepared = self.prepare(target, source)?;
        let flipped = self.flip(&target.release, source)?;
        Ok(Promoted { prepared, flipped })
    }

    /// Records that the live release is the stable one, and removes directories beyond [`KEPT`].
    ///
    /// # Errors
    /// Where another release is live, or the disk fails.
    pub fn finalize(&mut self, release: &ReleaseId) -> Result<(), ActivateError> {
        self.settle()?;
        let live = self
            .state
            .live
            .as_ref()
            .filter(|live| live.release == *release);
        let Some(live) = live else {
            return Err(ActivateError::NotLive(*release));
        };
        let next = State {
            done: Some(live.clone()),
            in_progress: None,
            aside: None,
            ..self.state.clone()
        };
        self.record(next)?;
        self.prune(self.kept_max())?;
        self.collect_asked(&self.releases()?)
    }

    /// How many release directories are kept: as many as what is live asks for, else [`KEPT`].
    pub(super) fn kept_max(&self) -> usize {
        let live = self.state.live.as_ref();
        let config = live.and_then(|live| self.config_of(live).ok()?);
        let asked = config.and_then(|config| self.host_config(&config).ok());
        let kept = asked.map(|asked| asked.cache_revs.get());
        kept.and_then(|kept| kept.try_into().ok()).unwrap_or(KEPT)
    }

    /// Whether the final path leads to that release's directory, or nowhere of ours.
    pub(super) fn leads_to(&self, rev: Option<&Rev>) -> Result<bool, ActivateError> {
        Ok(self.final_link()? == rev.map(|rev| self.link_to(rev)))
    }

    /// Compares the live tree with its snapshot, reading every byte of it.
    ///
    /// # Errors
    /// Where nothing is live, or the tree cannot be read.
    pub fn verify(&self, source: &dyn ChunkSource) -> Result<Vec<Difference>, ActivateError> {
        let live = self.state.live.as_ref();
        let live = live.ok_or_else(|| ActivateError::NothingLive(self.repo.clone()))?;
        let asked = self.asked(&live.rev)?;
        let mut differences = Reader {
            asked: &asked,
            found: Vec::new(),
        };
        if self.final_link()? != Some(self.link_to(&live.rev)) {
            differences.found.push(Difference {
                path: Vec::new(),
                what: What::NotLive,
            });
        }
        let tree = self.tree(live)?;
        let listing = self.entries.open(live, source)?;
        compare(&tree, listing.entries(), &mut differences)?;
        let mut found = differences.found;
        found.extend(self.rendered_differences(live)?);
        Ok(found)
    }

    /// Moves release directories of ours to the trash until `keep` are left, those with the lowest sequence first.
    /// What is live, finalized or in progress, and what would be gone back to, stays in any case.
    pub(super) fn prune(&self, keep: usize) -> Result<(), ActivateError> {
        let state = &self.state;
        let needed = [
            state.live.as_ref(),
            state.history.last(),
            state.done.as_ref(),
        ];
        let needed = needed.into_iter().flatten().map(|installed| &installed.rev);
        let needed: BTreeSet<&Rev> = needed.chain(&state.in_progress).collect();
        let (mut kept, mut others): (Vec<_>, Vec<_>) = self
            .releases()?
            .into_iter()
            .partition(|installed| needed.contains(&installed.rev));
        let room = keep.saturating_sub(needed.len()).min(others.len());
        kept.extend(others.drain(..room));
        for installed in &others {
            self.discard(&installed.rev)?;
        }
        match others.is_empty() {
            true => Ok(()),
            false => self.collect_entries(&kept),
        }
    }

    /// Moves a release's directory to the trash and forgets the release.
    pub(super) fn discard(&self, rev: &Rev) -> Result<(), ActivateError> {
        let discard = || {
            self.trash.take(&self.revs, rev.as_bytes())?;
            self.releases.unlink(rev.as_bytes())?;
            self.entries.forget(rev)
        };
        discard().doing(|| format!("remove `revs/{rev}`"))
    }

    /// Removes the entries of all releases but these.
    pub(super) fn collect_entries(&self, kept: &[Installed]) -> Result<(), ActivateError> {
        self.entries
            .collect(kept)
            .doing(|| "remove the entries of releases that are no longer kept".to_owned())
    }

    /// Removes the directories that are no longer kept, however long it takes.
    pub(super) fn empty_trash(&self, inodes: &mut Inodes) -> Result<(), ActivateError> {
        self.trash
            .empty(inodes, &|| false)
            .map(drop)
            .doing(|| "remove release directories that are no longer kept".to_owned())
    }

    /// What is installed in `revs/<rev>`, where that is a directory of ours.
    pub(super) fn installed(&self, rev: &Rev) -> Result<Option<Installed>, ActivateError> {
        let found: Found<Installed> = record::read(&self.releases, rev.as_str())?;
        let installed = found.record().filter(|installed| installed.rev == *rev);
        Ok(installed.filter(|_| self.revs.dir(rev.as_bytes()).is_ok()))
    }

    /// The tree of an installed release.
    pub(super) fn tree(&self, installed: &Installed) -> Result<Dir, ActivateError> {
        self.revs
            .dir(installed.rev.as_bytes())
            .doing(|| format!("open `revs/{}`", installed.rev))
    }

    /// What the final path links to, where it is a link.
    pub(super) fn final_link(&self) -> Result<Option<Vec<u8>>, ActivateError> {
        self.parent
            .link_target(self.final_name())
            .doing(|| format!("read the link `{}`", self.repo))
    }

    /// The final path's name in its folder.
    pub(super) fn final_name(&self) -> &[u8] {
        self.repo.name().as_bytes()
    }

    /// The target of the final path when this is live.
    pub(super) fn link_to(&self, rev: &Rev) -> Vec<u8> {
        let (name, suffix) = (self.repo.name(), RepoPath::CACHE_SUFFIX);
        format!("{name}{suffix}/revs/{rev}").into_bytes()
    }

    /// Now, by the clock of the file system that the trees are on, in nanoseconds.
    pub(super) fn now(&self) -> Result<i128, ActivateError> {
        let lock = self.lock.as_ref();
        let lock = lock.expect("who has no lock does nothing but look");
        touch(lock.file()).doing(|| "touch the lock".to_owned())
    }

    pub(super) fn load_inodes(&self) -> Result<Inodes, ActivateError> {
        Inodes::load(&self.own, INODES)
    }

    pub(super) fn save_inodes(&self, inodes: &mut Inodes) -> Result<(), ActivateError> {
        inodes.save(&self.own, INODES, self.now()?)
    }

    /// Makes everything that was written beneath the deploy root durable.
    pub(super) fn sync(&self) -> Result<(), ActivateError> {
        self.root
            .sync_file_system()
            .doing(|| "make the release durable".to_owned())
    }
}

/// Reads every file, and collects what is different, but for what is rendered.
#[derive(Debug)]
struct Reader<'a> {
    asked: &'a Asked,
    found: Vec<Difference>,
}

impl Judge for Reader<'_> {
    const SEEKS_EXTRA: bool = true;

    fn has_content(
        &mut self,
        dir: &Dir,
        name: &[u8],
        stat: &Stat,
        content: &FileContent,
    ) -> io::Result<bool> {
        let found: Option<ContentHash> = hash_file(dir, name, stat)?;
        Ok(found == Some(content.hash))
    }

    fn differs(
        &mut self,
        difference: Difference,
        _: Option<&scap_proto::content::Entry>,
    ) -> Result<(), ActivateError> {
        if !self.asked.explains(&difference) {
            self.found.push(difference);
        }
        Ok(())
    }
}

pub(super) const PRIVATE_MODE: u32 = 0o700;

/// Who must not be able to put anything into a directory. A deploy root, and a folder in it, may be its
/// group's, unless root is at work: its group could have root run what it put there. Where the trees are may not.
const OTHERS: u32 = 0o002;
const GROUP_AND_OTHERS: u32 = 0o022;

pub(super) fn open_root(deploy_root: &Path) -> Result<Dir, ActivateError> {
    Dir::open(deploy_root).map_err(|source| ActivateError::DeployRoot {
        path: deploy_root.to_owned(),
        source,
    })
}

fn is_read_only(root: &Dir, path: &Path) -> Result<bool, ActivateError> {
    let status = rustix::fs::fstatvfs(root).map_err(io::Error::from);
    let status = status.doing(|| format!("read the status of {}", path.display()))?;
    Ok(status.f_flag.contains(StatVfsMountFlags::RDONLY))
}

fn there(dir: &Dir, name: &str, _: u32, _: u32) -> Result<Dir, ActivateError> {
    dir.dir_at(name.as_bytes())
        .doing(|| format!("open `{name}`"))
}

fn make_ours(dir: &Dir, name: &str, mode: u32, refused: u32) -> Result<Dir, ActivateError> {
    let made = dir
        .make_dir(name.as_bytes(), mode)
        .doing(|| format!("make or open the directory `{name}`"))?;
    check_ours(&made, refused, || name.to_owned())?;
    Ok(made)
}

fn check_ours(dir: &Dir, refused: u32, path: impl Fn() -> String) -> Result<(), ActivateError> {
    let stat = dir
        .own_stat()
        .doing(|| format!("read the status of `{}`", path()))?;
    let is_owned = [0, rustix::process::geteuid().as_raw()].contains(&stat.st_uid);
    let mode = permissions(&stat);
    let is_roots = rustix::process::geteuid().is_root() && stat.st_gid != 0;
    let refused = if is_roots { GROUP_AND_OTHERS } else { refused };
    if is_owned && mode & refused == 0 {
        return Ok(());
    }
    Err(ActivateError::Unsafe {
        path: path(),
        uid: stat.st_uid,
        mode,
    })
}
