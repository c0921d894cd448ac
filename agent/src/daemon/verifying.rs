//! Comparing a live tree with what was signed, for who asks on this host.

use scap_proto::release::RepoPath;
use tokio::sync::oneshot;

use super::Daemon;
use crate::{
    activate::process::{Answer, Request},
    api::{ApiError, VerifyView},
};

impl Daemon {
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
