//! The waves: who fetches, promotes and soaks when, and what that is held back by.

use std::{collections::BTreeMap, time::Duration};

use scap_proto::{id::NodeId, reason::Reason, release::Stage};

use super::{
    engine::{Cause, Engine, Phase},
    external::Looked,
    host::{HostProgress, HostState},
    policy::{Limit, Prefetch},
};

/// Whose turn it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Turn {
    /// The wave, counted from 0.
    pub(super) wave: usize,
    pub(super) is_approved: bool,
    pub(super) soak: Soak,
    pub(super) looked: Looked,
    /// Until when those soak at least that have the release live later than others of their wave.
    pub(super) late_until: Duration,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Soak {
    #[default]
    Before,
    Until(Duration),
    Over,
}

impl Engine {
    /// Takes one step in the waves, if one may be taken.
    pub(super) fn advance_waves(&mut self, now: Duration, mut turn: Turn) -> bool {
        if matches!(turn.soak, Soak::Until(until) if until <= now) {
            turn.soak = Soak::Over;
            self.phase = Phase::Waves(turn);
        }
        // Not even back: whoever paused it has the say.
        if self.paused.is_some() {
            return false;
        }
        if let Some(cause) = self.ill.take() {
            self.roll_back(cause);
            return true;
        }
        // From the stable release nobody goes back: whoever failed is waited for as if not reached.
        if let Some((limit, failed)) = self.exceeded_by_failures(turn)
            && !self.config.is_finalized
        {
            let cause = Cause::Budget {
                of: limit.of.clone(),
                failed,
                allowed: limit.allowed,
            };
            self.roll_back(cause);
            return true;
        }
        if self.is_out_of_grant {
            return false;
        }
        if self.begin_fetch(now, turn) {
            return true;
        }
        if self.exceeded(turn).is_some() {
            return false;
        }
        let wave = &self.config.policy.waves[turn.wave];
        let is_approved = turn.is_approved || !wave.needs_approval;
        // Also hosts of earlier waves that came back.
        let waves = turn.wave + usize::from(is_approved);
        if (0..waves).any(|at| self.begin_promote(now, at)) {
            return true;
        }
        is_approved && self.end_turn(now, turn)
    }

    /// Has all hosts fetch that may and were not told to, wave by wave. Those that were told of the release before this rollout are
    /// told at once: from then on they follow nobody else's orders.
    fn begin_fetch(&mut self, now: Duration, turn: Turn) -> bool {
        let is_canary_live = turn.wave > 0 || turn.soak != Soak::Before;
        let may_fetch = |wave: usize| match self.config.policy.prefetch {
            Prefetch::All => true,
            Prefetch::Canary => wave == 0 || is_canary_live,
            Prefetch::Wave => wave <= turn.wave,
        };
        let is_due = |progress: &HostProgress| {
            let may_now = progress.was_told || may_fetch(progress.place.0);
            progress.state == HostState::Waiting && may_now
        };
        let due = self.hosts.iter().filter(|(_, it)| is_due(it));
        let due: Vec<NodeId> = due.map(|(host, _)| host.clone()).collect();
        let mut waves: BTreeMap<usize, Vec<NodeId>> = BTreeMap::new();
        for host in &due {
            let progress = &self.hosts[host];
            match &progress.away {
                // It had its time to be reached before the rollout began, or has had it since.
                Some((since, reason))
                    if progress.counter == 0 || *since + self.config.away_max <= now =>
                {
                    let state = HostState::Unreachable(Reason::Unreachable.because(reason));
                    self.settle(host, state);
                }
                _ => waves
                    .entry(progress.place.0)
                    .or_default()
                    .push(host.clone()),
            }
        }
        self.order(now, Stage::Fetch, &waves);
        !due.is_empty()
    }

    /// Has the next group of a wave promote, once nobody of the wave is still fetching, none that has fetched is away, and the group
    /// before it is through.
    fn begin_promote(&mut self, now: Duration, at: usize) -> bool {
        use HostState::{Fetched, Fetching, Promoting, Waiting};
        let of_wave = || self.hosts.iter().filter(|(_, it)| it.place.0 == at);
        let holds = |it: &HostProgress| match it.state {
            Fetching | Waiting | Promoting => true,
            Fetched => it.away.is_some(),
            _ => false,
        };
        if of_wave().any(|(_, it)| holds(it)) {
            return false;
        }
        let ready = || of_wave().filter(|(_, it)| it.state == Fetched);
        let Some(group) = ready().map(|(_, it)| it.place.1).min() else {
            return false;
        };
        let hosts = ready().filter(|(_, it)| it.place.1 == group);
        let hosts = hosts.map(|(host, _)| host.clone()).collect();
        self.order(now, Stage::Promote, &BTreeMap::from([(at, hosts)]));
        true
    }

