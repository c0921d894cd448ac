//! The activator: a process of its own that alone writes below the deploy root.
//!
//! It takes signed objects over a Unix socket and believes nothing else: it checks every signature, keeps
//! its own record of what it accepted, and hashes every byte again that it installs.
//!
//! One request and one answer a connection, each a frame of [`scap_proto::frame`]. Before the answer may come what it is at.

mod ahead;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, TryLockError},
};

use scap_proto::{
    content::SnapshotRef,
    frame::{self, FrameError},
    id::{ChunkId, GitOid, ReleaseId},
    reason::{Because, Reason},
    release::{
        ConfigQuestion, RepoPath, SignedConfigQuestion, Stage, Step, report::bounded_reason,
        signed::SignedObject,
    },
    wire::{
        Envelope,
        config::ConfigAnswer,
        control::{Finalize, Order},
    },
};
use serde::{Deserialize, Serialize};
use tokio::{net::UnixStream, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub use super::client::{ActivatorClient, ClientError};
use super::{
    ActivateError, Built, Deployment, Failpoints, SourceError, Stages, Target, Upkeep, authorise,
    background::{Turns, Wanted, lower_priority},
    commit::Commits,
    config_diff,
    free::when_free,
    standing::{or_beside, standing},
};
use crate::{
    clock,
    host::{CheckedAgain, ServiceCommands},
    local::{LocalListener, Users},
    store::{StoreError, StoreReader},
    trust::ActivatorTrust,
};

pub use ahead::{News, WrittenAhead};

/// The socket's name in the data directory, unless it is configured to be elsewhere.
pub const SOCKET_NAME: &str = "activator.sock";

/// What the activator is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Make a release's directory, make it live, or go back from it: what the order's directive says.
    Order(Box<Order>),
    /// Record that a release is the stable one.
    Finalize(Box<Finalize>),
    /// What is live?
    Standing {
        /// Of which repo.
        repo: RepoPath,
    },
    /// Compare the live tree with its snapshot.
    Verify {
        /// Of which repo.
        repo: RepoPath,
    },
    /// Make a stable release's directory, and make it live and record that it is stable where it is asked to: on the strength
    /// of its finalization alone, as no coordinator is there to order it.
    Stable(Box<StableRequest>),
    /// Go back from a release, since this order of it lapsed.
    Lapse(Box<Order>),
    /// Run again the checks of a release whose time came, as it asks.
    Recheck(Recheck),
    /// What would config files change? Who asks it was compared with whom it is signed for.
    Config(Box<SignedConfigQuestion>),
    /// Write what this order is about while its chunks come. [`News`] follow on the connection, whose end ends it.
    Ahead(Box<Order>),
}

/// Of what time the checks of a live release are to be run again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recheck {
    /// Of which repo.
    pub repo: RepoPath,
    /// The release; where it is not live, nothing is run.
    pub release: ReleaseId,
    /// After this, in milliseconds since the release is live.
    pub after_millis: u64,
    /// And up to this.
    pub until_millis: u64,
}

/// A release that is to be caught up with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StableRequest {
    /// That it is the stable one.
    pub finalize: Finalize,
    /// Whether to switch to it, beside making its directory.
    pub promotes: bool,
}

/// What it answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// The order was followed.
    Done(Box<Activated>),
    /// What is live, and was before.
    Standing(RepoStanding),
    /// Each difference between the live tree and its snapshot, in a line; none where they are equal.
    Differences(Vec<String>),
    /// The order has no authority here.
    Refused(Because),
    /// A chunk that it takes is not in the store, or damaged.
    MissingChunk(ChunkId),
    /// It failed, and what was live is live.
    Failed(Because),
    /// It failed on the way: before the switch, or after it.
    Stopped {
        /// What, and the end of what it printed.
        reason: Because,
        /// What is live now.
        standing: RepoStanding,
    },
    /// The checks whose time came passed, or something else was more urgent.
    Rechecked(CheckedAgain),
    /// No answer yet: this begins.
    Begins(Step),
    /// What config files would change.
    Config(Box<ConfigAnswer>),
    /// No answer yet: what began last is over.
    StepOver,
    /// What was written ahead.
    Ahead(WrittenAhead),
}

