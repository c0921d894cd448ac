//! Answers to the local API that are more than a field.

use scap_proto::release::RepoPath;
use tokio::sync::oneshot;

use super::Daemon;
use crate::{
    activate::process::{Answer, Request},
    api::{ApiError, DeniedView, FreshnessView, SawView, VerifyView, WatchView},
    clock::Moment,
};

impl Daemon {
    /// What it saw, and what was held back.
    pub(super) fn watch_view(&self) -> WatchView {
        let stale = self.freshness.stale(&Moment::now());
        let (heard, lease) = (self.freshness.heard_at(), self.freshness.lease());
        WatchView {
            freshness: FreshnessView::new(heard, lease, stale),
            saw: self.node.sightings().into_iter().map(SawView::of).collect(),
            denied: self
                .node
                .denials()
                .into_iter()
                .map(DeniedView::of)
                .collect(),
        }
    }

    /// Has the activator read the live tree of a repo.
    pub(super) fn verify(
        &mut self,
        repo: RepoPath,
        reply: oneshot::Sender<Result<VerifyView, ApiError>>,
    ) {
        let activator = self.activator.clone();
        self.cleaning.spawn(async move {
            let answer = activator.ask(Request::Verify { repo: repo.clone() }).await;
            let result = match answer {
                Ok(Answer::Differences(differences)) => Ok(VerifyView::new(repo, differences)),
                Ok(Answer::Failed(reason) | Answer::Refused(reason)) => Err(ApiError(reason.text)),
                Ok(Answer::MissingChunk(chunk)) => {
                    Err(ApiError(format!("chunk {chunk} is not in the store")))
                }
                Ok(_) => Err(ApiError("the activator answered something else".into())),
                Err(error) => Err(ApiError(crate::error_chain(&error))),
            };
            let _ = reply.send(result);
        });
    }
}
