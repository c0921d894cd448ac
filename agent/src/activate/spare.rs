//! The spare: a clone of the live tree, made of further names of its files while nobody waits. The next release is
//! made of it by what is different, so a deployment costs what changed and not what there is.
//!
//! It is in a folder that only this process uses, and nothing leads into it. A record says of which release it is. The
//! record goes before the spare is touched, and counts only in the run of the kernel that it was made in: so whatever
//! a crash or a power cut leaves without a record is removed, and a spare need not be made durable. Without one the
//! whole tree is written.

use scap_proto::content::RelPath;
use serde::{Deserialize, Serialize};

use super::{
    ChunkSource,
    deployment::{Deployment, STAGING},
    dir::DIRECTORY_MODE,
    error::{ActivateError, Doing},
    failpoint::Failpoints,
    inodes::Inodes,
    proof::{Contents, contents_of},
    record::{self, Installed, Record},
    write::{Purpose, Writing},
};

/// The record of a spare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spare {
    /// The release that it is a clone of.
    pub(super) of: Installed,
    /// Where its making was stopped: this entry and those behind it are missing.
    pub(super) until: Option<RelPath>,
    /// Whether no more of it is to be made.
    is_over: bool,
    /// Its files.
    contents: Contents,
    /// The kernel's name for its own run.
    boot: String,
}

impl Record for Spare {
    const MAGIC: &'static [u8] = b"scap-spare/2\n";
}

/// What [`Deployment::upkeep`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upkeep {
    /// All is done.
    Done,
    /// Something else waited to be done.
    Stopped,
}

const SPARE: &[u8] = b"spare";
const SPARE_OF: &str = "spare-of";

impl Deployment {
    /// Does what is better done while nobody waits for it: makes a spare of what is live and finalized, and removes the
    /// directories that are no longer kept. It ends early, and goes on the next time, once `is_awaited` says that
    /// something else is to be done.
    ///
    /// # Errors
    /// Where the disk is full or fails. What is live stays, and so does all that is recorded.
    pub fn upkeep(
        &mut self,
        source: &dyn ChunkSource,
        is_awaited: &dyn Fn() -> bool,
    ) -> Result<Upkeep, ActivateError> {
        self.settle()?;
        // First, so that the room is there when the next release is admitted.
        let emptied = self.take_out_trash(is_awaited);
        if let Ok(Upkeep::Stopped) = emptied {
            return emptied;
        }
        let spare = self.make_spare(source, is_awaited);
        if let Ok(Upkeep::Stopped) = spare {
            return spare;
        }
        // A spare of what is no longer live is there by now.
        let emptied = emptied.and_then(|_| self.take_out_trash(is_awaited));
        spare.and(emptied)
    }

    fn make_spare(
        &self,
        source: &dyn ChunkSource,
        is_awaited: &dyn Fn() -> bool,
    ) -> Result<Upkeep, ActivateError> {
        let state = &self.state;
        let finalized = state.live.as_ref().filter(|live| {
            let is_done = state.done.as_ref().is_some_and(|done| done.rev == live.rev);
            is_done && state.in_progress.is_none()
        });
        let (Some(live), Some(boot)) = (finalized, boot()) else {
            return Ok(Upkeep::Done);
        };
        let there = self.spare()?;
        let is_of_live =
            |spare: &Spare| (&spare.of.rev, &spare.of.snapshot) == (&live.rev, &live.snapshot);
        if there
            .as_ref()
            .is_some_and(|there| is_of_live(there) && there.is_over)
        {
            return Ok(Upkeep::Done);
        }
        if is_awaited() {
            return Ok(Upkeep::Stopped);
        }
        let begun = self.take_spare()?;
        let begun = match begun {
            Some(begun) if is_of_live(&begun) => Some(begun),
            Some(_) => {
                self.drop_staging()?;
                None
            }
            None => None,
        };
        let mut inodes = self.load_inodes()?;
        let written = self.write(Writing {
            installed: live,
            onto: begun.as_ref(),
            begun: None,
            purpose: Purpose::Spare(is_awaited),
            source,
            there: source,
            inodes: &mut inodes,
        });
        let saved = written.and_then(|written| {
            if written.built.files_written + written.built.files_cloned > 0 {
                // Or nobody would hear of it if they could not be written out: the next release's sync is too late for them.
                self.sync()?;
            }
            self.save_inodes(&mut inodes)?;
            Ok(written)
        });
        let written = match saved {
            Ok(written) => written,
            Err(error) => {
                self.drop_staging()?;
                // What was written of it goes first: the records need room. None of this may hide why there is no spare.
                let emptied = self.trash.empty(&mut inodes, is_awaited);
                let emptied = emptied.doing(|| "remove what was made of a spare".to_owned());
                let saved = self.save_inodes(&mut inodes);
                let noted = match error.is_no_space() {
                    true => self.note_no_room(live, boot, source),
                    false => Ok(()),
                };
                for error in [emptied.err(), saved.err(), noted.err()].iter().flatten() {
                    let error = crate::error_chain(error);
                    tracing::debug!(repo = %self.repo, error, "after a spare that was not made");
                }
                return Err(error);
            }
        };
        let built = &written.built;
        if let Some(first) = built.damaged.first() {
            tracing::info!(
                repo = %self.repo, files = built.files_damaged, %first,
                "live files are not what their release says"
            );
        }
        let mut contents = begun.map_or_else(Contents::default, |begun| begun.contents);
        contents.join(written.contents);
        let spare = Spare {
            of: live.clone(),
            is_over: written.until.is_none() || written.has_copied,
            contents,
            until: written.until,
            boot,
        };
        self.own
            .rename(STAGING, &self.own, SPARE)
            .doing(|| "put the spare in its place".to_owned())?;
        self.hit(Failpoints::SPARE_MADE)?;
        record::note(&self.own, SPARE_OF, &spare)?;
        Ok(match spare.is_over {
            true => Upkeep::Done,
            false => Upkeep::Stopped,
        })
    }