/// What following an order took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activated {
    /// What is live now.
    pub standing: RepoStanding,
    /// Entries made or removed: all where there was no spare, else those that differ from it.
    pub entries_touched: u64,
    /// Files written from chunks.
    pub files_written: u64,
    /// Files shared with a release before.
    pub files_reused: u64,
    /// Milliseconds from the request to the recorded flip.
    pub millis: u64,
}

/// What is live of a repo, and what was before it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepoStanding {
    /// Live now.
    pub live: Option<LiveRelease>,
    /// Live before it.
    pub previous: Option<LiveRelease>,
    /// Releases whose directories are kept, the live one among them.
    pub kept: Vec<LiveRelease>,
}

/// A release that is on this host's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveRelease {
    /// Which.
    pub release: ReleaseId,
    /// Its sequence.
    pub sequence: u64,
    /// Its tree.
    pub snapshot: SnapshotRef,
    /// Its commit.
    pub commit: Option<GitOid>,
    /// What it asks of hosts.
    pub config: Option<SnapshotRef>,
}

/// What the process needs.
#[derive(Debug, Clone)]
pub struct ActivatorConfig {
    /// The agent's data directory: its chunk store is read. Its owner is the daemon's user, who alone is heard, beside our own and root.
    pub data: PathBuf,
    /// Where it listens.
    pub socket: PathBuf,
    /// Where repos go live.
    pub deploy_root: PathBuf,
    /// How services are handled.
    pub services: ServiceCommands,
    /// Where to die, in tests.
    pub failpoints: Failpoints,
}

/// Why the activator cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The chunk store cannot be read.
    #[error("open the chunk store")]
    Store(#[from] StoreError),
    /// The background cannot be started.
    #[error("start the background")]
    Background(#[source] io::Error),
    /// The data directory cannot be looked at.
    #[error("look whose {path} is")]
    Data {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error("listen on {path}")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

struct Activator {
    trust: ActivatorTrust,
    config: ActivatorConfig,
    store: StoreReader,
    turns: Turns,
    wanted: Wanted,
    /// Held by the question about config files that is being answered.
    answering: Mutex<()>,
    cancel: CancellationToken,
    commits: Commits,
}

/// Answers requests until `cancel`, and lets the one in progress finish.
///
/// # Errors
/// [`ProcessError`], before the first request.
pub async fn run(
    trust: ActivatorTrust,
    config: ActivatorConfig,
    cancel: CancellationToken,
) -> Result<(), ProcessError> {
    let store = StoreReader::open(config.data.join(crate::store::DIRECTORY_NAME))?;
    let listener = listen(&config)?;
    tracing::info!(deploy_root = %config.deploy_root.display(), "activator ready");
    let activator = Arc::new(Activator {
        trust,
        config,
        store,
        turns: Turns::default(),
        wanted: Wanted::default(),
        answering: Mutex::default(),
        cancel: cancel.clone(),
        commits: Commits::default(),
    });
    let background = {
        let activator = activator.clone();
        // A thread that panics ends the process; it is started again.
        let ends = cancel.clone().drop_guard();
        std::thread::Builder::new()
            .name("background".into())
            .spawn(move || {
                activator.look_after();
                drop(ends);
            })
            .map_err(ProcessError::Background)?
    };
    let mut requests = JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = cancel.cancelled() => break,
            Some(_) = requests.join_next(), if !requests.is_empty() => continue,
            accepted = listener.accept(refusal) => match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(error = crate::error_chain(&error), "accept a request");
                    continue;
                }
            },
        };
        let activator = activator.clone();
        requests.spawn(async move {
            if let Err(error) = serve(activator, stream).await {
                tracing::debug!(error = crate::error_chain(&error), "a request ended early");
            }
        });
    }
    while requests.join_next().await.is_some() {}
    activator.wanted.end();
    let ended = tokio::task::spawn_blocking(|| background.join()).await;
    if !ended.is_ok_and(|background| background.is_ok()) {
        tracing::error!("the background panicked");
    }
    Ok(())
}

