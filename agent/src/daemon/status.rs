//! What the daemon says of itself.

use super::Daemon;
use crate::{
    api::{AuthorityView, IdentityView, RepoView, StatusView},
    clock,
};

impl Daemon {
    pub(super) async fn status(&mut self) -> StatusView {
        let mut releases = Vec::new();
        for key in self.repos.keys().cloned().collect::<Vec<_>>() {
            let progress = self.progress(&key).await;
            let repo = &self.repos[&key];
            let about = repo.saved.accepted_release();
            let about = about.and_then(|release| release.read_unverified().ok());
            releases.push(RepoView::new(repo, about.as_ref(), progress));
        }
        let waiting = releases.iter().find(|release| release.waiting.is_some());
        let (waiting, waiting_code) = match waiting {
            Some(release) => (release.waiting.clone(), release.code),
            None => (None, None),
        };
        let usage = self.node.store().usage().ok();
        StatusView {
            schema: "scap.agent-status/1",
            name: self.trust.addressee.host.clone(),
            identity: IdentityView::new(&self.trust.identity, clock::now()),
            address: self.node.address(),
            deploy_root: self.config.deploy_root.clone(),
            releases,
            waiting,
            waiting_code,
            store_chunks: usage.as_ref().map(|usage| usage.chunks),
            store_bytes: usage.as_ref().map(|usage| usage.encoded_bytes),
            dropped_peers: self.dropped.clone(),
            shunned: self.node.shunned().into_iter().map(Into::into).collect(),
            first_packets_dropped: self.node.first_packets_dropped(),
            limits: self.limiter.view(clock::now()),
            catch_up: self.catch_up_view(),
            watch: self.watch_view(),
            trust: self.trust_view(),
            authority: AuthorityView::of(&self.trust),
            confinement: self.confinement.into(),
        }
    }
}
