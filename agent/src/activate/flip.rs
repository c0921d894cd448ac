//! The switch: a tree is checked, and one rename makes it live.

use std::{
    io,
    time::{Duration, Instant},
};

use rustix::fs::Stat;
use scap_proto::{
    content::{Entry, FileContent, Node},
    id::ReleaseId,
};

use super::{
    ChunkSource,
    asked::Asked,
    build::{is_hashed_to, write_node},
    chunks::Chunks,
    compare::{Difference, Judge, What, compare},
    deployment::{Deployment, JOURNAL},
    dir::{Cursor, Dir, split},
    error::{ActivateError, Doing},
    failpoint::Failpoints,
    inodes::Inodes,
    record::{self, Installed, Journal, State},
    trash::Trash,
};

/// What switching to a release took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flipped {
    /// Whether the final path led there already.
    pub already_live: bool,
    /// Files, links and directories of the tree that were not what the snapshot says, and are again.
    pub repaired: u64,
    /// Checking the tree, repairs included.
    pub check_time: Duration,
    /// The switch and its record.
    pub flip_time: Duration,
}

impl Deployment {
    /// Makes a prepared release live: checks its tree, writes anew what is damaged, and switches. Where it
    /// is live already the tree is checked all the same.
    ///
    /// # Errors
    /// Where the release is not prepared, damage cannot be repaired, or the disk fails. What was live is
    /// live, unless it was the record after the switch that failed: then the next call finishes it.
    pub fn flip(
        &mut self,
        release: &ReleaseId,
        source: &dyn ChunkSource,
    ) -> Result<Flipped, ActivateError> {
        self.settle()?;
        let releases = self.releases()?;
        let installed = releases.into_iter().find(|there| there.release == *release);
        let installed = installed.ok_or(ActivateError::NotPrepared(*release))?;
        let next = self.state.promoted(installed);
        self.check_and_switch(next, source)
    }

    /// Goes back to `to`, which was live before on this host or is still kept, or to what was at the final
    /// path before the first release: nothing, or what that took the place of. All that came after is
    /// forgotten, so going back again goes further back. Going back to what is live does nothing.
    ///
    /// # Errors
    /// As [`Self::flip`], and where something that is not ours stands in the final path's place.
    pub fn revert(
        &mut self,
        to: Option<&ReleaseId>,
        source: &dyn ChunkSource,
    ) -> Result<Flipped, ActivateError> {
        self.settle()?;
        let target = to.map(|release| self.past(release)).transpose()?;
        let next = if target.is_some() && target == self.state.live {
            self.state.clone()
        } else {
            self.state.reverted(target)
        };
        self.check_and_switch(next, source)
    }

    fn past(&self, release: &ReleaseId) -> Result<Installed, ActivateError> {
        let state = &self.state;
        let mut known: Vec<Installed> = state.live.iter().cloned().collect();
        known.extend(state.history.iter().rev().cloned());
        known.extend(self.releases()?);
        let past = known.into_iter().find(|past| past.release == *release);
        let past = past.ok_or(ActivateError::NotPrepared(*release))?;
        let there = self.installed(&past.rev)?;
        match there.is_some_and(|there| there.snapshot == past.snapshot) {
            true => Ok(past),
            false => Err(ActivateError::NotPrepared(*release)),
        }
    }

    fn check_and_switch(
        &mut self,
        next: State,
        source: &dyn ChunkSource,
    ) -> Result<Flipped, ActivateError> {
        let start = Instant::now();
        let repaired = match &next.live {
            Some(installed) => self.check(installed, source)?,
            None => 0,
        };
        let check_time = start.elapsed();
        let start = Instant::now();
        let already_live = self.switch(next)?;
        Ok(Flipped {
            already_live,
            repaired,
            check_time,
            flip_time: start.elapsed(),
        })
    }

    /// Checks a tree against its entries: by the rows of its inodes, and by reading what has no row that
    /// fits. What is not right is made anew. Returns how many things that were.
    ///
    /// Names that are not in the snapshot stay: services leave files where they run. A tree that was made of a spare and
    /// checked with it a moment ago is not checked again.
    fn check(&self, installed: &Installed, source: &dyn ChunkSource) -> Result<u64, ActivateError> {
        if self.was_checked(installed) {
            return Ok(0);
        }
        let tree = self.tree(installed)?;
        let listing = self.entries.open(installed, source)?;
        let mut inodes = self.load_inodes()?;
        let asked = self.asked(&installed.rev)?;
        let mut repairer = Repairer {
            asked: &asked,
            began: self.now()?,
            inodes: &mut inodes,
            chunks: Chunks::new(source),
            cursor: Cursor::making(&tree),
            tree: &tree,
            own: &self.own,
            trash: &self.trash,
            repaired: 0,
        };
        let compared = compare(&tree, listing.entries(), &mut repairer);
        let repaired = repairer.repaired;
        if repaired > 0 {
            // Whatever comes next may fail, and the next time nothing of this is left to be repaired.
            self.sync()?;
        }
        compared?;
        self.save_inodes(&mut inodes)?;
        Ok(repaired)
    }