/// Where the daemon is of our user, the socket is ours alone; else it is the group's of the data directory too, and of that group
/// only the daemon's user is heard.
fn listen(config: &ActivatorConfig) -> Result<LocalListener, ProcessError> {
    use std::os::unix::fs::MetadataExt;

    let path = &config.socket;
    let data = std::fs::metadata(&config.data).map_err(|source| ProcessError::Data {
        path: config.data.clone(),
        source,
    })?;
    let is_own = data.uid() == rustix::process::geteuid().as_raw();
    let users = Users::own().and(data.uid());
    let bound = match is_own {
        true => LocalListener::bind(path, users),
        false => LocalListener::bind_for_group(path, users, data.gid()),
    };
    bound.map_err(|source| ProcessError::Listen {
        path: path.clone(),
        source,
    })
}

/// What a user hears who may not ask: it is small, so it is a frame.
fn refusal(why: &Because) -> Vec<u8> {
    let answer = Envelope::from(Answer::Refused(why.clone()));
    frame::encode_frame(&answer).unwrap_or_default()
}

async fn serve(activator: Arc<Activator>, mut stream: UnixStream) -> Result<(), FrameError> {
    let Some(request) = frame::read_message::<_, Envelope<Request>>(&mut stream).await? else {
        return Ok(());
    };
    let request = match request.message {
        Request::Ahead(order) => return ahead::serve(activator, *order, stream).await,
        request => request,
    };
    // Only the latest counts.
    let (begun, mut begins) = watch::channel(None);
    let answer = move || {
        activator.answer(request, &|step| {
            begun.send_replace(step);
        })
    };
    let answer = tokio::task::spawn_blocking(answer);
    // Until the answer is there.
    while begins.changed().await.is_ok() {
        let step = begins.borrow_and_update().clone();
        let told = step.map_or(Answer::StepOver, Answer::Begins);
        // Who asked may be gone: what was begun is ended all the same.
        let _ = frame::write_message(&mut stream, &Envelope::from(told)).await;
    }
    let answer = answer.await.unwrap_or_else(|panic| {
        tracing::error!(%panic, "the activator panicked");
        Answer::Failed(Reason::ActivatorLost.because("the activator panicked; its log says where"))
    });
    frame::write_message(&mut stream, &Envelope::from(answer)).await
}

impl Activator {
    /// `begins` hears of each step of what a release asks, as it begins, and of nothing once it is over.
    fn answer(&self, request: Request, begins: &dyn Fn(Option<Step>)) -> Answer {
        let result = match request {
            Request::Order(order) => self.follow(*order, false, begins),
            Request::Lapse(order) => self.follow(*order, true, begins),
            Request::Finalize(finalize) => self.finalize(*finalize, begins),
            Request::Stable(request) => self.stable(*request, begins),
            Request::Recheck(recheck) => self.recheck(&recheck, begins),
            Request::Ahead(_) => unreachable!("it has a connection of its own kind"),
            Request::Config(question) => {
                Ok(Answer::Config(Box::new(self.config_changes(&question))))
            }
            Request::Standing { repo } => {
                let opened = self.alone(&repo, || {
                    let deployment = self.open(&repo)?;
                    self.wanted.add(repo.clone());
                    standing(&deployment)
                });
                or_beside(opened, &self.config.deploy_root, &repo).map(Answer::Standing)
            }
            Request::Verify { repo } => self.look(&repo, |deployment| {
                let differences = deployment.verify(&self.store)?;
                Ok(Answer::Differences(
                    differences.iter().map(ToString::to_string).collect(),
                ))
            }),
        };
        result.unwrap_or_else(|error| match error {
            ActivateError::Source(SourceError::Missing(chunk)) => Answer::MissingChunk(chunk),
            error => Answer::Failed(error.because()),
        })
    }

