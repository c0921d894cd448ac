//! What config files would change here, as a coordinator asks: the activator tells, which has the rights to look.

use scap_proto::{release::report::bounded_reason, wire::config::ConfigAnswer};

use super::Daemon;
use crate::{
    activate::process::{Answer, Request},
    clock, error_chain,
    node::ConfigAsked,
};

impl Daemon {
    /// Has a question answered, one at a time, while all else goes on.
    pub(super) fn config_asked(&mut self, asked: ConfigAsked) {
        let turn = self.config_turn.clone().try_acquire_owned();
        let (trust, activator) = (self.trust.clone(), self.activator.clone());
        self.cleaning.spawn(async move {
            let Ok(_turn) = turn else {
                return asked.answer(ConfigAnswer::Busy).await;
            };
            let asker = asked.coordinator.clone();
            // Who it is comes from the link, and the activator has none: this is where a question that others have is worth nothing.
            let verified = trust.verify_config_question(&asked.request, &asked.key, clock::now());
            let question = match verified {
                Ok(question) => question,
                Err(error) => {
                    let reason = error_chain(&error);
                    tracing::warn!(%asker, reason, "a question about config files is refused");
                    let refused = ConfigAnswer::Refused(bounded_reason(reason));
                    return asked.answer(refused).await;
                }
            };
            let (repo, files) = (question.repo, question.files.len());
            let request = Request::Config(Box::new(asked.request.clone()));
            let answer = match activator.ask_once(request).await {
                Ok(Answer::Config(answer)) => *answer,
                Ok(Answer::Failed(reason)) => ConfigAnswer::Failed(bounded_reason(reason.text)),
                Ok(other) => {
                    tracing::warn!(?other, "the activator answers something else");
                    ConfigAnswer::Failed("the activator answers something else".to_owned())
                }
                Err(error) => ConfigAnswer::Failed(bounded_reason(error_chain(&error))),
            };
            tracing::info!(%asker, %repo, files, "asked what config files would change");
            asked.answer(answer).await;
        });
    }
}
