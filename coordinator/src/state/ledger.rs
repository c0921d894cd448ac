//! What a deployment writes to the state branch: that it locks, what it releases, how far it is, how it ends.
//!
//! Each step but the first finds the lock to be its own, or is refused. Only the first two need the upstream: hosts are told
//! nothing before these are there. What comes later gets there when it can, so nothing waits for it.

use jiff::Timestamp;
use scap_proto::{
    id::GitOid,
    reason::{Because, Reason},
    release::{Environment, RepoPath},
};

use super::{
    branch::{Branch, BranchError, Change, Updated, Upstream},
    folder::{Folder, Place, SignedObjects, Which},
    lock::{Holder, LEASE, Lock, ProcessMark},
    record::{BrokenLock, Hosts, Message, Outcome, Record, Rollout, WaveEnd},
};

/// The branch, as one deployment writes it.
#[derive(Debug)]
pub struct Ledger {
    branch: Branch,
    place: Place,
    holder: Holder,
    process: ProcessMark,
    /// Whether it takes the lock and begins without it.
    upstream: Upstream,
    /// Whose certificates count.
    fleet_trust: Option<Vec<u8>>,
}

/// What was there when the lock was taken.
#[derive(Debug)]
pub struct Found {
    /// The commit that took it.
    pub commit: GitOid,
    /// What was recorded.
    pub record: Record,
    /// What was signed of the latest rollout. By whom is another question.
    pub signed: Option<SignedObjects>,
    /// Whose certificates counted then. Who signed it is another question.
    pub fleet_trust: Option<Vec<u8>>,
    /// Whose lock was taken over, and why it was nobody's any more, or was taken all the same.
    pub taken_over: Option<String>,
    /// Why the upstream does not know of the lock, where it should.
    pub alone: Option<String>,
}

/// How a rollout ended.
#[derive(Debug, Clone)]
pub struct End {
    /// What came of it.
    pub outcome: Outcome,
    /// The code of why; none where all is well.
    pub code: Option<Reason>,
    /// What became of each host.
    pub hosts: Hosts,
    /// What was signed, with the finalization where it was finalized.
    pub signed: SignedObjects,
}

impl Ledger {
    /// The ledger of one run of the coordinator.
    pub fn new(branch: Branch, place: Place, now: Timestamp) -> Self {
        let process = ProcessMark::here();
        Self {
            branch,
            place,
            holder: Holder::here(&process, now),
            process,
            upstream: Upstream::Must,
            fleet_trust: None,
        }
    }

    /// The same, which records with each release whose certificates count.
    #[must_use]
    pub fn with_fleet_trust(self, kept: Option<Vec<u8>>) -> Self {
        Self {
            fleet_trust: kept,
            ..self
        }
    }

    /// The same run, on another opening of the branch.
    #[cfg(test)]
    pub(super) fn through(&self, branch: Branch) -> Self {
        Self {
            branch,
            place: self.place.clone(),
            holder: self.holder.clone(),
            process: self.process.clone(),
            upstream: self.upstream,
            fleet_trust: self.fleet_trust.clone(),
        }
    }

    /// The same, which takes the lock and begins also where the upstream does not answer soon.
    #[must_use]
    pub fn that_may_be_alone(self) -> Self {
        let upstream = Upstream::MayBeAway;
        Self { upstream, ..self }
    }

    /// The same, whose upstream is not asked any more.
    #[must_use]
    pub fn offline(self) -> Self {
        let branch = self.branch.offline();
        Self { branch, ..self }
    }

    /// Who writes.
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// Whether there is an upstream that is not asked.
    pub fn is_offline(&self) -> bool {
        self.branch.is_offline()
    }

    /// Takes the lock, or takes over one that is nobody's any more.
    ///
    /// # Errors
    /// [`BranchError::Held`] among others.
    pub fn lock(&self, reason: &str, now: Timestamp) -> Result<Found, BranchError> {
        self.take(reason, None, now)
    }