    /// Does what an order says; or, where it has lapsed, goes back.
    fn follow(
        &self,
        order: Order,
        has_lapsed: bool,
        begins: &dyn Fn(Option<Step>),
    ) -> Result<Answer, ActivateError> {
        let started = std::time::Instant::now();
        let now = clock::now();
        let root = &self.config.deploy_root;
        let verified = authorise::verified(&self.trust, root, order, has_lapsed);
        let order = match verified {
            Ok(order) => order,
            Err(error) => {
                return Ok(Answer::Refused(
                    error.code().because(crate::error_chain(&error)),
                ));
            }
        };
        let about = order.release.release();
        let stage = match has_lapsed {
            true => Stage::Revert,
            false => order.directive.stage,
        };
        let is_revert = stage == Stage::Revert;
        let followed = self.with(&about.repo, |deployment| {
            let us = &self.trust.addressee;
            let granted = match has_lapsed {
                true => authorise::lapse(deployment, us, &order)?,
                false => authorise::order(deployment, us, &order, now)?,
            };
            let granted = match (granted, is_revert) {
                (Ok(()), false) => self
                    .commits
                    .check(&self.trust, &order.release, &self.store)?,
                (granted, _) => granted,
            };
            if let Err(refusal) = granted {
                return Ok(Answer::Refused(refusal));
            }
            let target = Target {
                release: order.release.id(),
                sequence: about.sequence,
                commit: about.commit.clone(),
                snapshot: about.snapshot,
                config: about.config,
            };
            let stages = self.stages(begins);
            let done = match stage {
                // Its directory is made while nobody waits for it, and a full disk is found out before anything is
                // switched.
                Stage::Fetch => stages.fetch(deployment, &target).map(|done| done.built),
                Stage::Promote => {
                    let promoted = stages.promote(deployment, &target);
                    promoted.map(|done| done.prepared.built)
                }
                Stage::Revert => {
                    let reverted = stages.revert(deployment, &target.release);
                    reverted.map(|()| Built::default())
                }
            };
            answered(deployment, done, started)
        });
        match followed {
            // Where nothing can be written there may still be nothing to go back from.
            Err(error @ ActivateError::ReadOnly(_)) if is_revert => {
                self.look(&about.repo, |deployment| {
                    if is_live(deployment, &order.release.id()) {
                        return Err(error);
                    }
                    Ok(Answer::Done(Box::new(Activated {
                        standing: standing(deployment)?,
                        ..Activated::default()
                    })))
                })
            }
            followed => followed,
        }
    }

    /// As an order to fetch or to promote, and then as the finalization of what is live.
    fn stable(
        &self,
        request: StableRequest,
        begins: &dyn Fn(Option<Step>),
    ) -> Result<Answer, ActivateError> {
        let started = std::time::Instant::now();
        let StableRequest { finalize, promotes } = request;
        let stage = if promotes {
            Stage::Promote
        } else {
            Stage::Fetch
        };
        let verified = match self.trust.verify_finalization(finalize, clock::now()) {
            Ok(verified) => verified,
            Err(error) => {
                return Ok(Answer::Refused(
                    error.code().because(crate::error_chain(&error)),
                ));
            }
        };
        let about = verified.release.release();
        let floor = self.trust.floor(&about.repo, &about.environment);
        let floor = floor.unwrap_or(0);
        self.with(&about.repo, |deployment| {
            let us = &self.trust.addressee;
            let granted = match authorise::stable(deployment, us, &verified, stage, floor)? {
                Ok(()) => {
                    let release = &verified.release;
                    self.commits.check(&self.trust, release, &self.store)?
                }
                refused => refused,
            };
            if let Err(refusal) = granted {
                return Ok(Answer::Refused(refusal));
            }
            let target = Target {
                release: verified.release.id(),
                sequence: about.sequence,
                commit: about.commit.clone(),
                snapshot: about.snapshot,
                config: about.config,
            };
            let stages = self.stages(begins);
            let done = if promotes {
                let promoted = stages.promote(deployment, &target);
                promoted.and_then(|done| {
                    stages.finalize(deployment, &target.release)?;
                    Ok(done.prepared.built)
                })
            } else {
                stages.fetch(deployment, &target).map(|done| done.built)
            };
            answered(deployment, done, started)
        })
    }

