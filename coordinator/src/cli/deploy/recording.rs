//! What a deployment writes to the state branch while it goes on: by a thread of its own, in order, so that the rollout waits
//! for none of it.

use std::{
    collections::BTreeMap,
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::Duration,
};

use jiff::Timestamp;
use scap_proto::{
    id::NodeId,
    identity::Trust,
    reason::{Because, Reason},
    release::{Finalization, Reach, SignedFinalization, Stage},
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{DeployArgs, GoOn, summary::outcome_of};
use crate::{
    cli::{
        About, CliError,
        branch::{failed, now, repo_of},
        exit,
        history::warn_of_unreadable,
        progress::{Progress, why},
        resume::check_outcome,
        rollout_status,
        snapshot::Tree,
    },
    rollout::{Cause, CommandError, Ended, Engine, Output, Session, Verdict, WaitingOn, Watcher},
    state::{
        BranchError, End, Flags, Found, History, Hosts, Ledger, Outcome, Place, RENEWAL,
        Recorded as Release, Rollout, SignedObjects, StateDirectory, StateError, Updated,
    },
};

/// How much of a deployment's message is said with its lock: two lines of a terminal.
const MESSAGE_CHARS: usize = 160;

/// A deployment that holds the lock. Dropped before its end, it gives the lock back.
pub(super) struct Recording {
    found: Found,
    run: Rollouts,
    notes: Option<mpsc::Sender<Note>>,
    thread: Option<JoinHandle<()>>,
}

/// The branch once the upstream was asked, and what it says was released of one repo to one environment, the latest first.
pub(in crate::cli) struct Released {
    pub(in crate::cli) history: History,
    pub(in crate::cli) past: Vec<Release>,
    /// Why the upstream was not heard, where it was to be.
    pub(in crate::cli) alone: Option<String>,
}

/// What was released; `None` where there is no branch.
pub(in crate::cli) fn past(
    args: &DeployArgs,
    tree: &Tree,
    state: &StateDirectory,
    place: &Place,
) -> Result<Option<Released>, CliError> {
    let repo = repo_of(tree.repo(), state)?;
    let (history, alone) = args.record.history(&repo)?;
    let Some(history) = history else {
        return Ok(None);
    };
    let past = history.past(place).map_err(|error| failed(&error))?;
    warn_of_unreadable(&past);
    Ok(Some(Released {
        history,
        past: past.releases,
        alone,
    }))
}

/// What the lock is taken for, for whoever finds it held.
pub(super) fn reason(args: &DeployArgs, tree: &Tree) -> String {
    let reason = match (&args.go_on, rolls_back_to(args), tree.commit()) {
        (Some(go_on), ..) => format!("resume #{}", go_on.sequence),
        (None, Some(sequence), _) => format!("rollback to #{sequence}"),
        (None, None, Some(commit)) => {
            let subject: String = commit.subject.chars().take(60).collect();
            format!("deploy {:.10} \"{subject}\"", commit.id.to_string())
        }
        (None, None, None) => "deploy a directory".to_owned(),
    };
    let reason = match &args.given {
        Some(given) => format!("{reason} as #{}", given.release.sequence),
        None => reason,
    };
    let message: String = args.message.join(" ").chars().take(MESSAGE_CHARS).collect();
    match message.is_empty() {
        true => reason,
        false => format!("{reason}: {message}"),
    }
}

fn rolls_back_to(args: &DeployArgs) -> Option<u64> {
    let back_to = args.back_to.as_ref().map(|back| back.sequence);
    back_to.or(args.go_on.as_ref().and_then(|it| it.rolls_back_to))
}

/// Believes what another copy of the state directory recorded of whose certificates count, as far as it proves itself. Who may write to the
/// branch can leave it out, and no more.
fn learn(trust: &Trust, recorded: Option<&[u8]>) {
    let Some(recorded) = recorded else { return };
    let before = trust.mark();
    if let Err(error) = trust.learn(recorded) {
        let error = scap_agent::error_chain(&error);
        tracing::warn!(
            error,
            "whose certificates count is not learnt from the state branch"
        );
    }
    let number = trust.mark().number;
    if number > before.number {
        eprintln!("the state branch knew of fleet trust #{number}, which counts from now on");
    }
}

/// What goes into the record of each rollout of this run.
struct Rollouts {
    rollout: String,
    by: String,
    is_offline: bool,
    subject: Option<String>,
    rolls_back_to: Option<u64>,
    flags: Flags,
}

enum Note {
    Begin(Box<(Rollout, SignedObjects)>, Reply),
    Wave(String, Hosts),
    GoBack(Because),
    /// That it is still there; asked by who thinks that it may not be.
    Renew(Reply),
    End(Box<End>, Reply),
}

type Reply = oneshot::Sender<Result<Updated, BranchError>>;

/// What was recorded, for the end of the command.
pub(super) struct Written {
    pub(super) json: Value,
    /// For people.
    pub(super) line: String,
    /// The exit code, where this is the worst that happened.
    pub(super) code: u8,
}

impl Recording {
    /// Takes the lock, as who began then. Blocking: it may ask the upstream.
    pub(super) fn start(
        args: &DeployArgs,
        (state, trust): (&StateDirectory, &Trust),
        about: &About,
        tree: &Tree,
        began: Timestamp,
    ) -> Result<Self, CliError> {
        let repo = repo_of(tree.repo(), state)?;
        let branch = args
            .record
            .open(repo, about, Some(state))
            .map_err(|error| failed(&error))?;
        let mut ledger = Ledger::new(branch, about.clone(), began);
        if args.record.may_be_alone {
            ledger = ledger.that_may_be_alone();
        }
        let subject = tree.commit().map(|commit| commit.subject.clone());
        let go_on = args.go_on.as_ref();
        let rolls_back_to = rolls_back_to(args);
        let reason = reason(args, tree);
        let take_over = go_on.and_then(|it| it.take_over.as_deref());
        let found = match take_over {
            Some(why) => ledger.take_over(&reason, why, now()),
            None => ledger.lock(&reason, now()),
        };
        let found = found.map_err(|error| failed(&error))?;
        if found.alone.is_some() {
            ledger = ledger.offline();
        }
        learn(trust, found.fleet_trust.as_deref());
        let kept = state.kept_trust();
        let kept =
            kept.map_err(|error| CliError::failed("read the state", &error).hint(error.hint()))?;
        let ledger = ledger.with_fleet_trust(kept);
        let run = Rollouts {
            rollout: ledger.holder().rollout.clone(),
            by: ledger.holder().name.clone(),
            is_offline: ledger.is_offline(),
            subject,
            rolls_back_to,
            flags: args.words(),
        };
        let (notes, to_write) = mpsc::channel();
        Ok(Self {
            found,
            run,
            notes: Some(notes),
            thread: Some(thread::spawn(move || write(&ledger, &to_write))),
        })
    }

    /// The id of this run, as the lock and the record have it.
    pub(super) fn rollout(&self) -> &str {
        &self.run.rollout
    }

    /// What the environment was on when the lock was taken.
    pub(super) fn stable(&self) -> Option<&Rollout> {
        self.found.record.stable.as_ref()
    }

    /// Whose the lock is, in words.
    pub(super) fn held(&self) -> String {
        let by = self.run.by.escape_debug();
        format!("ours: {by} ({})", self.run.rollout)
    }

    /// That the lock was somebody's before, for people.
    pub(super) fn taken_over(&self) -> Option<String> {
        let lock = self.found.taken_over.as_ref()?;
        Some(format!("took over the lock of {lock}"))
    }

    /// That the upstream did not answer, for people.
    pub(super) fn alone(&self) -> Option<String> {
        self.found.alone.as_deref().map(alone)
    }

    /// Now that the lock is ours: why the hosts of the release that is gone on with go back, where they do. Its rollout may have
    /// ended, or gone back, since it was looked at.
    pub(super) fn going_back(&self, go_on: Option<&GoOn>) -> Result<Option<String>, CliError> {
        let Some(go_on) = go_on else {
            return Ok(None);
        };
        let latest = self.found.record.latest.as_ref();
        let latest = latest.filter(|it| it.release == go_on.signed.id());
        let latest = latest.ok_or_else(|| {
            CliError::usage(format!(
                "go on with release #{}: another one was released meanwhile",
                go_on.sequence
            ))
            .code(exit::STOPPED)
            .hint("`scap-coordinator status` says which".to_owned())
        })?;
        check_outcome(latest)?;
        Ok(latest.going_back.clone())
    }

    /// What the branch has signed of the latest rollout. By whom is another question.
    pub(super) fn latest(&self) -> Option<&SignedObjects> {
        self.found.signed.as_ref()
    }

    /// The code of why the hosts of the release that is gone on with go back.
    fn going_back_code(&self) -> Option<Reason> {
        self.found.record.latest.as_ref()?.code
    }

    /// Records what hosts are about to be told, and for whom it is the stable one, where it is.
    pub(super) async fn begin(
        &self,
        session: &Session,
        going_back: Option<String>,
        stable_for: Option<Reach>,
    ) -> Result<(), CliError> {
        let release = session.release.release();
        let rollout = Rollout {
            release: session.release.id(),
            sequence: release.sequence,
            snapshot: release.snapshot.id,
            descriptor_length: release.snapshot.descriptor_length,
            commit: release.commit.clone(),
            subject: self.run.subject.clone(),
            rollout: self.run.rollout.clone(),
            by: self.run.by.clone(),
            started: now(),
            ended: None,
            outcome: Outcome::Running,
            waves: Vec::new(),
            is_offline: self.run.is_offline,
            rolls_back_to: self.run.rolls_back_to,
            code: going_back.as_ref().and(self.going_back_code()),
            going_back,
            is_limited: false,
            flags: self.run.flags.clone(),
        };
        let signed = signed(session, stable_for);
        let begun = self
            .ask(|reply| Note::Begin(Box::new((rollout, signed)), reply))
            .await;
        begun
            .map(|updated| updated.warn())
            .map_err(|error| failed(&error))
    }

    /// Records the end.
    pub(super) async fn end(&self, session: &Session, ended: &Ended) -> Written {
        if let Verdict::TakenOver { .. } = ended.verdict {
            return self.taken_away().await;
        }
        let hosts = ended.engine.hosts().iter();
        let hosts = Hosts::group(hosts.map(|(name, host)| {
            let (outcome, _) = outcome_of(&host.state);
            // Of one that went back, too: why it was lost before.
            let reason = rollout_status::reason(host);
            (name, outcome, reason)
        }));
        let outcome = match ended.verdict {
            Verdict::Done => Outcome::Done,
            Verdict::Partial => Outcome::Partial,
            Verdict::Failed => Outcome::Failed,
            // A person paused it and went away.
            Verdict::Stopped(None | Some(WaitingOn::Paused)) => Outcome::Interrupted,
            Verdict::Stopped(Some(_)) => Outcome::Stopped,
            Verdict::RolledBack(_) => Outcome::RolledBack,
            Verdict::RollbackIncomplete(_) => Outcome::RollbackIncomplete,
            Verdict::TakenOver { .. } => unreachable!("whoever took it over records its end"),
        };
        let reach = ended.is_finalized.then(|| ended.engine.reach());
        let signed = signed(session, reach);
        self.close(End {
            outcome,
            code: ended.verdict.code(),
            hosts,
            signed,
        })
        .await
    }

    /// Who has the lock now: how it ends is theirs to record.
    async fn taken_away(&self) -> Written {
        let line = match self.ask(Note::Renew).await {
            Err(BranchError::Lost { what, how }) => {
                format!("taken over: the lock of {what}: {how}")
            }
            Err(error) => {
                let error = scap_agent::error_chain(&error);
                format!("who took it over is not known: {error}")
            }
            Ok(_) => "whoever took it over did not take the lock: given back".into(),
        };
        let (json, code) = (Value::Null, exit::STOPPED);
        Written { json, line, code }
    }

    async fn close(&self, end: End) -> Written {
        match self.ask(|reply| Note::End(Box::new(end), reply)).await {
            Ok(Updated {
                commit,
                is_here_only,
                problem,
            }) => {
                let elsewhere = match &problem {
                    None => String::new(),
                    Some(problem) if !is_here_only => {
                        let problem = scap_agent::error_chain(problem);
                        format!(", and not all that belongs to it here: {problem}")
                    }
                    Some(problem) => {
                        let problem = scap_agent::error_chain(problem);
                        format!(" here only, and at the upstream with the next change: {problem}")
                    }
                };
                let line = format!("recorded as {:.10}{elsewhere}", commit.to_string());
                let json = json!({
                    "commit": commit.to_string(),
                    "at_upstream": !is_here_only,
                });
                let code = exit::DONE;
                Written { json, line, code }
            }
            Err(error) => {
                let error = scap_agent::error_chain(&error);
                Written {
                    json: Value::Null,
                    line: format!("how it ended is not recorded: {error}"),
                    code: exit::STOPPED,
                }
            }
        }
    }

    async fn ask(&self, note: impl FnOnce(Reply) -> Note) -> Result<Updated, BranchError> {
        let (reply, answer) = oneshot::channel();
        let notes = self.notes.as_ref().expect("it is dropped last");
        notes
            .send(note(reply))
            .expect("the thread lives until the notes end");
        answer.await.expect("each note is answered")
    }

    /// Tells of the ends of waves, beside whoever shows progress.
    pub(super) fn watch<'a>(
        &'a self,
        progress: &'a mut Progress,
        note_finalized: &'a dyn Fn(&Reach) -> Result<(), StateError>,
    ) -> Recorded<'a> {
        Recorded {
            progress,
            recording: self,
            note_finalized,
            wave: None,
            settled: Settled::default(),
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        drop(self.notes.take());
        if let Some(thread) = self.thread.take() {
            // What it could not write it said.
            let _ = thread.join();
        }
    }
}

