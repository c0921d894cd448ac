//! Keeping hosts that have the release live from going back by themselves: they do once they hear of nobody for the dead-man time.

use std::{collections::BTreeMap, time::Duration};

use scap_proto::{id::NodeId, release::Stage};

use super::{
    engine::{Engine, Output, Phase},
    host::{HostProgress, HostState, Told},
};

/// How often it is renewed in a dead-man time: three may be lost on their way.
const RENEWALS: u32 = 4;

impl Engine {
    /// After how long hosts go back that hear of nobody; none where they keep what they were told last.
    pub fn dead_man(&self) -> Option<Duration> {
        self.config.dead_man
    }

    /// When hosts are to hear again that somebody directs the release.
    pub(super) fn renewal_at(&self) -> Option<Duration> {
        let is_on = matches!(self.phase, Phase::Waves(_)) && !self.is_out_of_grant;
        let at = self.renewed_at + self.config.dead_man? / RENEWALS;
        (is_on && self.hosts.values().any(is_renewed)).then_some(at)
    }

    /// When a host is told again that did not say that it heard so.
    pub(super) fn retell_renewal_at(&self) -> Option<Duration> {
        let unheard = self.hosts.values().filter(|it| self.is_unheard_renewal(it));
        let orders = unheard.filter_map(|it| it.order.as_ref());
        orders.filter_map(Told::wake_at).min()
    }

    /// Whether a host has done what it was told, and what it is told to keep to it may not have reached it.
    pub(super) fn is_unheard_renewal(&self, progress: &HostProgress) -> bool {
        let is_on = matches!(self.phase, Phase::Waves(_)) && !self.is_out_of_grant;
        is_on && self.config.dead_man.is_some() && is_renewed(progress) && !progress.is_busy()
    }

    /// Tells all hosts that may have the release live what they were told last, as something new: nothing else shows them that
    /// somebody is there. Where each is changes nothing.
    pub(super) fn renew(&mut self, now: Duration) {
        if self.renewal_at().is_none_or(|at| now < at) {
            return;
        }
        self.renewed_at = now;
        let mut stages: BTreeMap<u8, (Stage, Vec<NodeId>)> = BTreeMap::new();
        for (host, progress) in self.hosts.iter().filter(|(_, it)| is_renewed(it)) {
            if let Some(told) = &progress.order {
                let (_, hosts) = stages
                    .entry(told.stage as u8)
                    .or_insert((told.stage, Vec::new()));
                hosts.push(host.clone());
            }
        }
        for (stage, hosts) in stages.into_values() {
            let number = self.next_number;
            self.next_number += 1;
            for host in &hosts {
                let progress = self.hosts.get_mut(host).expect("it was just found");
                progress.order = Some(Told::new(now, number, stage));
            }
            self.outputs.push_back(Output::Order {
                number,
                hosts,
                stage,
            });
        }
    }
}

/// Whether a host may have the release live and is counted on: one that is lost goes back by itself.
fn is_renewed(progress: &HostProgress) -> bool {
    use HostState::{Fetched, Fetching, Promoted, Promoting};
    let is_counted_on = matches!(progress.state, Fetching | Fetched | Promoting | Promoted);
    progress.is_touched && is_counted_on && progress.order.is_some()
}
