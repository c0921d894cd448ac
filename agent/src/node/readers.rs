//! Who may read a release: whom it is addressed to, and what that takes of who asks.
//!
//! Two things that were signed say it, and both must agree. The release's plan, which its directives name, says which hosts
//! take it; and a host's membership, which it shows at the start of a link, says by a coordinator's word which environments and
//! audiences it is in. What a host says of itself counts for nothing.

use scap_proto::{
    id::NodeId,
    identity::{PeerIdentity, Role},
    reason::Reason,
    release::{Audience, Environment, Membership, Release},
};

use super::{Shared, driver::Driver};
use crate::{clock, swarm::PeerId};

/// Whom a release is addressed to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readers {
    /// Those who are in this environment.
    pub environment: Environment,
    /// And in this audience.
    pub audience: Audience,
}

impl Readers {
    /// Those of a release.
    pub fn of(release: &Release) -> Self {
        Self {
            environment: release.environment.clone(),
            audience: release.audience.clone(),
        }
    }

    /// Whether a node may read it that is `named` by the release's plan, or was admitted, and shows a membership or none. Without one
    /// the plan alone says so, but for what is for some alone.
    ///
    /// # Errors
    /// Why it may not.
    pub fn admit(&self, is_named: bool, shown: Option<&Membership>) -> Result<(), Reason> {
        match shown {
            _ if !is_named => Err(Reason::OutsidePlan),
            Some(shown) if shown.includes(&self.environment, &self.audience) => Ok(()),
            Some(_) => Err(Reason::OutsideAudience),
            None if self.audience == Audience::default() => Ok(()),
            None => Err(Reason::NoMembership),
        }
    }

    /// Whether a host may hear where another one stands with what is for these. No plan says so before it is deployed: so it takes a
    /// membership, unless `is_unknown`: who is asked has none itself, so that in its fleet nobody may have one.
    ///
    /// # Errors
    /// Why it may not.
    pub fn admit_to_reports(
        &self,
        shown: Option<&Membership>,
        is_unknown: bool,
    ) -> Result<(), Reason> {
        match shown {
            Some(shown) if shown.includes(&self.environment, &self.audience) => Ok(()),
            Some(_) => Err(Reason::OutsideAudience),
            None if is_unknown => Ok(()),
            None => Err(Reason::NoMembership),
        }
    }
}

impl Shared {
    /// What a peer shows, if it is a host and a coordinator says so of it.
    pub(super) fn believe(
        &self,
        peer: &PeerIdentity,
        shown: Option<scap_proto::release::SignedMembership>,
    ) -> Option<Membership> {
        let shown = shown.filter(|_| peer.role == Role::Agent)?;
        match shown.verify(self.identity.trust(), &peer.name, clock::now()) {
            Ok(membership) => Some(membership),
            Err(error) => {
                let error = crate::error_chain(&error);
                tracing::warn!(peer = %peer.name, error, "a membership is not believed");
                None
            }
        }
    }
}

impl Driver {
    /// A peer showed what it is in: what it opened before may be for it, or no longer.
    pub(super) fn shown(&mut self, peer: PeerId, membership: Membership) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.membership = Some(membership);
            self.serve_waiting(peer);
        }
    }

    /// Notes that a peer asked for what it may not have. It is told nothing, as of what is not here.
    pub(super) fn deny(&self, peer: &NodeId, reason: Reason) {
        self.shared.denials().note(peer, reason);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn membership(environments: &[&str], audiences: &[&str]) -> Membership {
        Membership {
            host: "web1".parse().unwrap(),
            environments: environments.iter().map(|it| it.parse().unwrap()).collect(),
            audiences: audiences.iter().map(|it| it.parse().unwrap()).collect(),
            extensions: Default::default(),
        }
    }

    fn readers(audience: &str) -> Readers {
        Readers {
            environment: Environment::default(),
            audience: audience.parse().unwrap(),
        }
    }

    #[test]
    fn a12_who_no_plan_names_and_who_is_in_another_environment_or_audience_may_not_read() {
        let ours = membership(&["production"], &["all", "edge"]);
        let staging = membership(&["staging"], &["all", "edge"]);
        let others = membership(&["production"], &["all"]);
        use Reason::{NoMembership, OutsideAudience, OutsidePlan};
        for (audience, is_named, shown, expected) in [
            ("all", true, Some(&ours), Ok(())),
            ("all", true, Some(&staging), Err(OutsideAudience)),
            ("edge", true, Some(&ours), Ok(())),
            ("edge", true, Some(&others), Err(OutsideAudience)),
            ("edge", true, None, Err(NoMembership)),
            ("all", true, None, Ok(())),
            ("all", false, Some(&ours), Err(OutsidePlan)),
            ("all", false, None, Err(OutsidePlan)),
        ] {
            let admitted = readers(audience).admit(is_named, shown);
            assert_eq!(admitted, expected, "{audience} {is_named} {shown:?}");
        }
    }

    #[test]
    fn a12_where_a_host_stands_is_told_to_those_of_the_same_audience_alone() {
        let ours = membership(&["production"], &["all"]);
        let staging = membership(&["staging"], &["all"]);
        let all = readers("all");
        for is_unknown in [false, true] {
            assert_eq!(all.admit_to_reports(Some(&ours), is_unknown), Ok(()));
            let staging = all.admit_to_reports(Some(&staging), is_unknown);
            assert_eq!(staging, Err(Reason::OutsideAudience));
        }
        assert_eq!(all.admit_to_reports(None, false), Err(Reason::NoMembership));
        assert_eq!(all.admit_to_reports(None, true), Ok(()));
    }
}
