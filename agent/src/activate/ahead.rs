//! Ahead: a release's tree is written while its chunks still come, so that little is left to do once the last is here.
//!
//! It is what is written for a release in any case, by the same code and only earlier: onto the spare, where there is one.
//! What there is of it is kept between two times of writing in a folder that only this process uses, and nothing leads into it.
//! A record says of which release it is and how far it goes. As a spare's, the record goes before the tree is touched and counts
//! only in the run of the kernel that it was made in: whatever a crash leaves without a record is removed.

use scap_proto::content::RelPath;
use serde::{Deserialize, Serialize};

use super::{
    ChunkSource, Target,
    build::Built,
    deployment::{Deployment, STAGING},
    error::{ActivateError, Doing},
    failpoint::Failpoints,
    record::{self, Installed, Record},
    spare::{Spare, boot},
    write::{Purpose, Writing},
};

/// The record of a tree that is written ahead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Begun {
    /// The release that it is to be of.
    pub(super) of: Installed,
    /// The spare that it was written onto, which has given what is no longer to be there.
    pub(super) onto: Option<Spare>,
    /// This entry and those behind it are still to be made; none where the tree is whole.
    pub(super) until: Option<RelPath>,
    /// What was made so far.
    pub(super) built: Built,
    /// The kernel's name for its own run.
    boot: String,
}

impl Record for Begun {
    const MAGIC: &'static [u8] = b"scap-ahead/1\n";
}

/// What [`Deployment::write_ahead`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// The tree is whole, or the release's directory was there.
    Whole,
    /// A chunk is not there, or something else is to be done. The next time goes on from here.
    Stopped,
}

const AHEAD: &[u8] = b"ahead";
const AHEAD_OF: &str = "ahead-of";

impl Deployment {
    /// Writes as much of the tree of `target` as `coming` has the chunks of, for [`Self::prepare`] to go on with. What
    /// releases of before had is in `there`, if anywhere. It ends early once `is_awaited` says that something else is to be done.
    ///
    /// # Errors
    /// Where there is not twice the room that the tree takes, or the disk is full or fails: what was written is removed then, and
    /// [`Self::prepare`] finds out itself.
    pub fn write_ahead(
        &mut self,
        target: &Target,
        coming: &dyn ChunkSource,
        there: &dyn ChunkSource,
        is_awaited: &dyn Fn() -> bool,
    ) -> Result<Ahead, ActivateError> {
        self.settle()?;
        let (installed, is_there) = self.place(target)?;
        let Some(boot) = boot().filter(|_| !is_there) else {
            return Ok(Ahead::Whole);
        };
        // Before anything is taken that would be lost if they did not come.
        match self.entries.open(&installed, coming) {
            Ok(listing) => match listing.complete() {
                Err(ActivateError::Source(_)) => return Ok(Ahead::Stopped),
                completed => completed?,
            },
            Err(ActivateError::Source(_)) => return Ok(Ahead::Stopped),
            Err(error) => return Err(error),
        }
        let begun = self.take_ahead(&installed)?;
        let onto = match &begun {
            Some(begun) => begun.onto.clone(),
            None => self.take_spare()?,
        };
        let mut inodes = self.load_inodes()?;
        let written = self.write(Writing {
            installed: &installed,
            onto: onto.as_ref(),
            begun: begun.as_ref(),
            purpose: Purpose::Ahead(is_awaited),
            source: coming,
            there,
            inodes: &mut inodes,
        });
        let saved = written.and_then(|written| {
            // The rows are of a time when nobody else could reach the files.
            std::thread::sleep(inodes.settles_in(self.now()?));
            self.save_inodes(&mut inodes)?;
            Ok(written)
        });
        let written = match saved {
            Ok(written) => written,
            Err(error) => {
                self.drop_staging()?;
                return Err(error);
            }
        };
        let made = match written.until {
            Some(_) => Ahead::Stopped,
            None => Ahead::Whole,
        };
        let begun = Begun {
            of: installed,
            onto,
            until: written.until,
            built: written.built,
            boot,
        };
        self.own
            .rename(STAGING, &self.own, AHEAD)
            .doing(|| "keep what was written ahead".to_owned())?;
        self.hit(Failpoints::AHEAD_MADE)?;
        record::note(&self.own, AHEAD_OF, &begun)?;
        Ok(made)
    }

    /// Moves what was written ahead of a release to the staging folder, where there is something; what is of another release
    /// is removed.
    pub(super) fn take_ahead(&self, of: &Installed) -> Result<Option<Begun>, ActivateError> {
        let Some(begun) = self.begun()? else {
            return Ok(None);
        };
        if begun.of != *of {
            self.drop_ahead()?;
            return Ok(None);
        }
        let take = || {
            self.own.unlink(AHEAD_OF.as_bytes())?;
            self.own.rename(AHEAD, &self.own, STAGING)
        };
        take().doing(|| "take what was written ahead".to_owned())?;
        Ok(Some(begun))
    }

    /// Removes what was written ahead.
    pub(super) fn drop_ahead(&self) -> Result<(), ActivateError> {
        let remove = || {
            // Whatever is in the record's place.
            self.trash.take(&self.own, AHEAD_OF.as_bytes())?;
            self.trash.take(&self.own, AHEAD)
        };
        remove().doing(|| "remove what was written ahead".to_owned())
    }

    /// Removes what is in the place of a tree written ahead and is none that can be gone on with.
    pub(super) fn check_ahead(&self) -> Result<(), ActivateError> {
        match self.begun()? {
            Some(_) => Ok(()),
            None => self.drop_ahead(),
        }
    }

    /// What was written ahead, where it can be used: since the kernel started, and onto what is still kept.
    pub(super) fn begun(&self) -> Result<Option<Begun>, ActivateError> {
        let found = record::hint::<Begun>(&self.own, AHEAD_OF);
        let Some(begun) = found.filter(|begun| Some(&begun.boot) == boot().as_ref()) else {
            return Ok(None);
        };
        if let Some(onto) = &begun.onto {
            let kept = self.installed(&onto.of.rev)?;
            if kept.is_none_or(|kept| kept.snapshot != onto.of.snapshot) {
                return Ok(None);
            }
        }
        Ok(self.own.dir(AHEAD).is_ok().then_some(begun))
    }
}