    /// Takes the lock, also from somebody who may still be there: that is recorded as breaking it is, with `why`.
    ///
    /// # Errors
    /// [`BranchError`].
    pub fn take_over(&self, reason: &str, why: &str, now: Timestamp) -> Result<Found, BranchError> {
        self.take(reason, Some(why), now)
    }

    fn take(
        &self,
        reason: &str,
        take_over: Option<&str>,
        now: Timestamp,
    ) -> Result<Found, BranchError> {
        let mut record = None;
        let mut before = None;
        let mut taken_over = None;
        let updated = self
            .branch
            .update(self.change("lock", now, self.upstream), |folder| {
                taken_over = None;
                if let Some(lock) = folder.lock.take() {
                    let stale = lock.stale(now, &self.process, ProcessMark::is_gone);
                    let why = match (stale, take_over) {
                        (Some(stale), _) => stale.as_str().to_owned(),
                        (None, Some(reason)) => reason.escape_debug().to_string(),
                        (None, None) => {
                            return Err(BranchError::Held {
                                what: what(&self.place),
                                holder: lock.describe(now),
                            });
                        }
                    };
                    taken_over = Some(format!("{}; {why}", lock.describe(now)));
                    if let (None, Some(reason)) = (stale, take_over) {
                        let broken = BrokenLock::new(lock.holder, &self.holder, reason, now);
                        record_of(folder, &self.place).broken_lock = Some(broken);
                    }
                }
                let (holder, process) = (self.holder.clone(), self.process.clone());
                folder.lock = Some(Lock::new(holder, reason.into(), process, now));
                let kept = record_of(folder, &self.place).clone();
                before = Some(folder.clone());
                let body = taken_over
                    .as_ref()
                    .map(|lock| format!("Taken over from {lock}"));
                let words = self.message(&kept, "locked", body.as_deref().unwrap_or(reason), false);
                record = Some(kept);
                Ok(words)
            })?;
        let alone = match &updated.problem {
            Some(problem) if updated.is_here_only => Some(scap_agent::error_chain(problem)),
            _ => None,
        };
        if alone.is_none() {
            updated.warn();
        }
        let folder = before.expect("the change was made");
        let mut objects = self.branch.repo.objects()?;
        Ok(Found {
            commit: updated.commit,
            record: record.expect("the change was made"),
            signed: folder.signed(&mut objects, Which::Latest)?,
            fleet_trust: folder.fleet_trust(&mut objects)?,
            taken_over,
            alone,
        })
    }

    /// Records the release that hosts are about to be told of.
    ///
    /// # Errors
    /// [`BranchError::Lost`] among others.
    pub fn begin(
        &self,
        rollout: &Rollout,
        signed: &SignedObjects,
        now: Timestamp,
    ) -> Result<Updated, BranchError> {
        self.step("begin", now, self.upstream, |folder| {
            folder.set_signed(Which::Latest, signed);
            if let Some(kept) = &self.fleet_trust {
                folder.set_fleet_trust(kept.clone());
            }
            folder.set_hosts(&Hosts::default());
            let record = record_of(folder, &self.place);
            record.latest = Some(rollout.clone());
            let what = match rollout.rolls_back_to {
                Some(to) => format!("release #{} goes back to #{to}", rollout.sequence),
                None => format!("release #{} begins", rollout.sequence),
            };
            self.message(record, &what, &rollout.title(), true)
        })
    }

    /// Records the end of a wave.
    ///
    /// # Errors
    /// [`BranchError::Lost`] among others.
    pub fn end_wave(
        &self,
        name: &str,
        hosts: &Hosts,
        now: Timestamp,
    ) -> Result<Updated, BranchError> {
        self.step("wave", now, Upstream::May, |folder| {
            folder.set_hosts(hosts);
            let record = record_of(folder, &self.place);
            let mut sequence = 0;
            if let Some(latest) = &mut record.latest {
                sequence = latest.sequence;
                latest.waves.push(WaveEnd {
                    name: name.into(),
                    ended: now,
                });
            }
            let what = format!("release #{sequence}: wave {name} is through");
            self.message(record, &what, &tally(hosts), true)
        })
    }