    /// Puts a spare in place that has nothing yet and is not gone on with, so that a disk without room for one is not
    /// filled again by each request until something else is live.
    fn note_no_room(
        &self,
        live: &Installed,
        boot: String,
        source: &dyn ChunkSource,
    ) -> Result<(), ActivateError> {
        let listing = self.entries.open(live, source)?;
        let Some(first) = listing.entries().next().transpose()? else {
            return Ok(());
        };
        self.own
            .make_dir(SPARE, DIRECTORY_MODE)
            .doing(|| "put the spare in its place".to_owned())?;
        let spare = Spare {
            of: live.clone(),
            until: Some(first.path),
            is_over: true,
            contents: Contents::default(),
            boot,
        };
        record::note(&self.own, SPARE_OF, &spare)
    }

    /// Moves the spare to the staging folder, where there is one that can be used. What it had is to be known from what
    /// is returned alone.
    pub(super) fn take_spare(&self) -> Result<Option<Spare>, ActivateError> {
        let Some(spare) = self.spare()? else {
            return Ok(None);
        };
        let take = || {
            self.own.unlink(SPARE_OF.as_bytes())?;
            self.own.rename(SPARE, &self.own, STAGING)
        };
        take().doing(|| "take the spare".to_owned())?;
        self.hit(Failpoints::SPARE_TAKEN)?;
        Ok(Some(spare))
    }

    /// Whether every file of a spare in the staging folder is what it was, whoever could write to it. It is not where
    /// that cannot be found out.
    pub(super) fn is_proved(&self, spare: &Spare, inodes: &Inodes) -> bool {
        let contents = self.own.dir(STAGING);
        let contents = contents.and_then(|tree| contents_of(&tree, inodes));
        spare.until.is_none() && contents.is_ok_and(|found| found == Some(spare.contents))
    }

    /// Removes what is in the place of a spare and is none that can be used.
    pub(super) fn check_spare(&self) -> Result<(), ActivateError> {
        if self.spare()?.is_none() {
            let remove = || {
                // Whatever is in the record's place.
                self.trash.take(&self.own, SPARE_OF.as_bytes())?;
                self.trash.take(&self.own, SPARE)
            };
            remove().doing(|| "remove the spare".to_owned())?;
        }
        Ok(())
    }

    /// The spare, where it can be used: it was made since the kernel started, and its release is still kept.
    fn spare(&self) -> Result<Option<Spare>, ActivateError> {
        let found = record::hint::<Spare>(&self.own, SPARE_OF);
        let Some(spare) = found.filter(|spare| Some(&spare.boot) == boot().as_ref()) else {
            return Ok(None);
        };
        let kept = self.installed(&spare.of.rev)?;
        let is_kept = kept.is_some_and(|kept| kept.snapshot == spare.of.snapshot);
        Ok((is_kept && self.own.dir(SPARE).is_ok()).then_some(spare))
    }

    /// Moves what is in the staging folder out of the way.
    pub(super) fn drop_staging(&self) -> Result<(), ActivateError> {
        self.trash
            .take(&self.own, STAGING)
            .doing(|| "remove a tree that is not complete".to_owned())
    }

    fn take_out_trash(&self, is_awaited: &dyn Fn() -> bool) -> Result<Upkeep, ActivateError> {
        let doing = || "remove release directories that are no longer kept".to_owned();
        if self.trash.is_empty().doing(doing)? {
            return Ok(Upkeep::Done);
        }
        let mut inodes = self.load_inodes()?;
        let emptied = self.trash.empty(&mut inodes, is_awaited).doing(doing);
        self.save_inodes(&mut inodes)?;
        emptied
    }
}

/// The kernel's name for its own run, where it has one: what was written since it started is there, synced or not.
pub(super) fn boot() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}
