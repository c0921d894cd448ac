//! How fast bytes come in, over the last few seconds.

use std::{collections::BTreeMap, time::Duration};

use scap_proto::id::NodeId;

use crate::rollout::HostProgress;

/// Over how long at least a rate is told: hosts report a few times a second, in bursts.
const SPAN: Duration = Duration::from_secs(2);

/// What was there at one moment: bytes that each host had fetched.
#[derive(Debug, Clone, Default)]
struct Sample {
    at: Duration,
    bytes: BTreeMap<NodeId, u64>,
}

/// The last two samples; a rate is since the older one, so over 2 to 4 seconds.
#[derive(Debug, Default)]
pub(in crate::cli) struct Rates {
    older: Option<Sample>,
    newer: Option<Sample>,
}

impl Rates {
    /// Takes note of what hosts have now.
    pub(in crate::cli) fn note(&mut self, now: Duration, hosts: &BTreeMap<NodeId, HostProgress>) {
        let is_due = |last: &Sample| now.saturating_sub(last.at) >= SPAN;
        if self.newer.as_ref().is_none_or(is_due) {
            let bytes = hosts
                .iter()
                .map(|(name, host)| (name.clone(), fetched(host)));
            let sample = Sample {
                at: now,
                bytes: bytes.collect(),
            };
            self.older = self.newer.replace(sample);
        }
    }

    /// Bytes a second that a host fetches; none before that is known.
    pub(super) fn of(&self, now: Duration, name: &NodeId, host: &HostProgress) -> Option<f64> {
        let sample = self.older.as_ref().or(self.newer.as_ref())?;
        let span = now.saturating_sub(sample.at).as_secs_f64();
        let before = sample.bytes.get(name).copied().unwrap_or_default();
        // An agent that restarted counts from 0 again.
        let moved = fetched(host).saturating_sub(before);
        #[expect(clippy::cast_precision_loss, reason = "shown to three digits")]
        let rate = moved as f64 / span;
        (span > 0.0).then_some(rate)
    }
}

/// What a host took from others.
fn fetched(host: &HostProgress) -> u64 {
    host.bytes.seed + host.bytes.peers
}
