//! What others asked for and may not have: counted for each of them, and logged now and then.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use scap_proto::{id::NodeId, reason::Reason};

/// Most peers and reasons that are counted: more than misbehave at a time in any fleet that works. Of one more only the log tells.
const DENIALS_MAX: usize = 256;

/// How often the same peer is in the log for the same reason, at most: who asks for ever does not fill the disk.
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// How often one peer asked for what it may not have, for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Who asked.
    pub peer: NodeId,
    /// Why it got nothing.
    pub reason: Reason,
    /// How often, since the start.
    pub count: u64,
    /// When last.
    pub last: Instant,
    logged: Instant,
}

/// All of them since the start.
#[derive(Debug, Default)]
pub(crate) struct Denials(BTreeMap<(NodeId, Reason), Denial>);

impl Denials {
    /// Counts one more.
    pub(crate) fn note(&mut self, peer: &NodeId, reason: Reason) {
        if self.note_at(peer, reason, Instant::now()) {
            let count = self.count(peer, reason);
            tracing::warn!(%peer, code = %reason, count, "asked for what it may not have");
        }
    }

    /// Counts one more, and says whether that is to be logged.
    fn note_at(&mut self, peer: &NodeId, reason: Reason, now: Instant) -> bool {
        let key = (peer.clone(), reason);
        if let Some(denial) = self.0.get_mut(&key) {
            denial.count += 1;
            denial.last = now;
            let is_due = denial.logged + LOG_PERIOD <= now;
            denial.logged = if is_due { now } else { denial.logged };
            return is_due;
        }
        if self.0.len() == DENIALS_MAX {
            return false;
        }
        let denial = Denial {
            peer: peer.clone(),
            reason,
            count: 1,
            last: now,
            logged: now,
        };
        self.0.insert(key, denial);
        true
    }

    fn count(&self, peer: &NodeId, reason: Reason) -> u64 {
        let denial = self.0.get(&(peer.clone(), reason));
        denial.map_or(0, |denial| denial.count)
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Denial> {
        self.0.values().cloned().collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn each_denial_counts_and_few_are_logged() {
        let mut denials = Denials::default();
        let evil: NodeId = "evil".parse().unwrap();
        let start = Instant::now();
        let mut logged = 0;
        for second in 0..150 {
            let at = start + Duration::from_secs(second);
            logged += u32::from(denials.note_at(&evil, Reason::OutsidePlan, at));
        }
        assert_eq!(logged, 3, "at 0, 60 and 120 s");
        assert!(denials.note_at(&evil, Reason::OutsideAudience, start));
        let counts: Vec<u64> = denials.all().iter().map(|it| it.count).collect();
        assert_eq!(counts, [150, 1]);
        for number in 0..2 * DENIALS_MAX {
            let name = format!("host{number}").parse().unwrap();
            denials.note_at(&name, Reason::OutsidePlan, start);
        }
        assert_eq!(denials.all().len(), DENIALS_MAX);
        assert_eq!(denials.count(&evil, Reason::OutsidePlan), 150);
    }
}
