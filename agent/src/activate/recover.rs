//! What comes after a crash, and after each switch: finish what was done, undo what was not, and let the
//! links follow the record.

use std::collections::BTreeSet;

use super::{
    deployment::{Deployment, JOURNAL, LIVE},
    error::{ActivateError, Doing},
    record::{self, Found, Installed, Journal, Rev, State, TEMPORARY_SUFFIX},
};

impl Deployment {
    /// Reads what is recorded. A record that is damaged is made again from what the links say.
    pub(super) fn load(&mut self) -> Result<(), ActivateError> {
        self.state = match record::read(&self.own, LIVE)? {
            Found::Record(state) => state,
            Found::Nothing => State::default(),
            Found::Damaged => {
                let live = self.linked(self.final_link()?)?;
                let done = self.cache.link_target(DONE);
                let done = done.doing(|| "read the link `.done`".to_owned())?;
                let state = State {
                    live,
                    done: self.linked(done)?,
                    ..State::default()
                };
                tracing::warn!(repo = %self.repo, "the record of what is live is damaged: made again from the links");
                record::replace(&self.own, LIVE, &state)?;
                state
            }
        };
        Ok(())
    }

    /// The release whose directory a link leads to.
    fn linked(&self, link: Option<Vec<u8>>) -> Result<Option<Installed>, ActivateError> {
        let Some(link) = link else {
            return Ok(None);
        };
        let releases = self.releases()?;
        let suffix = |installed: &Installed| format!("revs/{}", installed.rev).into_bytes();
        Ok(releases
            .into_iter()
            .find(|installed| link.ends_with(&suffix(installed))))
    }

    /// Does what an interrupted call left, where one did.
    pub(super) fn settle(&mut self) -> Result<(), ActivateError> {
        match record::read::<Journal>(&self.own, JOURNAL)? {
            Found::Nothing => Ok(()),
            Found::Record(_) | Found::Damaged => self.recover(),
        }
    }

    /// Finishes or undoes what the journal says, removes what was left over, and rewrites the links. It can
    /// be interrupted and done again at any point.
    pub(super) fn recover(&mut self) -> Result<(), ActivateError> {
        let left = crate::host::end_what_was_left(&self.running_path());
        let left = left.doing(|| "end what an interrupted stage left running".to_owned())?;
        if left > 0 {
            tracing::warn!(repo = %self.repo, left, "what an interrupted stage left running was killed");
        }
        match record::read(&self.own, JOURNAL)? {
            // A tree that is not complete is in the staging folder, or has no record: a leftover.
            Found::Record(Journal::Build { .. }) | Found::Nothing => {}
            Found::Record(Journal::Flip { next, through }) => self.settle_flip(*next, through)?,
            Found::Damaged => {
                // Either nothing was switched, or the final path leads to a release of ours by now.
                let link = self.final_link()?;
                if let Some(live) = self.linked(link)?
                    && self.state.live.as_ref().map(|live| &live.rev) != Some(&live.rev)
                {
                    self.save(self.state.promoted(live))?;
                }
            }
        }
        self.remove_leftovers()?;
        self.follow();
        self.clear_journal()
    }

    /// Records a switch that was made, undoes one that was not, and makes either durable.
    pub(super) fn settle_flip(
        &mut self,
        next: State,
        through: Option<String>,
    ) -> Result<(), ActivateError> {
        let link = self.final_link()?;
        let target = |state: &State| state.live.as_ref().map(|live| self.link_to(&live.rev));
        let is_switched = match target(&next) {
            Some(target) => link.as_ref() == Some(&target),
            None => !self.is_ours(link.as_deref())?,
        };
        // The name through which an exchange goes holds our link before it or after it, to be removed, or
        // what is not ours, to be kept.
        if let Some(through) = through {
            let remove = || match self.parent.link_target(through.as_bytes())? {
                Some(link) if Some(&link) == target(&next).as_ref() => {
                    self.parent.unlink(through.as_bytes())
                }
                Some(link)
                    if next.live.is_none() && Some(&link) == target(&self.state).as_ref() =>
                {
                    self.parent.unlink(through.as_bytes())
                }
                _ => Ok(()),
            };
            remove().doing(|| format!("remove the link `{through}`"))?;
        }
        self.parent
            .sync()
            .doing(|| format!("make the switch of `{}` durable", self.repo))?;
        if is_switched { self.save(next) } else { Ok(()) }
    }