    /// Makes `next` true: the final path, and the records that follow it. Returns whether the final path
    /// led there already.
    fn switch(&mut self, mut next: State) -> Result<bool, ActivateError> {
        let repo = self.repo.clone();
        let doing = || format!("switch `{repo}`");
        let name = self.final_name().to_vec();
        let link = self.final_link()?;
        let to = next.live.as_ref().map(|live| self.link_to(&live.rev));
        let there = self.parent.stat(&name).doing(doing)?.is_some();
        if link == to && there == to.is_some() {
            next.aside = next.aside.filter(|_| next.live.is_some());
            self.record(next)?;
            return Ok(true);
        }
        let is_ours = self.is_ours(link.as_deref())?;
        let through = match &to {
            Some(_) if there && !is_ours => {
                // What is here is not ours to remove: it changes places with the new link.
                let aside = self.free_aside()?;
                if self.state.live.is_none() {
                    next.aside = Some(aside.clone());
                }
                Some(aside)
            }
            Some(_) => None,
            None if !is_ours => return Err(ActivateError::Foreign(self.repo.clone())),
            None => match next.aside.take() {
                Some(aside) => {
                    let kept = self.parent.stat(aside.as_bytes()).doing(doing)?;
                    kept.map(|_| aside)
                }
                None => None,
            },
        };
        let journal = Journal::Flip {
            next: Box::new(next.clone()),
            through: through.clone(),
        };
        record::replace(&self.own, JOURNAL, &journal)?;
        self.hit(Failpoints::BEFORE_FLIP)?;
        let flip = || match (&to, &through) {
            (Some(to), None) => {
                self.own.unlink(LINK)?;
                self.own.symlink(to, LINK)?;
                self.own.rename(LINK, &self.parent, &name)
            }
            (Some(to), Some(aside)) => {
                self.parent.symlink(to, aside.as_bytes())?;
                self.parent.exchange(aside.as_bytes(), &name)
            }
            (None, Some(aside)) => self.parent.exchange(aside.as_bytes(), &name),
            (None, None) => self.parent.unlink(&name),
        };
        let flipped = flip().doing(doing);
        if flipped.is_ok() {
            self.hit(Failpoints::AFTER_FLIP)?;
        }
        // From here it is what comes after a crash: record what was switched, undo what was not.
        self.settle_flip(next, through)?;
        self.follow();
        self.clear_journal()?;
        flipped.map(|()| false)
    }

    /// Whether the final path, with this link's target if it is a link, leads to a release of ours.
    pub(super) fn is_ours(&self, link: Option<&[u8]>) -> Result<bool, ActivateError> {
        let Some(link) = link else {
            return Ok(false);
        };
        let state = &self.state;
        let known = state.live.iter().chain(&state.history).cloned();
        let mut ours = known.chain(self.releases()?);
        Ok(ours.any(|installed| self.link_to(&installed.rev) == link))
    }

    /// A name beside the final path for what it took the place of.
    fn free_aside(&self) -> Result<String, ActivateError> {
        let mut number = 1;
        loop {
            let name = format!("{}.replaced-{number}", self.repo.name());
            let there = self.parent.stat(name.as_bytes());
            if there.doing(|| format!("look for `{name}`"))?.is_none() {
                return Ok(name);
            }
            number += 1;
        }
    }
}

/// The link that is to replace the final path, before it does.
const LINK: &[u8] = b"link.tmp";

/// A file or link that is to replace a damaged one, before it does.
const REPAIR: &[u8] = b"repair.tmp";

/// Trusts the rows of inodes, reads what has none, and makes anew what is not right.
struct Repairer<'a> {
    asked: &'a Asked,
    inodes: &'a mut Inodes,
    /// The file system's time when this began.
    began: i128,
    chunks: Chunks<'a>,
    tree: &'a Dir,
    cursor: Cursor<'a>,
    own: &'a Dir,
    trash: &'a Trash,
    repaired: u64,
}

impl Judge for Repairer<'_> {
    const SEEKS_EXTRA: bool = false;

    fn has_content(
        &mut self,
        dir: &Dir,
        name: &[u8],
        stat: &Stat,
        content: &FileContent,
    ) -> io::Result<bool> {
        Ok(self.inodes.proves(stat, &content.hash)
            || is_hashed_to(dir, name, stat, &content.hash, self.inodes, self.began)?)
    }

    fn differs(
        &mut self,
        difference: Difference,
        entry: Option<&Entry>,
    ) -> Result<(), ActivateError> {
        // It takes the place of what the snapshot has.
        if self.asked.explains(&difference) {
            return Ok(());
        }
        tracing::warn!(%difference, "repair a release's directory");
        let doing = || format!("repair {difference}");
        self.repaired += 1;
        let path = &difference.path;
        let (parent, name) = split(path);
        if let What::Kind { .. } = difference.what {
            let dir = self.tree.dir_at(parent).doing(doing)?;
            self.trash.take(&dir, name).doing(doing)?;
        }
        match (difference.what, entry.map(|entry| &entry.node)) {
            (_, Some(Node::EmptyDirectory | Node::Gitlink(_))) => {
                self.cursor.dir(path).map(drop).doing(doing)
            }
            (_, Some(_)) => {
                self.own.unlink(REPAIR).doing(doing)?;
                let entry = entry.expect("matched above");
                // A new inode: the damaged one may have names in other releases.
                write_node(self.own, REPAIR, entry, &mut self.chunks)?;
                let dir = self.cursor.dir(parent).doing(doing)?;
                self.own.rename(REPAIR, dir, name).doing(doing)
            }
            (What::Mode { expected, .. }, None) => {
                let dir = self.tree.dir_at(path).doing(doing)?;
                dir.set_mode(expected).doing(doing)
            }
            (_, None) => Ok(()),
        }
    }
}
