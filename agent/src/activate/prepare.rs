//! From a release to its directory: planned, written, durable.

use std::time::{Duration, Instant};

use scap_proto::content::SnapshotRef;

use super::{
    ChunkSource, Target,
    ahead::Begun,
    asked::Asked,
    build::Built,
    deployment::{Deployment, STAGING},
    error::{ActivateError, Doing},
    inodes::Inodes,
    record::{self, Installed, Rev, State},
    spare::Spare,
    write::{Purpose, Writing, Written},
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
    /// Until it was known what to write.
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
        let config = target.config;
        if !already_there && let Err(error) = self.build(&mut prepared, config, source) {
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

    /// Where the release is, or is to be: under the first name that has this content and what goes with it, or that is free.
    pub(super) fn place(&self, target: &Target) -> Result<(Installed, bool), ActivateError> {
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
                Some(there)
                    if there.snapshot == target.snapshot
                        && self.asked(rev)?.config == target.config =>
                {
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
        config: Option<SnapshotRef>,
        source: &dyn ChunkSource,
    ) -> Result<(), ActivateError> {
        let installed = &prepared.installed;
        let mut inodes = self.load_inodes()?;
        self.prune(self.kept_max())?;
        // Before there is a tree that it goes with: one without it is of a release that asks nothing.
        let asked = Asked {
            config,
            ..Asked::default()
        };
        self.set_asked(&installed.rev, &asked)?;
        let (written, checked) = self.write_somehow(installed, source, &mut inodes)?;
        prepared.built = written.built;
        prepared.plan_time = written.plan_time;
        prepared.write_time = written.write_time;

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
        publish().doing(|| format!("make the directory of `{}`", installed.rev))?;
        prepared.sync_time = start.elapsed();
        if let Some(at) = checked
            && let Err(error) = self.note_checked(installed, at)
        {
            // The release is there, and the switch checks it itself.
            let error = crate::error_chain(&error);
            tracing::warn!(repo = %self.repo, error, "the check of a release is made again");
        }
        self.clear_journal()
    }

    /// Writes the rest of a release's tree where it was begun ahead, or all of it onto the spare, or the whole of it where there is none or it is of no use. Returns also
    /// since when all of it is known to be right, where it is: what the spare had, because it was looked at, and the
    /// rest, because nobody else can reach it yet.
    fn write_somehow(
        &self,
        installed: &Installed,
        source: &dyn ChunkSource,
        inodes: &mut Inodes,
    ) -> Result<(Written, Option<i128>), ActivateError> {
        let begun = self.take_ahead(installed)?;
        let write = |onto: Option<&Spare>, begun: Option<&Begun>, inodes: &mut Inodes| {
            self.write(Writing {
                installed,
                onto,
                begun,
                purpose: Purpose::Release,
                source,
                there: source,
                inodes,
            })
        };
        if let Some(begun) = begun {
            match write(begun.onto.as_ref(), Some(&begun), inodes) {
                Err(error) if !matches!(error, ActivateError::Source(_)) => {
                    let reason = crate::error_chain(&error);
                    tracing::warn!(repo = %self.repo, reason, "what was written ahead is of no use: the whole tree is written");
                    self.drop_staging()?;
                }
                // It took its time: the switch checks what was shared with other trees.
                written => return Ok((written?, None)),
            }
        }
        let spare = self.take_spare()?;
        let checked = match &spare {
            Some(spare) => {
                let at = self.now()?;
                self.is_proved(spare, inodes).then_some(at)
            }
            None => None,
        };
        if let Some(spare) = spare {
            match write(Some(&spare), None, inodes) {
                // The whole tree would take no other chunks. It may take less room: copies of files that stay are further
                // names there, and are not looked for here.
                Err(error) if !matches!(error, ActivateError::Source(_)) => {
                    let reason = crate::error_chain(&error);
                    if error.is_no_space() {
                        tracing::info!(repo = %self.repo, reason, "no room for what the spare lacks: the whole tree is written");
                    } else {
                        tracing::warn!(repo = %self.repo, reason, "the spare is of no use: the whole tree is written");
                    }
                    self.drop_staging()?;
                }
                written => return Ok((written?, checked)),
            }
        }
        Ok((write(None, None, inodes)?, None))
    }

    pub(super) fn hit(&self, failpoint: &str) -> Result<(), ActivateError> {
        self.failpoints
            .hit(failpoint, &self.own)
            .doing(|| format!("mark the failpoint {failpoint}"))
    }
}