    /// Removes trees that were not completed, and records without a tree.
    fn remove_leftovers(&self) -> Result<(), ActivateError> {
        let doing = || "remove what an interrupted activation left".to_owned();
        self.drop_staging()?;
        self.check_spare()?;
        self.check_ahead()?;
        let state = &self.state;
        for known in state.live.iter().chain(&state.history).chain(&state.done) {
            // What is damaged is known from elsewhere; a tree is checked before it goes live again.
            let name = known.rev.as_str();
            if record::read::<Installed>(&self.releases, name)? == Found::Damaged {
                record::replace(&self.releases, name, known)?;
            }
        }
        let kept = self.releases()?;
        let revs: BTreeSet<&[u8]> = kept.iter().map(|kept| kept.rev.as_bytes()).collect();
        for name in self.releases.names().doing(doing)? {
            if !revs.contains(&*name) {
                self.releases.unlink(&name).doing(doing)?;
            }
        }
        let mut listed = kept.clone();
        listed.extend(self.begun()?.map(|begun| begun.of));
        if self.entries.has_others(&listed).doing(doing)? {
            self.collect_entries(&listed)?;
        }
        self.collect_asked(&kept)?;
        for name in self.own.names().doing(doing)? {
            if name.ends_with(TEMPORARY_SUFFIX.as_bytes()) {
                self.own.unlink(&name).doing(doing)?;
            }
        }
        Ok(())
    }

    /// Records a state and lets the links follow.
    pub(super) fn record(&mut self, next: State) -> Result<(), ActivateError> {
        if next != self.state {
            self.save(next)?;
            self.follow();
        }
        Ok(())
    }

    fn save(&mut self, next: State) -> Result<(), ActivateError> {
        record::replace(&self.own, LIVE, &next)?;
        self.state = next;
        Ok(())
    }

    pub(super) fn clear_journal(&self) -> Result<(), ActivateError> {
        self.own
            .unlink(JOURNAL.as_bytes())
            .doing(|| "clear the journal".to_owned())
    }

    /// Rewrites the links beside the releases. They are for people and for scap3's tools: one that cannot be
    /// written stops nothing.
    pub(super) fn follow(&self) {
        let state = &self.state;
        let live = state.live.as_ref().map(|live| &live.rev);
        let done = state.done.as_ref().map(|done| &done.rev);
        let links = [
            (CURRENT, live),
            (DONE, done),
            (IN_PROGRESS, state.in_progress.as_ref()),
        ];
        for (name, rev) in links {
            if let Err(error) = self.write_link(name, rev) {
                let name = String::from_utf8_lossy(name);
                tracing::warn!(repo = %self.repo, %name, %error, "a link beside the releases is out of date");
            }
        }
    }

    fn write_link(&self, name: &[u8], rev: Option<&Rev>) -> Result<(), ActivateError> {
        let doing = || "rewrite it".to_owned();
        let there = self.cache.link_target(name).doing(doing)?;
        let target = rev.map(|rev| format!("revs/{rev}").into_bytes());
        if there == target {
            return Ok(());
        }
        let write = || match target {
            Some(target) => {
                self.own.unlink(LINK)?;
                self.own.symlink(&target, LINK)?;
                self.own.rename(LINK, &self.cache, name)
            }
            None => self.cache.unlink(name),
        };
        // A link to what is not ours is another tool's, until ours takes its place.
        if rev.is_some() || self.linked(there)?.is_some() {
            write().doing(doing)?;
        }
        Ok(())
    }
}

const CURRENT: &[u8] = b"current";
const DONE: &[u8] = b".done";
const IN_PROGRESS: &[u8] = b".in-progress";
const LINK: &[u8] = b"follow.tmp";