    fn finalize(
        &self,
        finalize: Finalize,
        begins: &dyn Fn(Option<Step>),
    ) -> Result<Answer, ActivateError> {
        let verified = match self.trust.verify_finalization(finalize, clock::now()) {
            Ok(verified) => verified,
            Err(error) => {
                return Ok(Answer::Refused(
                    error.code().because(crate::error_chain(&error)),
                ));
            }
        };
        let repo = &verified.release.release().repo;
        self.with(repo, |deployment| {
            let granted = authorise::finalization(deployment, &self.trust.addressee, &verified)?;
            if let Err(refusal) = granted {
                return Ok(Answer::Refused(refusal));
            }
            let release = verified.release.id();
            self.stages(begins).finalize(deployment, &release)?;
            let standing = standing(deployment)?;
            Ok(Answer::Done(Box::new(Activated {
                standing,
                ..Activated::default()
            })))
        })
    }

    /// It needs no authority but that of the release that is live.
    fn recheck(
        &self,
        recheck: &Recheck,
        begins: &dyn Fn(Option<Step>),
    ) -> Result<Answer, ActivateError> {
        let Recheck { repo, release, .. } = recheck;
        let span = (recheck.after_millis, recheck.until_millis);
        let turn = self.turns.of(repo);
        let _turn = turn.take();
        let gives_way = || turn.is_awaited() || self.cancel.is_cancelled();
        let deployment = self.open_to_look(repo)?;
        let stages = self.stages(begins);
        match stages.check_again(&deployment, release, span, &gives_way) {
            Ok(checked) => Ok(Answer::Rechecked(checked)),
            Err(failed @ ActivateError::Stage(_)) => Ok(Answer::Stopped {
                reason: failed.because(),
                standing: standing(&deployment)?,
            }),
            Err(error) => Err(error),
        }
    }

