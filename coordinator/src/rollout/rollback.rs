//! Going back: all hosts that were touched, and no others, the newest wave first.

use std::{collections::BTreeMap, time::Duration};

use scap_proto::{id::NodeId, release::Stage};

use super::{
    engine::{Cause, Engine, Output, Phase, Verdict},
    host::{HostProgress, HostState},
};

impl Engine {
    /// Takes every host that was touched back to what it ran before. What was told to others they may finish: it changes nothing
    /// of what is live.
    pub(super) fn roll_back(&mut self, cause: Cause) {
        self.paused = None;
        self.outputs.push_back(Output::RollsBack(cause.clone()));
        self.phase = Phase::RollingBack(cause);
    }

    /// Has the newest wave go back that has not, and ends when there is none.
    pub(super) fn advance_rollback(&mut self, now: Duration, cause: Cause) -> bool {
        let is_left = |it: &&HostProgress| it.state == HostState::Reverting || must_go_back(it);
        let newest = self.hosts.values().filter(is_left).map(|it| it.place.0);
        let Some(newest) = newest.max() else {
            let is_complete = !self.hosts.values().any(|it| it.is_touched);
            self.end(match is_complete {
                true => Verdict::RolledBack(cause),
                false => Verdict::RollbackIncomplete(cause),
            });
            return true;
        };
        let of_wave = self.hosts.iter().filter(|(_, it)| it.place.0 == newest);
        let hosts = of_wave.filter(|(_, it)| must_go_back(it));
        let hosts: Vec<NodeId> = hosts.map(|(host, _)| host.clone()).collect();
        let has_any = !hosts.is_empty();
        self.order(now, Stage::Revert, &BTreeMap::from([(newest, hosts)]));
        has_any
    }
}

/// Whether a host is to be told to go back.
fn must_go_back(progress: &HostProgress) -> bool {
    progress.is_touched && !progress.gave_up && progress.state != HostState::Reverting
}
