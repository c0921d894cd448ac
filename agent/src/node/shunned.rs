//! Peers that sent wrong bytes, whatever link they come back on.

use std::{collections::BTreeMap, time::Duration};

use scap_proto::id::NodeId;

/// How long such a peer is neither dialled nor asked: longer than a rollout takes, and not for ever, since a host
/// with bad memory gets repaired.
const SHUNNED: Duration = Duration::from_secs(600);

/// Who, and since when by the driver's clock. The engine forgets a peer with its link, and links are made anew.
#[derive(Debug, Default)]
pub(crate) struct Shunned(BTreeMap<NodeId, Duration>);

impl Shunned {
    pub(crate) fn add(&mut self, peer: NodeId, now: Duration) {
        self.0.insert(peer, now);
    }

    pub(crate) fn contains(&self, peer: &NodeId, now: Duration) -> bool {
        let since = self.0.get(peer);
        since.is_some_and(|since| now < *since + SHUNNED)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_shunned_for_ten_minutes_after_the_last_time() {
        let [evil, good]: [NodeId; 2] = ["evil", "good"].map(|name| name.parse().unwrap());
        let at = Duration::from_secs;
        let mut shunned = Shunned::default();
        assert!(!shunned.contains(&evil, at(1)));
        shunned.add(evil.clone(), at(1));
        shunned.add(evil.clone(), at(100));
        assert!(shunned.contains(&evil, at(699)));
        assert!(!shunned.contains(&evil, at(700)));
        assert!(!shunned.contains(&good, at(100)));
    }
}
