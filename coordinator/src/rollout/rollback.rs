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

    /// Has the newest wave go back that has not, once nobody of a newer one but stragglers still does, and ends when all are through.
    pub(super) fn advance_rollback(&mut self, now: Duration, cause: Cause) -> bool {
        let Some(newest) = self.next_to_go_back() else {
            if self.hosts.values().any(is_going_back) {
                return false;
            }
            let is_complete = !self.hosts.values().any(|it| it.is_touched);
            self.end(match is_complete {
                true => Verdict::RolledBack(cause),
                false => Verdict::RollbackIncomplete(cause),
            });
            return true;
        };
        if self.rollback_held_until().is_some_and(|until| now < until) {
            return false;
        }
        let of_wave = self.hosts.iter().filter(|(_, it)| it.place.0 == newest);
        let hosts = of_wave.filter(|(_, it)| must_go_back(it));
        let hosts: Vec<NodeId> = hosts.map(|(host, _)| host.clone()).collect();
        self.order(now, Stage::Revert, &BTreeMap::from([(newest, hosts)]));
        true
    }

    /// Until when the next wave to go back is held by newer ones; none where nothing holds it, or there is no next.
    pub(super) fn rollback_held_until(&self) -> Option<Duration> {
        let next = self.next_to_go_back()?;
        let newer = self.hosts.values().filter(|it| it.place.0 > next);
        let held = newer.filter(|it| is_going_back(it));
        held.filter_map(HostProgress::holds_back_until).max()
    }

    /// The newest wave of which a host is to be told to go back.
    fn next_to_go_back(&self) -> Option<usize> {
        let left = self.hosts.values().filter(|it| must_go_back(it));
        left.map(|it| it.place.0).max()
    }
}

fn is_going_back(progress: &HostProgress) -> bool {
    progress.state == HostState::Reverting
}

/// Whether a host is to be told to go back.
fn must_go_back(progress: &HostProgress) -> bool {
    progress.is_touched && !progress.gave_up && progress.state != HostState::Reverting
}
