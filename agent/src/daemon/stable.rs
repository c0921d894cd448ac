//! The stable releases of this host as others see them: who asks hears of them, and opens them with the node.

use std::sync::Arc;

use scap_proto::{
    id::{NodeId, ReleaseId},
    identity::Role,
    reason::Reason,
    release::{Membership, Plan, PlanHost, Release, TopologyKind},
};

use super::{Daemon, Repo, RepoKey};
use crate::{
    clock,
    node::{Job, Question, Readers, Sources},
};

impl Daemon {
    /// Answers which releases are stable: those that are here whole, and that whoever asks may have. Whether one is meant for it
    /// the finalization says, and it reads for itself.
    pub(super) async fn question(&mut self, question: Question) {
        let name = question.peer.name.clone();
        let mut answer = Vec::new();
        let membership = self.membership_of(&question);
        let keys = self.repos.keys().cloned();
        let keys: Vec<RepoKey> = keys.filter(|key| is_about(&question, key)).collect();
        for key in keys {
            let repo = &self.repos[&key];
            for finalize in repo.saved.stable() {
                let Ok(stable) = finalize.release.read_unverified() else {
                    continue;
                };
                if let Err(reason) = may_have(repo, &stable, &name, membership.as_ref()) {
                    // Who asks for all there is asks for what is for it.
                    if question.about.repo.is_some() {
                        self.node.deny(&name, reason);
                    }
                    continue;
                }
                let release = finalize.release.id();
                let status = self.node.status(release).await;
                if status.is_some_and(|it| it.fetched_in.is_some()) {
                    self.node.admit(release, &name).await;
                    answer.push(finalize.clone());
                }
            }
        }
        self.catching.answered += 1;
        tracing::debug!(peer = %name, releases = answer.len(), "asked for what is stable");
        self.cleaning.spawn(question.answer(answer));
    }

    /// What whoever asks is in, by the word of a coordinator.
    fn membership_of(&self, question: &Question) -> Option<Membership> {
        let peer = &question.peer;
        let shown = question.about.membership.as_ref()?;
        if peer.role != Role::Agent {
            return None;
        }
        match shown.verify(self.trust.identity.trust(), &peer.name, clock::now()) {
            Ok(membership) => Some(membership),
            Err(error) => {
                let error = crate::error_chain(&error);
                tracing::warn!(peer = %peer.name, error, "a membership is not believed");
                self.node.deny(&peer.name, Reason::NoMembership);
                None
            }
        }
    }

    /// Serves the stable releases also while another one is accepted, and no longer than they are stable ones.
    pub(super) async fn serve_beside(&mut self, key: &RepoKey) {
        let repo = self.repo(key);
        let (wanted, serving) = (repo.stable_beside(), repo.beside.clone());
        if wanted == serving {
            return;
        }
        for old in &serving - &wanted {
            self.end_beside(key, old).await;
        }
        let stable: Vec<_> = self.repo(key).saved.stable().cloned().collect();
        for finalize in stable {
            let release = finalize.release.id();
            if !wanted.contains(&release) || serving.contains(&release) {
                continue;
            }
            if let Ok(stable) = finalize.release.read_unverified() {
                let us = &self.trust.addressee.host;
                let plan = own_plan(us, &[]);
                let job = job(release, &stable, plan, Vec::new());
                self.node.attach(job).await;
                self.repo(key).beside.insert(release);
            }
        }
    }

    /// A release is no longer served beside what was accepted: it is that itself, or not stable any more.
    pub(super) async fn end_beside(&mut self, key: &RepoKey, release: ReleaseId) {
        if self.repo(key).beside.remove(&release) {
            self.node.detach(release).await;
        }
    }

    /// The job of a release that was accepted without an order: it is fetched from who said to have it.
    pub(super) fn own_job(&mut self, key: &RepoKey, release: ReleaseId, about: &Release) -> Job {
        let us = self.trust.addressee.host.clone();
        let providers = &self.repo(key).providers;
        let names = providers.iter().map(|it| it.name.clone()).collect();
        job(release, about, own_plan(&us, providers), names)
    }
}

fn job(release: ReleaseId, about: &Release, plan: Plan, sources: Vec<NodeId>) -> Job {
    Job {
        release,
        readers: Readers::of(about),
        snapshot: about.snapshot,
        plan: Arc::new(plan),
        sources: Sources::Only(sources),
        list_end: 0,
        deltas: Vec::new(),
        config: about.config,
        priority: about.priority(),
    }
}

/// The plan of a host that has none of a coordinator's: itself, and those that have the release. It is sent to nobody.
fn own_plan(us: &NodeId, providers: &[PlanHost]) -> Plan {
    let ourselves = PlanHost {
        name: us.clone(),
        addresses: Vec::new(),
        site: String::new(),
        rack: String::new(),
        wave: 0,
    };
    let mut hosts = providers.to_vec();
    hosts.retain(|host| host.name != *us);
    hosts.push(ourselves);
    hosts.sort_by(|a, b| a.name.cmp(&b.name));
    Plan {
        seed: us.clone(),
        hosts,
        topology: TopologyKind::Swarm,
        degree: 1,
        fanout: 1,
        random_seed: 0,
        extensions: Default::default(),
    }
}

fn is_about(question: &Question, (repo, environment): &RepoKey) -> bool {
    let about = &question.about;
    about.repo.as_ref().is_none_or(|it| it == repo)
        && about
            .environment
            .as_ref()
            .is_none_or(|it| it == environment)
}

/// Whether a host may have the stable release: a coordinator says that it is in its environment and audience; of a host that shows
/// nothing, a plan of the same ones names it.
///
/// # Errors
/// Why not.
fn may_have(
    repo: &Repo,
    stable: &Release,
    host: &NodeId,
    membership: Option<&Membership>,
) -> Result<(), Reason> {
    let is_named = || {
        let accepted = repo.saved.accepted_release();
        let accepted = accepted.and_then(|it| it.read_unverified().ok());
        let is_same = accepted.is_some_and(|it| it.audience == stable.audience);
        let plan = repo.saved.plan.as_ref().filter(|_| is_same);
        plan.is_some_and(|(id, bytes)| {
            Plan::decode(*id, bytes).is_ok_and(|plan| plan.host(host).is_some())
        })
    };
    let is_named = membership.is_some() || is_named();
    Readers::of(stable).admit(is_named, membership)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_plan_of_ones_own_names_itself_and_who_has_the_release_in_order() {
        let host = |name: &str| PlanHost {
            name: name.parse().unwrap(),
            addresses: vec!["10.0.0.2:7227".parse().unwrap()],
            site: String::new(),
            rack: String::new(),
            wave: 0,
        };
        let plan = own_plan(&"b".parse().unwrap(), &[host("c"), host("b"), host("a")]);
        let (id, bytes) = plan.encode();
        let read = Plan::decode(id, &bytes).unwrap();
        let names: Vec<&str> = read.hosts.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert!(
            read.host(&"b".parse().unwrap())
                .unwrap()
                .addresses
                .is_empty()
        );
    }
}
