//! Reaching the hosts, and what they say first.

use std::{collections::BTreeMap, time::Duration};

use scap_proto::{
    id::{NodeId, ReleaseId, SnapshotId},
    limits::SEQUENCE_JUMP_MAX,
    release::Standing,
};

use crate::{
    cli::{CliError, exit},
    fleet::{
        Host, Inventory,
        hub::{Hub, HubEvent},
        ways::Ways,
    },
};

/// How far above what is known here the sequence may be that one host alone is believed: of what was deployed from elsewhere
/// without the state branch.
const LEAD_MAX: u64 = 1_000;

/// What the hosts said when they were first reached.
pub(super) struct Greeted {
    pub(super) events: Vec<HubEvent>,
    pub(super) standings: BTreeMap<NodeId, Standing>,
    live: BTreeMap<NodeId, SnapshotId>,
    pub(super) away: BTreeMap<NodeId, String>,
}

impl Greeted {
    /// The snapshot that is live on each host that says so.
    pub(super) fn live(&self) -> impl Iterator<Item = SnapshotId> {
        self.live.values().copied()
    }

    /// Under which epochs hosts say that they were directed about a release.
    pub(super) fn directed(&self, release: ReleaseId) -> impl Iterator<Item = u64> {
        self.events.iter().filter_map(move |event| match event {
            HubEvent::Report(report) if report.release == Some(release) => Some(report.directive.0),
            _ => None,
        })
    }

    /// The highest sequence that hosts say they accepted, as far as that is believed where `known` is the highest that is signed and
    /// known here. One host alone is not to use up the numbers: of what is far above, half of the hosts must say so, unless nothing
    /// is known here.
    pub(super) fn believed_sequence(&self, known: u64) -> u64 {
        let said = |host: &Standing| host.accepted_sequence;
        let hosts = self.standings.len();
        let is_believed = |sequence: u64| {
            let saying = self.standings.values().filter(|it| said(it) >= sequence);
            let is_near = known == 0 || sequence <= known.saturating_add(LEAD_MAX);
            sequence <= known.saturating_add(SEQUENCE_JUMP_MAX)
                && (is_near || 2 * saying.count() >= hosts)
        };
        let mut highest = 0;
        for (host, standing) in &self.standings {
            let sequence = said(standing);
            match is_believed(sequence) {
                true => highest = highest.max(sequence),
                false => tracing::warn!(
                    %host, sequence, known,
                    "a host says that it accepted a sequence far above all that is known here: it is not believed"
                ),
            }
        }
        highest
    }

    /// Whether a host says that it accepted another release under this sequence.
    pub(super) fn took(&self, sequence: u64, release: ReleaseId) -> bool {
        let is_other = |it: &Standing| {
            it.accepted_sequence == sequence && it.accepted.is_some_and(|it| it != release)
        };
        self.standings.values().any(is_other)
    }

    /// That no host accepted a later release than the one of this sequence.
    ///
    /// # Errors
    /// Where one did: what was live before that is not known here.
    pub(super) fn check_none_after(&self, latest: u64) -> Result<(), CliError> {
        let accepted = self.standings.values().map(|it| it.accepted_sequence);
        let Some(unknown) = accepted.max().filter(|accepted| *accepted > latest) else {
            return Ok(());
        };
        let text =
            format!("choose what to go back to: #{unknown} is not recorded here: name the release");
        Err(CliError::usage(text).code(exit::STOPPED).hint(
            "`scap-coordinator history` lists what is; `rollback RELEASE` goes back to it, and needs no upstream"
                .to_owned(),
        ))
    }

    /// Counts as away who said nothing in the time that it had, and with it who stands behind it.
    fn miss(&mut self, inventory: &Inventory, waited: Duration) {
        let mut ways = Ways::new(inventory);
        for (host, reason) in &self.away {
            ways.heard(host, Some(reason));
        }
        let (open, behind): (Vec<&Host>, Vec<&Host>) =
            inventory.hosts.iter().partition(|host| host.via.is_empty());
        for host in open.into_iter().chain(behind) {
            let (name, reason) = (&host.name, host.silence(waited));
            if self.standings.contains_key(name) || self.away.contains_key(name) {
                continue;
            }
            let cut_off = ways.heard(name, Some(&reason));
            for (host, reason) in std::iter::once((name.clone(), reason.clone())).chain(cut_off) {
                if !self.standings.contains_key(&host) {
                    self.away.insert(host.clone(), reason.clone());
                    // The rollout tells the same reason.
                    self.events.push(HubEvent::Away { host, reason });
                }
            }
        }
    }
}

/// Waits until every host said where it stands, or `wait` passed.
pub(super) async fn greet(hub: &mut Hub, inventory: &Inventory, wait: Duration) -> Greeted {
    let mut greeted = Greeted {
        events: Vec::new(),
        standings: BTreeMap::new(),
        live: BTreeMap::new(),
        away: BTreeMap::new(),
    };
    let deadline = tokio::time::Instant::now() + wait;
    while greeted.standings.len() < inventory.hosts.len() {
        let Ok(Some(event)) = tokio::time::timeout_at(deadline, hub.events.recv()).await else {
            break;
        };
        match &event {
            HubEvent::Report(report) => {
                greeted
                    .standings
                    .insert(report.host.clone(), report.standing);
                let live = report
                    .live_snapshot()
                    .map(|live| (report.host.clone(), live));
                greeted.live.extend(live);
                greeted.away.remove(&report.host);
            }
            HubEvent::Away { host, reason } => {
                greeted.standings.remove(host);
                greeted.away.insert(host.clone(), reason.clone());
            }
            HubEvent::Connected(_) => {}
        }
        greeted.events.push(event);
    }
    greeted.miss(inventory, wait);
    greeted
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn greeted(sequences: &[u64]) -> Greeted {
        let standing = |(at, sequence): (usize, &u64)| {
            let standing = Standing {
                accepted_sequence: *sequence,
                ..Standing::default()
            };
            (format!("web{at}").parse().unwrap(), standing)
        };
        Greeted {
            events: Vec::new(),
            standings: sequences.iter().enumerate().map(standing).collect(),
            live: BTreeMap::new(),
            away: BTreeMap::new(),
        }
    }

    #[test]
    fn b4_a_host_that_lies_does_not_use_up_the_numbers() {
        for (said, known, believed) in [
            (&[7, 7, 8][..], 7, 8),
            (&[7, 7, 1_007], 7, 1_007),
            (&[7, 7, 1_008], 7, 7),
            (&[7, 7, u64::MAX], 7, 7),
            // Most know of what was deployed from elsewhere.
            (&[7, 5_000, 5_000], 7, 5_000),
            (&[u64::MAX, u64::MAX], 7, 0),
            // The state directory is lost.
            (&[0, 0, 5_000], 0, 5_000),
            (&[0, 0, SEQUENCE_JUMP_MAX + 1], 0, 0),
            (&[], 7, 0),
        ] {
            assert_eq!(greeted(said).believed_sequence(known), believed, "{said:?}");
        }
    }
}