/// What is said where it goes on without the upstream that was asked.
pub(in crate::cli) fn alone(why: &str) -> String {
    format!("without the upstream, as with --offline, which is recorded: {why}")
}

/// The thread: writes one note after the other, and that it is still there while there is none.
fn write(ledger: &Ledger, notes: &mpsc::Receiver<Note>) {
    let mut is_over = false;
    let renewal = RENEWAL.unsigned_abs();
    loop {
        let written = match notes.recv_timeout(renewal) {
            Ok(Note::Begin(begin, reply)) => {
                let (rollout, signed) = *begin;
                let _ = reply.send(ledger.begin(&rollout, &signed, now()));
                continue;
            }
            Ok(Note::End(end, reply)) => {
                is_over = true;
                let _ = reply.send(ledger.end(&end, now()));
                continue;
            }
            Ok(Note::Renew(reply)) => {
                let renewed = ledger.renew(now());
                is_over |= matches!(renewed, Err(BranchError::Lost { .. }));
                let _ = reply.send(renewed);
                continue;
            }
            Ok(Note::Wave(..) | Note::GoBack(_)) | Err(RecvTimeoutError::Timeout) if is_over => {
                continue;
            }
            Ok(Note::Wave(name, hosts)) => ledger.end_wave(&name, &hosts, now()),
            Ok(Note::GoBack(why)) => ledger.go_back(&why, now()),
            Err(RecvTimeoutError::Timeout) => ledger.renew(now()),
            Err(RecvTimeoutError::Disconnected) if is_over => return,
            Err(RecvTimeoutError::Disconnected) => {
                is_over = true;
                ledger.unlock(now())
            }
        };
        match written {
            Ok(updated) => updated.warn(),
            Err(error) => {
                is_over |= matches!(error, BranchError::Lost { .. });
                let error = scap_agent::error_chain(&error);
                tracing::warn!(error, "not recorded");
            }
        }
    }
}