    /// It takes no turn: orders about the repo do not wait for it, nor it for them.
    fn config_changes(&self, signed: &SignedConfigQuestion) -> ConfigAnswer {
        let asker = match ConfigQuestion::from_payload(&signed.payload) {
            Ok(question) => question.asker,
            Err(error) => return ConfigAnswer::Refused(crate::error_chain(&error)),
        };
        let verified = self
            .trust
            .verify_config_question(signed, &asker, clock::now());
        let question = match verified {
            Ok(question) => question,
            Err(error) => return ConfigAnswer::Refused(bounded_reason(crate::error_chain(&error))),
        };
        let _one = match self.answering.try_lock() {
            Ok(one) => one,
            // It guards nothing that a panic leaves half-done.
            Err(TryLockError::Poisoned(one)) => one.into_inner(),
            Err(TryLockError::WouldBlock) => return ConfigAnswer::Busy,
        };
        let look = || {
            lower_priority();
            config_diff::answer(&self.config.deploy_root, question)
        };
        // A thread of its own: whoever has lowered its priority cannot raise it again for the next request.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("config".into());
            match thread.spawn_scoped(scope, look) {
                Ok(looking) => looking
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(error) => ConfigAnswer::Failed(format!("start a thread: {error}")),
            }
        })
    }

    fn stages<'a>(&'a self, begins: &'a dyn Fn(Option<Step>)) -> Stages<'a> {
        Stages {
            host: &self.trust.addressee.host,
            services: &self.config.services,
            source: &self.store,
            begins,
        }
    }

    /// Does something with a repo that nothing else is done with meanwhile.
    fn with<T>(
        &self,
        repo: &RepoPath,
        work: impl FnOnce(&mut Deployment) -> Result<T, ActivateError>,
    ) -> Result<T, ActivateError> {
        self.alone(repo, || {
            let mut deployment =
                when_free(repo, || self.cancel.is_cancelled(), || self.open(repo))?;
            self.wanted.add(repo.clone());
            work(&mut deployment)
        })
    }

    /// Looks at a repo that nothing is done with meanwhile.
    fn look<T>(
        &self,
        repo: &RepoPath,
        look: impl FnOnce(&Deployment) -> Result<T, ActivateError>,
    ) -> Result<T, ActivateError> {
        self.alone(repo, || {
            let deployment = self.open_to_look(repo)?;
            self.wanted.add(repo.clone());
            look(&deployment)
        })
    }

    fn alone<T>(
        &self,
        repo: &RepoPath,
        work: impl FnOnce() -> Result<T, ActivateError>,
    ) -> Result<T, ActivateError> {
        let turn = self.turns.of(repo);
        let _turn = turn.take();
        work()
    }

    fn open(&self, repo: &RepoPath) -> Result<Deployment, ActivateError> {
        let deployment = Deployment::open(&self.config.deploy_root, repo)?;
        Ok(deployment.with_failpoints(self.config.failpoints.clone()))
    }

    fn open_to_look(&self, repo: &RepoPath) -> Result<Deployment, ActivateError> {
        when_free(
            repo,
            || self.cancel.is_cancelled(),
            || Deployment::open_to_look(&self.config.deploy_root, repo),
        )
    }

    /// Looks after the repos that something was done with, until all ends.
    fn look_after(&self) {
        lower_priority();
        while let Some(repo) = self.wanted.next() {
            let turn = self.turns.of(&repo);
            let _turn = turn.take_in_background();
            let is_awaited = || turn.is_awaited() || self.cancel.is_cancelled();
            let started = std::time::Instant::now();
            let done = self
                .open(&repo)
                .and_then(|mut deployment| deployment.upkeep(&self.store, &is_awaited));
            let millis = started.elapsed().as_millis();
            match done {
                Ok(Upkeep::Stopped) if !self.cancel.is_cancelled() => self.wanted.add(repo),
                Ok(upkeep) => tracing::debug!(%repo, ?upkeep, millis, "looked after"),
                Err(ActivateError::ReadOnly(_)) => {}
                Err(error) if error.is_no_space() => {
                    let reason = crate::error_chain(&error);
                    tracing::info!(%repo, reason, "no spare is made");
                }
                Err(error) => {
                    let error = crate::error_chain(&error);
                    tracing::warn!(%repo, error, "look after a repo");
                }
            }
        }
    }
}

/// The answer to an order that was followed to its end, or to where something failed: before the switch, or after it.
fn answered(
    deployment: &Deployment,
    done: Result<Built, ActivateError>,
    started: std::time::Instant,
) -> Result<Answer, ActivateError> {
    let built = match done {
        Ok(built) => built,
        Err(error @ (ActivateError::Source(_) | ActivateError::ReadOnly(_))) => return Err(error),
        Err(error) => {
            let reason = error.because();
            return Ok(match standing(deployment) {
                Ok(standing) => Answer::Stopped { reason, standing },
                Err(_) => Answer::Failed(reason),
            });
        }
    };
    Ok(Answer::Done(Box::new(Activated {
        standing: standing(deployment)?,
        entries_touched: built.entries_touched,
        files_written: built.files_written,
        files_reused: built.files_linked + built.files_cloned,
        millis: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    })))
}

fn is_live(deployment: &Deployment, release: &ReleaseId) -> bool {
    let live = deployment.live();
    live.is_some_and(|live| live.release == *release)
}
