//! From a release to its directory: planned, written, durable.

use std::time::{Duration, Instant};

use super::{
    ChunkSource, Target,
    build::{Base, Build, Built},
    chunks::Chunks,
    deployment::{Deployment, JOURNAL, KEPT, STAGING},
    dir::{DIRECTORY_MODE, Dir},
    entries::Entries,
    error::{ActivateError, Doing},
    failpoint::Failpoints,
    plan::{Plan, plan},
    record::{self, Installed, Journal, Rev, State},
};

/// What making a release's directory took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The release and its directory.
    pub installed: Installed,
    /// Whether the directory was there already.
    pub already_there: bool,
    /// What was made, and of what.
    pub built: Built,
    /// Until it was known what to write, removing older directories included.
    pub plan_time: Duration,
    /// Writing the tree.
    pub write_time: Duration,
    /// Making it durable.
    pub sync_time: Duration,
}

impl Deployment {
    /// Makes the directory of `target`, durable, and changes nothing of what is live. Where it is there
    /// already, that is all there is to do; [`Self::flip`] checks it.
    ///
    /// # Errors
    /// Where it does not fit ([`ActivateError::is_no_space`]), chunks are missing or wrong, or the disk
    /// fails. What was begun is removed; after a crash, the next time.
    pub fn prepare(
        &mut self,
        target: &Target,
        source: &dyn ChunkSource,
    ) -> Result<Prepared, ActivateError> {
        self.settle()?;
        let (installed, already_there) = self.place(target)?;
        let mut prepared = Prepared {
            already_there,
            built: Built::default(),
            plan_time: Duration::ZERO,
            write_time: Duration::ZERO,
            sync_time: Duration::ZERO,
            installed,
        };
        if !already_there && let Err(error) = self.build(&mut prepared, source) {
            if let Err(error) = self.recover() {
                tracing::warn!(repo = %self.repo, %error, "an incomplete release is still there");
            }
            return Err(error);
        }
        let installed = &prepared.installed;
        let name = installed.rev.as_str();
        if already_there && self.installed(&installed.rev)?.as_ref() != Some(installed) {
            record::replace(&self.releases, name, installed)?;
        }
        self.record(State {
            in_progress: Some(installed.rev.clone()),
            ..self.state.clone()
        })?;
        Ok(prepared)
    }

    /// Where the release is, or is to be: under the first name that has this content, or that is free.
    fn place(&self, target: &Target) -> Result<(Installed, bool), ActivateError> {
        let commit = target.commit.as_ref();
        let [first, second] = Rev::candidates(&target.release, commit, &target.snapshot.id);
        let installed = |rev: &Rev| Installed {
            release: target.release,
            sequence: target.sequence,
            snapshot: target.snapshot,
            commit: target.commit.clone(),
            rev: rev.clone(),
        };
        for rev in [&first, &second] {
            match self.installed(rev)? {
                Some(there) if there.snapshot == target.snapshot => {
                    return Ok((installed(rev), true));
                }
                Some(_) => continue,
                None => {}
            }
            let there = self
                .revs
                .stat(rev.as_bytes())
                .doing(|| format!("look for `revs/{rev}`"))?;
            if there.is_none() {
                return Ok((installed(rev), false));
            }
        }
        Err(ActivateError::NameTaken(second.into()))
    }

    fn build(
        &self,
        prepared: &mut Prepared,
        source: &dyn ChunkSource,
    ) -> Result<(), ActivateError> {
        let start = Instant::now();
        let installed = &prepared.installed;
        let mut inodes = self.load_inodes()?;
        self.prune(KEPT, &mut inodes)?;
        let began = self.now()?;
        let entries = Entries::open(&self.entries, installed, source)?;
        let entry_count = entries.totals().entries;
        let base = self.base(source)?;
        let base_entries = || match &base {
            Some((base, _)) => Entries::open(&self.entries, base, source).map(Some),
            None => Ok(None),
        };
        let plan = self.plan(entries, base_entries)?;
        prepared.plan_time = start.elapsed();

        let journal = Journal::Build {
            rev: installed.rev.clone(),
        };
        record::replace(&self.own, JOURNAL, &journal)?;
        self.hit(Failpoints::AFTER_JOURNAL)?;
        let start = Instant::now();
        let doing = || format!("make the directory of `{}`", installed.rev);
        let staging = self.own.make_dir(STAGING, DIRECTORY_MODE).doing(doing)?;
        let reuse = match (&base, base_entries()?) {
            (Some((_, tree)), Some(entries)) => Some(Base::new(tree, entries)),
            _ => None,
        };
        let chunks = Chunks::new(source);
        let mut build = Build::new(&staging, reuse, &plan, chunks, &mut inodes, began)?;
        let entries = Entries::open(&self.entries, installed, source)?;
        for (done, entry) in (0..).zip(entries) {
            if done == entry_count / 2 {
                self.hit(Failpoints::MID_WRITE)?;
            }
            build.push(&entry?)?;
        }
        prepared.built = build.finish();
        prepared.write_time = start.elapsed();

        let start = Instant::now();
        self.sync()?;
        // The rows are of a time when nobody else could reach the files yet.
        std::thread::sleep(inodes.settles_in(self.now()?));
        self.save_inodes(&mut inodes)?;
        // The record first: a directory beneath `revs` that has none is not ours.
        record::replace(&self.releases, installed.rev.as_str(), installed)?;
        let publish = || {
            self.own
                .rename(STAGING, &self.revs, installed.rev.as_bytes())?;
            self.revs.sync()
        };
        publish().doing(doing)?;
        prepared.sync_time = start.elapsed();
        self.clear_journal()
    }

    /// The release to take unchanged files from: what is live, or else the latest.
    fn base(&self, source: &dyn ChunkSource) -> Result<Option<(Installed, Dir)>, ActivateError> {
        let mut candidates = self.releases()?;
        if let Some(live) = &self.state.live {
            candidates.retain(|installed| installed.rev != live.rev);
            candidates.insert(0, live.clone());
        }
        for installed in candidates {
            // A release that cannot be read is no help, and no hindrance.
            if let Ok(tree) = self.tree(&installed)
                && Entries::open(&self.entries, &installed, source).is_ok()
            {
                return Ok(Some((installed, tree)));
            }
        }
        Ok(None)
    }

    /// Plans the writing, and refuses what does not fit.
    fn plan(
        &self,
        entries: Entries,
        base: impl FnMut() -> Result<Option<Entries>, ActivateError>,
    ) -> Result<Plan, ActivateError> {
        let room = rustix::fs::fstatvfs(&self.root)
            .map_err(std::io::Error::from)
            .doing(|| "read how much room the file system has".to_owned())?;
        let plan = plan(entries, base, room.f_frsize.max(1))?;
        let bytes = room.f_bavail.saturating_mul(room.f_frsize);
        // File systems that make inodes as they need them say that they have none at all.
        let inodes = (room.f_files > 0).then_some(room.f_favail);
        plan.check_room(bytes, inodes)?;
        Ok(plan)
    }

    pub(super) fn hit(&self, failpoint: &str) -> Result<(), ActivateError> {
        self.failpoints
            .hit(failpoint, &self.own)
            .doing(|| format!("mark the failpoint {failpoint}"))
    }
}