    /// Records that hosts go back to what they ran, and why: whoever goes on with it takes them back too.
    ///
    /// # Errors
    /// [`BranchError::Lost`] among others.
    pub fn go_back(&self, why: &Because, now: Timestamp) -> Result<Updated, BranchError> {
        self.step("back", now, Upstream::May, |folder| {
            let record = record_of(folder, &self.place);
            let mut sequence = 0;
            if let Some(latest) = &mut record.latest {
                sequence = latest.sequence;
                latest.code = Some(why.code);
                latest.going_back = Some(why.text.clone());
            }
            let what = format!("release #{sequence} is rolled back");
            self.message(record, &what, &why.text, true)
        })
    }

    /// Says that it is still there.
    ///
    /// # Errors
    /// [`BranchError::Lost`] among others.
    pub fn renew(&self, now: Timestamp) -> Result<Updated, BranchError> {
        self.step("renew", now, Upstream::May, |folder| {
            let record = record_of(folder, &self.place);
            self.message(record, "still locked", "", false)
        })
    }

    /// Records how it ended, and gives the lock back.
    ///
    /// # Errors
    /// [`BranchError::Lost`] among others.
    pub fn end(&self, end: &End, now: Timestamp) -> Result<Updated, BranchError> {
        self.step("end", now, Upstream::May, |folder| {
            folder.lock = None;
            folder.set_hosts(&end.hosts);
            folder.set_signed(Which::Latest, &end.signed);
            let finalization = end.signed.finalization.as_ref();
            let is_finalized = finalization.is_some();
            let reach = finalization.and_then(|it| it.reach_unverified().ok());
            let is_limited = reach.is_some_and(|reach| !reach.is_open());
            if is_finalized {
                let stable = folder.record.as_ref().and_then(|it| it.stable.as_ref());
                let was_limited = stable.is_none_or(|it| it.is_limited);
                match (is_limited, was_limited) {
                    (true, false) => folder.keep_open(),
                    (true, true) => {}
                    (false, _) => folder.forget_open(),
                }
                folder.set_signed(Which::Stable, &end.signed);
            }
            let record = record_of(folder, &self.place);
            let mut sequence = 0;
            if let Some(latest) = &mut record.latest {
                sequence = latest.sequence;
                latest.outcome = end.outcome;
                latest.code = end.code;
                latest.ended = Some(now);
                latest.is_limited = is_limited;
                if is_finalized {
                    record.stable = Some(latest.clone());
                }
            }
            let finalized = if is_finalized { ", finalized" } else { "" };
            let what = format!("release #{sequence} {}{finalized}", end.outcome.as_str());
            self.message(record, &what, &tally(&end.hosts), true)
        })
    }

    /// Gives the lock back, with nothing more to say. Whether hosts were told of a release that was begun is not known here.
    ///
    /// # Errors
    /// [`BranchError::Lost`] among others.
    pub fn unlock(&self, now: Timestamp) -> Result<Updated, BranchError> {
        self.step("unlock", now, Upstream::May, |folder| {
            folder.lock = None;
            let record = record_of(folder, &self.place);
            let begun = record.latest.as_ref();
            match begun.filter(|it| it.rollout == self.holder.rollout) {
                Some(begun) => {
                    let what = format!(
                        "unlocked; how release #{} ended is not known",
                        begun.sequence
                    );
                    self.message(record, &what, "", true)
                }
                None => self.message(record, "unlocked, nothing was released", "", false),
            }
        })
    }

