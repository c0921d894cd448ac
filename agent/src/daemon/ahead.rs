//! Has the activator write a release's tree while its chunks still come.

use std::time::{Duration, Instant};

use scap_proto::{
    frame,
    id::ReleaseId,
    release::Stage,
    wire::{Envelope, control::Order},
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Daemon, RepoKey};
use crate::activate::process::{ActivatorClient, Answer, ClientError, News, Request, WrittenAhead};

/// How long a fetch lasts before anything is written ahead: what is here sooner is written soon enough, and a small change is
/// not to cost a second request.
const BEGINS_AFTER: Duration = Duration::from_millis(400);
/// Pause between two times that the activator is told of chunks, so that a fast fetch does not wake it for each.
const NEWS_PERIOD: Duration = Duration::from_millis(50);

/// A release that is written ahead. Dropped, it is ended, and what was written is removed.
pub(super) struct Ahead {
    release: ReleaseId,
    complete: oneshot::Sender<()>,
    task: JoinHandle<()>,
    _ends: DropGuard,
}

impl Ahead {
    /// All chunks are here: waits until it is written, as far as it can be, so that the order need only publish it.
    pub(super) async fn complete(self) {
        // Where it has ended, nobody listens.
        let _ = self.complete.send(());
        if let Err(error) = self.task.await {
            tracing::error!(%error, "writing ahead");
        }
    }
}

impl Daemon {
    /// Begins to write ahead what a repo fetches by an order. What was begun before is ended.
    pub(super) fn begin_ahead(&mut self, key: &RepoKey) {
        self.ahead.remove(key);
        let saved = &self.repo(key).saved;
        let (Some(accepted), Some(order)) = (&saved.acceptance.accepted, &saved.order) else {
            return;
        };
        if accepted.stage == Stage::Revert {
            return;
        }
        let release = accepted.release;
        let plan = saved.plan.clone().map(|(_, bytes)| bytes);
        let request = Request::Ahead(Box::new(Order {
            plan,
            ..order.clone()
        }));
        let client = self.activator.client();
        let stored = self.node.stored();
        let (complete, completed) = oneshot::channel();
        let cancel = CancellationToken::new();
        let ends = cancel.clone().drop_guard();
        let repo = key.0.clone();
        let task = tokio::spawn(async move {
            let written = cancel.run_until_cancelled(ask(client, request, stored, completed));
            match written.await {
                None | Some(Ok(None)) => {}
                Some(Ok(Some(WrittenAhead {
                    bytes_early,
                    bytes,
                    is_whole,
                }))) => {
                    tracing::info!(%repo, release = %release.short(), bytes_early, bytes, is_whole, "written ahead");
                }
                // Of another build, say. The order itself is asked, and asked again.
                Some(Err(error)) => {
                    let error = crate::error_chain(&error);
                    tracing::debug!(%repo, error, "nothing was written ahead");
                }
            }
        });
        let ahead = Ahead {
            release,
            complete,
            task,
            _ends: ends,
        };
        self.ahead.insert(key.clone(), ahead);
    }

    /// Ends the writing ahead of a repo where an order is asked now, and returns it where that goes on with it.
    pub(super) fn take_ahead(&mut self, key: &RepoKey, request: &Request) -> Option<Ahead> {
        if matches!(request, Request::Finalize(_) | Request::Recheck(_)) {
            return None;
        }
        let ahead = self.ahead.remove(key)?;
        let accepted = self.repo(key).accepted()?;
        let goes_on = matches!(request, Request::Order(_)) && accepted.stage != Stage::Revert;
        (goes_on && accepted.release == ahead.release).then_some(ahead)
    }
}

/// What is asked once nothing more is written ahead. The time that this takes since all chunks are here is part of what it took.
pub(super) async fn then(
    ahead: Option<Ahead>,
    asked: impl Future<Output = Result<Answer, ClientError>>,
) -> Result<Answer, ClientError> {
    let started = Instant::now();
    if let Some(ahead) = ahead {
        ahead.complete().await;
    }
    let waited = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut answer = asked.await;
    if let Ok(Answer::Done(done)) = &mut answer {
        done.millis = done.millis.saturating_add(waited);
    }
    answer
}

/// Asks the activator, and tells it of chunks until it answers. `None` where all were here before it was worth it, or the activator
/// does not write it.
async fn ask(
    client: ActivatorClient,
    request: Request,
    mut stored: watch::Receiver<()>,
    mut completed: oneshot::Receiver<()>,
) -> Result<Option<WrittenAhead>, ClientError> {
    tokio::select! {
        _ = &mut completed => return Ok(None),
        () = tokio::time::sleep(BEGINS_AFTER) => {}
    }
    let mut stream = client.begin(request).await?;
    let (mut answers, mut news) = stream.split();
    let tell = async {
        let told = loop {
            tokio::select! {
                biased;
                _ = &mut completed => break News::Complete,
                changed = stored.changed() => if changed.is_err() {
                    break News::Complete;
                },
            }
            frame::write_message(&mut news, &Envelope::from(News::Stored)).await?;
            tokio::select! {
                biased;
                _ = &mut completed => break News::Complete,
                () = tokio::time::sleep(NEWS_PERIOD) => {}
            }
        };
        frame::write_message(&mut news, &Envelope::from(told)).await?;
        std::future::pending().await
    };
    tokio::select! {
        answer = frame::read_message::<_, Envelope<Answer>>(&mut answers) => match answer?.map(|it| it.message) {
            Some(Answer::Ahead(written)) => Ok(Some(written)),
            Some(_) => Ok(None),
            None => Err(ClientError::Ended),
        },
        failed = tell => failed,
    }
}