/// What became of hosts so far.
#[derive(Default)]
pub(super) struct Settled(BTreeMap<NodeId, (&'static str, Option<Because>)>);

impl Settled {
    fn group(&self) -> Hosts {
        let hosts = self.0.iter();
        Hosts::group(hosts.map(|(name, (outcome, reason))| (name, *outcome, reason.as_ref())))
    }
}

/// A watcher that also has the ends of waves recorded.
pub(super) struct Recorded<'a> {
    progress: &'a mut Progress,
    recording: &'a Recording,
    /// Notes in the state directory that the release is the stable one, and for whom.
    note_finalized: &'a dyn Fn(&Reach) -> Result<(), StateError>,
    wave: Option<String>,
    settled: Settled,
}

impl Watcher for Recorded<'_> {
    fn output(&mut self, engine: &Engine, output: &Output) {
        match output {
            // A wave is through when the next may switch, which may have fetched before. The last one's end is the rollout's.
            Output::Began {
                wave,
                stage: Stage::Promote,
                ..
            } if self.wave.as_ref() != Some(wave) => {
                if let Some(over) = self.wave.replace(wave.clone())
                    && let Some(notes) = &self.recording.notes
                {
                    let _ = notes.send(Note::Wave(over, self.settled.group()));
                }
            }
            // That is recorded already, with why it began.
            Output::RollsBack(Cause::Before) => {}
            Output::RollsBack(cause) => {
                if let Some(notes) = &self.recording.notes {
                    let _ = notes.send(Note::GoBack(cause.code().because(why(cause))));
                }
            }
            Output::Finalize { .. } => {
                if let Err(error) = (self.note_finalized)(&engine.reach()) {
                    let error = scap_agent::error_chain(&error);
                    tracing::warn!(error, "that the release is finalized is not noted here");
                }
            }
            Output::Settled { host, state } => {
                let (outcome, reason) = outcome_of(state);
                let settled = (outcome, reason.cloned());
                self.settled.0.insert(host.clone(), settled);
            }
            _ => {}
        }
        self.progress.output(engine, output);
    }

    fn tick(&mut self, engine: &Engine, now: Duration) {
        self.progress.tick(engine, now);
    }

    fn interrupted(&mut self, paused: Result<(), CommandError>) {
        self.progress.interrupted(paused);
    }
}

fn signed(session: &Session, stable_for: Option<Reach>) -> SignedObjects {
    let finalization = |reach| {
        // Just what the hosts got: an Ed25519 signature of the same is the same.
        let finalization = Finalization::of(&session.release).reaching(&reach);
        SignedFinalization::sign(&finalization, &session.key)
    };
    SignedObjects {
        release: session.release.signed().clone(),
        grant: session.grant.signed().clone(),
        finalization: stable_for.map(finalization),
    }
}
