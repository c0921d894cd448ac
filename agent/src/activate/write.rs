//! A release's tree in the staging folder: the whole of it written, or of a spare only what is different.

use std::{
    io, iter,
    time::{Duration, Instant},
};

use scap_proto::content::{Entry, RelPath};

use super::{
    ChunkSource, SourceError,
    ahead::Begun,
    build::{Base, Build, Built, remove_old},
    chunks::Chunks,
    deployment::{Deployment, JOURNAL, STAGING},
    difference::{Change, changes, pages_to_read},
    dir::{DIRECTORY_MODE, Dir},
    entries::Listing,
    error::{ActivateError, Doing},
    failpoint::Failpoints,
    inodes::Inodes,
    plan::{Plan, plan},
    proof::Contents,
    record::{self, Installed, Journal},
    spare::Spare,
};

/// A stream of entries.
pub(super) type EntryStream<'a> = Box<dyn Iterator<Item = Result<Entry, ActivateError>> + 'a>;

/// A tree to be written.
pub(super) struct Writing<'a> {
    /// Of which release.
    pub(super) installed: &'a Installed,
    /// What the staging folder holds already.
    pub(super) onto: Option<&'a Spare>,
    /// What was made of it, onto that, before.
    pub(super) begun: Option<&'a Begun>,
    /// What for.
    pub(super) purpose: Purpose<'a>,
    pub(super) source: &'a dyn ChunkSource,
    /// Where the entries of releases of before come from, if they are not kept.
    pub(super) there: &'a dyn ChunkSource,
    pub(super) inodes: &'a mut Inodes,
}

/// What a tree is written for.
#[derive(Clone, Copy)]
pub(super) enum Purpose<'a> {
    /// To be installed.
    Release,
    /// To be installed later, as long as this does not say that something else waits to be done, and chunks are there.
    Ahead(&'a dyn Fn() -> bool),
    /// To be a spare, as long as this does not say that something else waits to be done.
    Spare(&'a dyn Fn() -> bool),
}

impl Purpose<'_> {
    /// Most that may be written to disk for it, in bytes.
    pub(super) fn unshared_bytes_max(self) -> u64 {
        match self {
            Self::Release | Self::Ahead(_) => u64::MAX,
            Self::Spare(_) => SPARE_COPIED_BYTES_MAX,
        }
    }

    /// Whether something else is to be done.
    fn is_stopped(self) -> bool {
        match self {
            Self::Release => false,
            Self::Ahead(is_awaited) | Self::Spare(is_awaited) => is_awaited(),
        }
    }

    /// Whether what was made before this happened is kept.
    fn ends_with(self, error: &ActivateError) -> bool {
        matches!(
            (self, error),
            (
                Self::Ahead(_),
                ActivateError::Source(SourceError::Missing(_))
            )
        )
    }
}

/// A tree that was written.
pub(super) struct Written {
    /// What was made, and of what.
    pub(super) built: Built,
    /// The files that were made.
    pub(super) contents: Contents,
    /// Where the writing was stopped: this entry and those behind it are missing.
    pub(super) until: Option<RelPath>,
    /// Whether it was stopped because too much had to be copied.
    pub(super) has_copied: bool,
    pub(super) plan_time: Duration,
    pub(super) write_time: Duration,
}

