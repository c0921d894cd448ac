//! How often a peer may ask for releases: opening them on links, and asking which are stable.
//!
//! What it may have and what there is not counts alike, so that being turned away says nothing.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use scap_proto::{id::NodeId, limits::OPEN_RELEASES_PER_PEER_MAX};

/// Most asks at once: a peer whose link is made anew opens all again, four times in a row.
const ASKS_MAX: usize = 4 * OPEN_RELEASES_PER_PEER_MAX;

/// How long it takes until one more is free: all of them in two minutes.
const ASK_PERIOD: Duration = Duration::from_millis(250);

/// What is left to each peer that asked lately.
#[derive(Debug, Default)]
pub(crate) struct Asks(BTreeMap<NodeId, Left>);

#[derive(Debug)]
struct Left {
    asks: usize,
    /// When the last of them came back.
    at: Instant,
}

impl Asks {
    /// Takes one ask of a peer, if any is left to it.
    pub(crate) fn take(&mut self, peer: &NodeId, now: Instant) -> bool {
        self.0.retain(|_, left| {
            left.refill(now);
            left.asks < ASKS_MAX
        });
        let left = self.0.entry(peer.clone()).or_insert(Left {
            asks: ASKS_MAX,
            at: now,
        });
        let is_left = left.asks > 0;
        left.asks -= usize::from(is_left);
        is_left
    }
}

impl Left {
    fn refill(&mut self, now: Instant) {
        let periods = now.saturating_duration_since(self.at).as_millis() / ASK_PERIOD.as_millis();
        let back = u32::try_from(periods).unwrap_or(u32::MAX);
        self.at += ASK_PERIOD.saturating_mul(back);
        let back = usize::try_from(back).unwrap_or(usize::MAX);
        self.asks = self.asks.saturating_add(back).min(ASKS_MAX);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn who_asks_all_the_time_is_turned_away_and_nobody_else() {
        let [evil, good]: [NodeId; 2] = ["evil", "good"].map(|name| name.parse().unwrap());
        let mut asks = Asks::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let taken = (0..10 * ASKS_MAX).filter(|_| asks.take(&evil, at(0)));
        assert_eq!(taken.count(), ASKS_MAX);
        assert!(asks.take(&good, at(0)));
        assert!(!asks.take(&evil, at(249)));
        assert!(asks.take(&evil, at(250)) && !asks.take(&evil, at(250)));
        // Who has all left is not kept.
        asks.take(&good, at(10_000_000));
        assert_eq!(asks.0.len(), 1);
    }
}
