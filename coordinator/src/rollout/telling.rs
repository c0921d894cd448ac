//! Orders, told once and again, and who is given up.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use scap_proto::{id::NodeId, release::Stage};

use super::{
    engine::{Engine, Output, Phase, REFINALIZE},
    host::{HostProgress, HostState, Unheard},
};

impl Engine {
    /// Gives hosts of these waves one order.
    pub(super) fn order(
        &mut self,
        now: Duration,
        stage: Stage,
        waves: &BTreeMap<usize, Vec<NodeId>>,
    ) {
        let mut hosts: Vec<NodeId> = waves.values().flatten().cloned().collect();
        if hosts.is_empty() {
            return;
        }
        hosts.sort();
        let number = self.next_number;
        self.next_number += 1;
        for (at, hosts) in waves {
            self.outputs.push_back(Output::Began {
                wave: self.config.policy.waves[*at].name.clone(),
                stage,
                hosts: hosts.len(),
            });
        }
        for host in &hosts {
            let progress = self.hosts.get_mut(host).expect("a wave's hosts are known");
            progress.be_told(now, number, stage);
            progress.state = match stage {
                Stage::Fetch => HostState::Fetching,
                Stage::Promote => HostState::Promoting,
                Stage::Revert => HostState::Reverting,
            };
            let is_stable = progress.is_finalized || self.config.is_finalized;
            progress.is_touched |= stage == Stage::Promote && !is_stable;
        }
        self.outputs.push_back(Output::Order {
            number,
            hosts,
            stage,
        });
    }

    /// Tells again who did not say that it follows what it was told.
    pub(super) fn tell_again(&mut self, now: Duration) {
        let mut orders: BTreeMap<(u64, u8), (Stage, Vec<NodeId>)> = BTreeMap::new();
        let mut refused = Vec::new();
        let is_rolling_back = matches!(self.phase, Phase::RollingBack(_));
        let renewed = self
            .hosts
            .iter()
            .filter(|(_, it)| self.is_unheard_renewal(it));
        let renewed: BTreeSet<NodeId> = renewed.map(|(host, _)| host.clone()).collect();
        for (host, progress) in &mut self.hosts {
            // Whoever still fetches while others go back may do so or not.
            let is_awaited = match is_rolling_back {
                true => progress.state == HostState::Reverting,
                false => progress.is_busy() && !self.is_out_of_grant,
            };
            let is_awaited = is_awaited || renewed.contains(host);
            let Some(told) = progress.order.as_mut().filter(|_| is_awaited) else {
                continue;
            };
            match told.take_due(now) {
                Unheard::Nothing => continue,
                Unheard::Refused(reason) => {
                    refused.push((host.clone(), HostState::Failed(reason)));
                    continue;
                }
                Unheard::Tell { is_suspect: true } => {
                    let host = host.clone();
                    self.outputs.push_back(Output::Suspect { host });
                }
                Unheard::Tell { is_suspect: false } => {}
            }
            let order = orders.entry((told.number, told.stage as u8));
            let (_, hosts) = order.or_insert((told.stage, Vec::new()));
            hosts.push(host.clone());
        }
        for ((number, _), (stage, hosts)) in orders {
            self.outputs.push_back(Output::Order {
                number,
                hosts,
                stage,
            });
        }
        for (host, state) in refused {
            self.settle(&host, state);
        }
        let again: Vec<NodeId> = self.unfinalized().cloned().collect();
        if let Phase::Finalizing { again_at, .. } = &mut self.phase
            && *again_at <= now
        {
            *again_at = now + REFINALIZE;
            self.outputs.push_back(Output::Finalize { hosts: again });
        }
    }

    pub(super) fn expire(&mut self, now: Duration) {
        let is_late = |it: &&HostProgress| self.is_watched(it) && it.deadline(&self.config) <= now;
        let late: Vec<(NodeId, HostState)> = self
            .hosts
            .iter()
            .filter(|(_, progress)| is_late(progress))
            .map(|(host, progress)| (host.clone(), progress.given_up(&self.config)))
            .collect();
        for (host, state) in late {
            self.settle(&host, state);
        }
    }

    /// Whether a host may be given up where it is.
    pub(super) fn is_watched(&self, progress: &HostProgress) -> bool {
        match &self.phase {
            Phase::Waves(turn) => {
                let is_held_for = match progress.state {
                    HostState::Promoted | HostState::Fetched => progress.place.0 <= turn.wave,
                    _ => false,
                };
                progress.is_busy() || (is_held_for && progress.away.is_some())
            }
            Phase::RollingBack(_) => progress.state == HostState::Reverting,
            _ => false,
        }
    }

    pub(super) fn settle(&mut self, host: &NodeId, state: HostState) {
        let is_rolling_back = matches!(self.phase, Phase::RollingBack(_));
        let progress = self
            .hosts
            .get_mut(host)
            .expect("only hosts of the rollout settle");
        progress.state = state.clone();
        if let HostState::Failed(because) | HostState::Unreachable(because) = &state {
            progress.failure.get_or_insert_with(|| because.clone());
            progress.gave_up = is_rolling_back;
        }
        self.outputs.push_back(Output::Settled {
            host: host.clone(),
            state,
        });
    }
}