    /// Begins to soak, or ends the turn, once all hosts of the wave are settled.
    fn end_turn(&mut self, now: Duration, turn: Turn) -> bool {
        use HostState::{Fetched, Promoted, Waiting};
        let mut of_wave = self.hosts.values().filter(|it| it.place.0 == turn.wave);
        if of_wave.any(|it| it.is_busy() || matches!(it.state, Fetched | Waiting)) {
            return false;
        }
        if !matches!(turn.soak, Soak::Until(_))
            && let Some(has_begun) = self.look_from_outside(now, turn)
        {
            return has_begun;
        }
        let wave = &self.config.policy.waves[turn.wave];
        let mut of_wave = self.hosts.values().filter(|it| it.place.0 == turn.wave);
        let is_live = of_wave.any(|it| it.state == Promoted);
        let until = if is_live { now + wave.soak } else { now };
        let until = until.max(turn.late_until);
        if turn.soak == Soak::Before && until > now {
            self.phase = Phase::Waves(Turn {
                soak: Soak::Until(until),
                looked: Looked::NotYet,
                ..turn
            });
            return true;
        }
        // Who is away has not been seen to bear it, also of an earlier wave.
        let is_away = |it: &HostProgress| {
            it.place.0 <= turn.wave && matches!(it.state, Promoted | Fetched) && it.away.is_some()
        };
        if matches!(turn.soak, Soak::Until(_)) || self.hosts.values().any(is_away) {
            return false;
        }
        if turn.wave + 1 < self.config.policy.waves.len() {
            let wave = turn.wave + 1;
            self.phase = Phase::Waves(Turn {
                wave,
                ..Turn::default()
            });
            return true;
        }
        if self.hosts.values().any(HostProgress::is_busy) {
            return false;
        }
        self.finalize(now);
        true
    }

    /// A host that has the release live now soaks as long as the others of its wave, where these began before it: the soak goes on for
    /// it, or begins anew.
    pub(super) fn soak_late(&mut self, now: Duration, host: &NodeId) {
        let Phase::Waves(turn) = &mut self.phase else {
            return;
        };
        let at = self.hosts[host].place.0;
        let has_begun = at < turn.wave || turn.soak != Soak::Before;
        let until = now + self.config.policy.waves[at].soak;
        if !has_begun || until <= now {
            return;
        }
        turn.late_until = turn.late_until.max(until);
        turn.soak = match turn.soak {
            Soak::Before => Soak::Before,
            Soak::Until(other) => Soak::Until(other.max(until)),
            Soak::Over => Soak::Until(until),
        };
        // It was not live when the others were looked at.
        turn.looked = Looked::NotYet;
    }

    /// The first limit, of a wave whose turn has come, that failed hosts alone exceed, and how many failed.
    fn exceeded_by_failures(&self, turn: Turn) -> Option<(&Limit, usize)> {
        let is_failed =
            |it: &HostProgress| matches!(it.state, HostState::Failed(_)) && it.is_lost();
        self.first_exceeded(turn, is_failed)
    }

    /// The first limit, of a wave whose turn has come, that all lost hosts together exceed, and how many are lost.
    pub(super) fn exceeded(&self, turn: Turn) -> Option<(&Limit, usize)> {
        self.first_exceeded(turn, HostProgress::is_lost)
    }

    fn first_exceeded(
        &self,
        turn: Turn,
        counts: impl Fn(&HostProgress) -> bool,
    ) -> Option<(&Limit, usize)> {
        let waves = &self.config.policy.waves[..=turn.wave];
        let mut limits = waves.iter().flat_map(|wave| &wave.limits);
        limits.find_map(|limit| {
            let lost = limit.hosts.iter().filter(|host| counts(&self.hosts[*host]));
            let lost = lost.count();
            (lost > limit.allowed).then_some((limit, lost))
        })
    }
}
