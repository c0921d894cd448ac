//! What the engine waits for, looked up in its state.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use scap_proto::{id::NodeId, release::Step};

use super::{
    engine::{Engine, Phase},
    external::Looked,
    host::{HostProgress, HostState},
    wait::{Wait, WaitingOn},
    waves::{Soak, Turn},
};

impl Engine {
    /// What it waits for now; [`Wait::since`] is not known here.
    pub(super) fn waiting_on(&self) -> Option<Wait> {
        match &self.phase {
            Phase::Connecting | Phase::Ended => None,
            Phase::Waves(turn) => Some(self.wait_of_waves(*turn)),
            Phase::RollingBack(_) => {
                let is_reverting = |it: &HostProgress| it.state == HostState::Reverting;
                let hosts = self.named(is_reverting);
                let waves = hosts.iter().map(|host| self.hosts[host].place.0);
                let wave = waves.max();
                Some(self.busy(WaitingOn::Rollback, wave, hosts))
            }
            Phase::Finalizing { until, .. } => Some(Wait {
                on: WaitingOn::Finalization,
                wave: None,
                hosts: self.unfinalized().cloned().collect(),
                steps: BTreeMap::new(),
                since: Duration::ZERO,
                until: Some(*until),
            }),
        }
    }

    fn wait_of_waves(&self, turn: Turn) -> Wait {
        let held = |on, hosts, until| Wait {
            on,
            wave: Some(self.config.policy.waves[turn.wave].name.clone()),
            steps: self.steps_of(&hosts),
            hosts,
            since: Duration::ZERO,
            until,
        };
        if self.is_out_of_grant {
            let hosts = self.named(HostProgress::is_busy);
            return Wait {
                wave: None,
                ..held(WaitingOn::Grant, hosts, None)
            };
        }
        if self.paused.is_some() {
            let hosts = self.named(HostProgress::is_busy);
            return Wait {
                wave: None,
                ..held(WaitingOn::Paused, hosts, None)
            };
        }
        let is_here = |it: &HostProgress| it.place.0 == turn.wave;
        let is_fetching = |it: &HostProgress| match it.state {
            HostState::Fetching => true,
            HostState::Fetched => it.away.is_some(),
            _ => false,
        };
        let is_promoting = |it: &HostProgress| it.state == HostState::Promoting;
        let in_turn = Some(turn.wave);
        let fetching = self.named(|it| is_here(it) && is_fetching(it));
        if !fetching.is_empty() {
            return self.busy(WaitingOn::Chunks, in_turn, fetching);
        }
        let promoting = self.named(|it| is_here(it) && is_promoting(it));
        if !promoting.is_empty() {
            return self.busy(WaitingOn::Promotion, in_turn, promoting);
        }
        if let Some((limit, _)) = self.exceeded(turn) {
            let lost = limit
                .hosts
                .iter()
                .filter(|host| self.hosts[*host].is_lost());
            return held(WaitingOn::Budget, lost.cloned().collect(), None);
        }
        if self.config.policy.waves[turn.wave].needs_approval && !turn.is_approved {
            return held(WaitingOn::Approval, BTreeSet::new(), None);
        }
        if let (Looked::Looking(_, since), Some(check)) = (turn.looked, &self.config.external_check)
        {
            let live = self.named(|it| is_here(it) && it.state == HostState::Promoted);
            return held(WaitingOn::ExternalCheck, live, Some(since + check.timeout));
        }
        let is_away = |it: &HostProgress| it.state == HostState::Promoted && it.away.is_some();
        let away = self.named(|it| it.place.0 <= turn.wave && is_away(it));
        match turn.soak {
            Soak::Until(until) => held(WaitingOn::Soak, away, Some(until)),
            _ if !away.is_empty() => self.busy(WaitingOn::Soak, in_turn, away),
            // Hosts of earlier waves that came back, before all is finalized.
            _ => match self.named(is_promoting) {
                promoting if !promoting.is_empty() => {
                    self.busy(WaitingOn::Promotion, None, promoting)
                }
                _ => self.busy(WaitingOn::Chunks, None, self.named(is_fetching)),
            },
        }
    }

    /// A wait for hosts that are given up when they make no progress.
    fn busy(&self, on: WaitingOn, wave: Option<usize>, hosts: BTreeSet<NodeId>) -> Wait {
        let deadlines = hosts
            .iter()
            .map(|host| self.hosts[host].deadline(&self.config));
        Wait {
            on,
            wave: wave.map(|at| self.config.policy.waves[at].name.clone()),
            until: deadlines.min(),
            since: Duration::ZERO,
            steps: self.steps_of(&hosts),
            hosts,
        }
    }

    /// What these hosts say that they are at.
    fn steps_of(&self, hosts: &BTreeSet<NodeId>) -> BTreeMap<Step, BTreeSet<NodeId>> {
        let mut steps: BTreeMap<Step, BTreeSet<NodeId>> = BTreeMap::new();
        for host in hosts {
            if let Some(step) = &self.hosts[host].step {
                let at = steps.entry(step.clone()).or_default();
                at.insert(host.clone());
            }
        }
        steps
    }

    fn named(&self, is_one: impl Fn(&HostProgress) -> bool) -> BTreeSet<NodeId> {
        let found = self.hosts.iter().filter(|(_, it)| is_one(it));
        found.map(|(host, _)| host.clone()).collect()
    }
}