    /// A change under the lock, which is good for a whole lease from then on.
    fn step(
        &self,
        step: &'static str,
        now: Timestamp,
        upstream: Upstream,
        mut edit: impl FnMut(&mut Folder) -> String,
    ) -> Result<Updated, BranchError> {
        self.branch
            .update(self.change(step, now, upstream), |folder| {
                let lost = |how: String| BranchError::Lost {
                    what: what(&self.place),
                    how,
                };
                match &mut folder.lock {
                    Some(lock) if lock.holder == self.holder => lock.until = now + LEASE,
                    Some(lock) => return Err(lost(format!("now it is {}", lock.describe(now)))),
                    None => {
                        let record = folder.record.as_ref();
                        let broken = record.and_then(|it| it.broken_lock.as_ref());
                        let broken = broken.filter(|it| it.rollout == self.holder.rollout);
                        let later = record.and_then(|it| it.latest.as_ref());
                        let later = later.filter(|it| it.rollout != self.holder.rollout);
                        let who = broken.map(describe).or(later.map(follow_up));
                        return Err(lost(who.unwrap_or("somebody gave it back".into())));
                    }
                }
                Ok(edit(folder))
            })
    }

    fn change(&self, step: &'static str, now: Timestamp, upstream: Upstream) -> Change<'_> {
        Change {
            place: &self.place,
            step,
            by: &self.holder,
            now,
            upstream,
        }
    }

    fn message(&self, record: &Record, what: &str, body: &str, is_of_latest: bool) -> String {
        let by = &self.holder;
        Message {
            what,
            body,
            by,
            record,
            is_of_latest,
        }
        .text()
    }
}

/// Breaks somebody's lock, and records who did, and why. Returns whose it was.
///
/// # Errors
/// [`BranchError::NotLocked`] among others.
pub fn break_lock(
    branch: &Branch,
    place: &Place,
    reason: &str,
    now: Timestamp,
) -> Result<(String, Updated), BranchError> {
    let by = Holder::here(&ProcessMark::here(), now);
    let mut broken = String::new();
    let change = Change {
        place,
        step: "break",
        by: &by,
        now,
        upstream: Upstream::Must,
    };
    let updated = branch.update(change, |folder| {
        let lock = folder
            .lock
            .take()
            .ok_or_else(|| BranchError::NotLocked(what(place)))?;
        broken = lock.describe(now);
        let record = record_of(folder, place);
        record.broken_lock = Some(BrokenLock::new(lock.holder, &by, reason, now));
        let message = Message {
            what: &format!("lock broken; it was {broken}"),
            body: reason,
            by: &by,
            record,
            is_of_latest: false,
        };
        Ok(message.text())
    })?;
    Ok((broken, updated))
}

/// A place as people say it.
pub fn what((repo, environment): &(RepoPath, Environment)) -> String {
    format!("{repo} in {environment}")
}

fn describe(broken: &BrokenLock) -> String {
    format!(
        "{} broke it: {}",
        broken.by.escape_debug(),
        broken.reason.escape_debug()
    )
}

/// Who deployed after a lock was lost.
fn follow_up(later: &Rollout) -> String {
    let (by, rollout) = (later.by.escape_debug(), later.rollout.escape_debug());
    let (sequence, outcome) = (later.sequence, later.outcome.as_str());
    format!("{by} ({rollout}) went on with release #{sequence}, which is {outcome}")
}

fn record_of<'a>(folder: &'a mut Folder, (repo, environment): &Place) -> &'a mut Record {
    let new = || Record::new(repo.clone(), environment.clone());
    folder.record.get_or_insert_with(new)
}

/// How many hosts ended how.
fn tally(hosts: &Hosts) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for group in &hosts.groups {
        match counts
            .iter_mut()
            .find(|(outcome, _)| *outcome == group.outcome)
        {
            Some((_, count)) => *count += group.hosts.len(),
            None => counts.push((&group.outcome, group.hosts.len())),
        }
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(it, count)| format!("{it} {count}"))
        .collect();
    counts.join(", ")
}