impl Deployment {
    /// Plans and writes a tree in the staging folder.
    ///
    /// # Errors
    /// The folder is in no state to be used then.
    pub(super) fn write(&self, writing: Writing<'_>) -> Result<Written, ActivateError> {
        let start = Instant::now();
        let Writing {
            installed,
            onto,
            begun,
            purpose,
            source,
            there,
            inodes,
        } = writing;
        let listing = self.entries.open(installed, source)?;
        listing.complete()?;
        let base = match onto {
            Some(spare) => Some((spare.of.clone(), self.tree(&spare.of)?)),
            None => self.base(there)?,
        };
        let base_listing = base
            .as_ref()
            .map(|(base, _)| self.entries.open(base, there));
        let base_listing = base_listing.transpose()?;
        let work = Work {
            begun,
            ..Work::new(listing, base_listing, onto)
        };
        let plan = self.plan(&work, purpose, inodes)?;
        let plan_time = start.elapsed();

        let (began, start) = (self.now()?, Instant::now());
        if let Purpose::Release = purpose {
            let journal = Journal::Build {
                rev: installed.rev.clone(),
            };
            record::replace(&self.own, JOURNAL, &journal)?;
            self.hit(Failpoints::AFTER_JOURNAL)?;
        }
        let staging = self
            .own
            .make_dir(STAGING, DIRECTORY_MODE)
            .doing(|| format!("make the directory of `{}`", installed.rev))?;
        let removed = match begun {
            Some(_) => 0,
            None => remove_old(&staging, work.changes(), inodes)?,
        };
        let reuse = match (&base, work.base()) {
            (Some((_, tree)), Some(entries)) => Some(Base::new(tree, entries)),
            _ => None,
        };
        let chunks = Chunks::new(source);
        let mut build = Build::new(&staging, reuse, &plan, purpose, chunks, inodes, began)?;
        let (mut until, mut has_copied) = (None, false);
        let mut made = 0;
        for (done, entry) in (0..).zip(work.made()) {
            let entry = entry?;
            match purpose {
                Purpose::Release if done == plan.entries / 2 => self.hit(Failpoints::MID_WRITE)?,
                Purpose::Ahead(_) if done == plan.entries / 2 => self.hit(Failpoints::MID_AHEAD)?,
                Purpose::Spare(_) if done == plan.entries / 2 => self.hit(Failpoints::MID_SPARE)?,
                _ => {}
            }
            let is_stopped = purpose.is_stopped();
            let is_made = match is_stopped {
                true => Ok(false),
                false => build.push(&entry),
            };
            match is_made {
                Ok(true) => made += 1,
                Ok(false) => {
                    has_copied = !is_stopped;
                    until = Some(entry.path);
                    break;
                }
                Err(error) if purpose.ends_with(&error) => {
                    build.take_back(&entry)?;
                    until = Some(entry.path);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        let (mut built, contents) = build.finish();
        built.entries_touched = made + removed;
        if let Some(begun) = begun {
            built.join(begun.built.clone());
        }
        Ok(Written {
            built,
            contents,
            until,
            has_copied,
            plan_time,
            write_time: start.elapsed(),
        })
    }

    /// Plans the writing, and refuses what does not fit.
    fn plan(
        &self,
        work: &Work<'_>,
        purpose: Purpose<'_>,
        inodes: &mut Inodes,
    ) -> Result<Plan, ActivateError> {
        let room = self.room()?;
        let plan = plan(work.made(), || Ok(work.base()), room.block_bytes)?;
        match purpose {
            Purpose::Spare(_) | Purpose::Ahead(_) => {
                let files = room.files.map(|files| files / SPARE_SHARE);
                plan.check_room(room.bytes / SPARE_SHARE, files)?;
            }
            Purpose::Release => {
                if plan.check_room(room.bytes, room.files).is_err() {
                    if let Err(error) = self.empty_trash(inodes) {
                        // What could be removed is, and may be enough.
                        let error = crate::error_chain(&error);
                        tracing::warn!(repo = %self.repo, error, "something in the trash stays");
                    }
                    let room = self.room()?;
                    plan.check_room(room.bytes, room.files)?;
                }
            }
        }
        Ok(plan)
    }

    fn room(&self) -> Result<Room, ActivateError> {
        let status = rustix::fs::fstatvfs(&self.root).map_err(io::Error::from);
        let status = status.doing(|| "read how much room the file system has".to_owned())?;
        Ok(Room {
            block_bytes: status.f_frsize.max(1),
            bytes: status.f_bavail.saturating_mul(status.f_frsize),
            // File systems that make inodes as they need them say that they have none at all.
            files: (status.f_files > 0).then_some(status.f_favail),
        })
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
                && self
                    .entries
                    .open(&installed, source)
                    .is_ok_and(|base| base.is_whole())
            {
                return Ok(Some((installed, tree)));
            }
        }
        Ok(None)
    }
}

/// A spare takes at most one part in this many of the room there is: it only makes the next deployment faster. So does a tree that is
/// written ahead, as its chunks still come and take as much at most.
const SPARE_SHARE: u64 = 2;

/// Most that is copied for a spare, where files can share neither names nor blocks (because they have another owner, say),
/// or are not what they should be: what is quickly written, and nothing to a disk that holds the tree twice.
const SPARE_COPIED_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What the file system has left for this user.
struct Room {
    block_bytes: u64,
    bytes: u64,
    /// Where it counts them.
    files: Option<u64>,
}

/// From what is in the staging folder to the tree of `listing`.
struct Work<'a> {
    listing: Listing<'a>,
    base: Option<Listing<'a>>,
    onto: Option<&'a Spare>,
    begun: Option<&'a Begun>,
    /// Pages of the base and of the listing in which they may differ.
    is_read: [Vec<bool>; 2],
}

impl<'a> Work<'a> {
    fn new(listing: Listing<'a>, base: Option<Listing<'a>>, onto: Option<&'a Spare>) -> Self {
        let is_read = match (&base, onto) {
            (Some(base), Some(Spare { until: None, .. })) => {
                pages_to_read(base.pages(), listing.pages())
            }
            (Some(base), _) => [base, &listing].map(|all| vec![true; all.pages().len()]),
            (None, _) => [Vec::new(), vec![true; listing.pages().len()]],
        };
        Self {
            listing,
            base,
            onto,
            begun: None,
            is_read,
        }
    }

    /// What is to be done to what is there.
    fn changes(&self) -> Box<dyn Iterator<Item = Result<Change, ActivateError>> + '_> {
        let [old_pages, new_pages] = self.is_read.clone();
        let new = self.listing.entries_of(new_pages);
        let Some((spare, base)) = self.onto.zip(self.base.as_ref()) else {
            return Box::new(changes(iter::empty(), new));
        };
        let is_there = |entry: &Result<Entry, _>| match (entry, &spare.until) {
            (Ok(entry), Some(until)) => entry.path < *until,
            _ => true,
        };
        Box::new(changes(
            base.entries_of(old_pages).take_while(is_there),
            new,
        ))
    }

    /// The entries to be made that are not there yet.
    fn made(&self) -> EntryStream<'_> {
        let from = match self.begun {
            Some(begun) => match &begun.until {
                Some(until) => Some(until),
                None => return Box::new(iter::empty()),
            },
            None => None,
        };
        let is_missing = move |entry: &Result<Entry, _>| match (entry, from) {
            (Ok(entry), Some(from)) => entry.path >= *from,
            _ => true,
        };
        let new = |change: Result<Change, _>| change.map(Change::into_new).transpose();
        Box::new(self.changes().filter_map(new).filter(is_missing))
    }

    /// The entries to take unchanged files from: of a whole spare's release those that are to go from the spare.
    fn base(&self) -> Option<EntryStream<'_>> {
        let base = self.base.as_ref()?;
        if self.onto.is_some_and(|spare| spare.until.is_none()) {
            let old = |change: Result<Change, _>| change.map(Change::into_old).transpose();
            return Some(Box::new(self.changes().filter_map(old)));
        }
        Some(Box::new(base.entries()))
    }
}
