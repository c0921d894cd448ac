//! What this host saw that nobody honest does: counted for each who did it, and told in its reports.

use std::collections::BTreeMap;

use scap_proto::{
    id::NodeId,
    reason::Reason,
    release::{SIGHTINGS_MAX, Sighting, UnixMillis},
};

/// How long it is told, in milliseconds: what was seen between two deployments is told in the next, and not for ever, since a disk
/// gets repaired.
const TOLD_MILLIS: u64 = 24 * 3600 * 1000;

/// All of them, at most [`SIGHTINGS_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Sightings(BTreeMap<(Reason, Option<NodeId>), Seen>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    count: u32,
    last: UnixMillis,
}

impl Sightings {
    /// One more. Where there are as many as may be, the one that was seen last the longest ago is forgotten.
    pub(crate) fn note(&mut self, code: Reason, peer: Option<&NodeId>, now: UnixMillis) {
        let key = (code, peer.cloned());
        if !self.0.contains_key(&key) && self.0.len() == SIGHTINGS_MAX {
            let oldest = self.0.iter().min_by_key(|(_, seen)| seen.last);
            let oldest = oldest.map(|(key, _)| key.clone());
            oldest.map(|key| self.0.remove(&key));
        }
        let seen = self.0.entry(key).or_insert(Seen {
            count: 0,
            last: now,
        });
        seen.count = seen.count.saturating_add(1);
        seen.last = now;
    }

    /// Those of the last day.
    pub(crate) fn told(&self, now: UnixMillis) -> Vec<Sighting> {
        let is_of_today = |seen: &Seen| now.0.saturating_sub(seen.last.0) < TOLD_MILLIS;
        let all = self.0.iter().filter(|(_, seen)| is_of_today(seen));
        let sighting = |((code, peer), seen): (&(Reason, Option<NodeId>), &Seen)| Sighting {
            code: *code,
            peer: peer.clone(),
            count: seen.count,
            last: seen.last,
        };
        all.map(sighting).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_told_for_a_day_and_the_oldest_makes_room() {
        let mut sightings = Sightings::default();
        let evil: NodeId = "evil".parse().unwrap();
        sightings.note(Reason::WrongBytes, Some(&evil), UnixMillis(1));
        sightings.note(Reason::WrongBytes, Some(&evil), UnixMillis(5));
        let seen = Sighting {
            code: Reason::WrongBytes,
            peer: Some(evil),
            count: 2,
            last: UnixMillis(5),
        };
        let told = sightings.told(UnixMillis(TOLD_MILLIS));
        assert_eq!(told, std::slice::from_ref(&seen));
        assert_eq!(sightings.told(UnixMillis(TOLD_MILLIS + 5)), []);
        for number in 0..SIGHTINGS_MAX {
            let peer = format!("host{number}").parse().unwrap();
            sightings.note(Reason::RefusedSequence, Some(&peer), UnixMillis(6));
        }
        let told = sightings.told(UnixMillis(7));
        assert_eq!(told.len(), SIGHTINGS_MAX);
        assert!(!told.contains(&seen));
    }
}
