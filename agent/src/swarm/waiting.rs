//! What a transfer waits for, and what it has done: for `status`, the dashboard and the report.

use std::{collections::BTreeMap, time::Duration};

use scap_proto::reason::Reason;

use super::{
    engine::Swarm,
    event::{PeerId, TransferId},
    transfer::{Side, Transfer},
};

/// How long nothing may come, at least, before a host asks for the origin. By then lanes that stand still are given up.
const STARVING_MIN: Duration = Duration::from_secs(5);

/// Why a transfer is not complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// No chunk of it is known yet.
    Unknown,
    /// Storing failed on this host; nothing is asked for before then.
    Local {
        /// On the engine's clock.
        until: Duration,
    },
    /// No connected peer may be asked for it.
    NoPeers,
    /// Requests are on their way.
    InFlight {
        /// How many.
        chunks: u32,
        /// Since when the oldest is, on the engine's clock.
        oldest: Duration,
    },
    /// The peers that hold what is missing are paused: they were busy, slow or silent.
    PeersPaused {
        /// When the first is asked again, on the engine's clock.
        until: Duration,
    },
    /// Upstreams push what is missing, as they come to hold it.
    Pushes {
        /// How many chunks are missing.
        missing: u32,
    },
    /// All bytes that may be in flight are, for other transfers.
    Budget {
        /// How many.
        in_flight_bytes: u64,
    },
    /// No peer that may be asked says it holds these.
    NobodyHas {
        /// Of all that is missing, how many chunks.
        missing: u32,
    },
    /// The peers that hold what is missing have no room: other transfers fill their queues.
    PeersBusy,
}

impl Waiting {
    /// Its code.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unknown => Reason::FirstChunk,
            Self::Local { .. } => Reason::LocalDisk,
            Self::NoPeers => Reason::NoPeers,
            Self::InFlight { .. } => Reason::InFlight,
            Self::PeersPaused { .. } => Reason::PeersPaused,
            Self::Pushes { .. } => Reason::Pushes,
            Self::Budget { .. } => Reason::OtherReleases,
            Self::NobodyHas { .. } => Reason::NobodyHas,
            Self::PeersBusy => Reason::PeersBusy,
        }
    }
}

/// What a transfer has come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TransferStats {
    /// Chunks known.
    pub chunks: u32,
    /// Of them, not held.
    pub missing: u32,
    /// Of these, in flight.
    pub in_flight: u32,
    /// Encoded bytes received, by peer, of peers that are gone too.
    pub received_bytes: BTreeMap<PeerId, u64>,
    /// Of them, bytes of chunks that were held by then.
    pub duplicate_bytes: u64,
}

impl Swarm {
    /// What a transfer waits for; `None` where it waits for nothing: it is complete, or not here.
    /// Looks at every chunk: for people, not for every event.
    pub fn waiting(&self, transfer: TransferId) -> Option<Waiting> {
        let it = self.transfers.get(&transfer)?;
        if it.lengths.is_empty() {
            return Some(Waiting::Unknown);
        }
        if it.missing == 0 {
            return None;
        }
        let chunks = u32::try_from(it.asked.len()).unwrap_or(u32::MAX);
        let sent_at = |(index, peers): (&u32, &Vec<PeerId>)| {
            let sent = |peer| Some(self.peers.get(peer)?.requests.get(&(transfer, *index))?.at);
            peers.iter().filter_map(sent).min()
        };
        if let Some(oldest) = it.asked.iter().filter_map(sent_at).min() {
            return Some(Waiting::InFlight { chunks, oldest });
        }
        if let Some(until) = it.resume_at {
            return Some(Waiting::Local { until });
        }
        let mut askable = it.sides.iter().filter(|(_, side)| side.askable).peekable();
        if askable.peek().is_none() {
            return Some(Waiting::NoPeers);
        }
        if it.feed.is_fed() {
            let missing = it.missing;
            return Some(Waiting::Pushes { missing });
        }
        let missing = it.nobody_has();
        if missing == it.missing {
            return Some(Waiting::NobodyHas { missing });
        }
        let holding = askable.filter(|(_, side)| !side.dry);
        let peers: Vec<_> = holding.filter_map(|(id, _)| self.peers.get(id)).collect();
        if let Some(until) = peers.iter().map(|peer| peer.resume_at).min().flatten() {
            return Some(Waiting::PeersPaused { until });
        }
        if self.in_flight_bytes >= self.pace.budget(&self.config) {
            let in_flight_bytes = self.in_flight_bytes;
            return Some(Waiting::Budget { in_flight_bytes });
        }
        Some(Waiting::PeersBusy)
    }

    /// Whether any peer that may be asked says that it holds chunks of a transfer, known here or not.
    pub fn is_offered(&self, transfer: TransferId) -> bool {
        let offers = |side: &Side| side.askable && side.has.iter().next().is_some();
        let it = self.transfers.get(&transfer);
        it.is_some_and(|it| it.sides.values().any(offers))
    }

    /// Whether a transfer lacks chunks and none came for so long that those who are to feed it must have failed: five
    /// seconds, or more where chunks usually take long. Then the origin is to feed it, if others do not need that more.
    pub fn is_starving(&self, transfer: TransferId, now: Duration) -> bool {
        let usual = self.pace.completion.measured().unwrap_or_default();
        let patience = STARVING_MIN.max(4 * usual);
        let it = self.transfers.get(&transfer);
        // Where storing fails here, nobody can help.
        let starves = |it: &Transfer| {
            it.missing > 0 && it.resume_at.is_none() && it.moved_at + patience <= now
        };
        it.is_some_and(starves)
    }

    /// What a transfer has come to, if it is here.
    pub fn stats(&self, transfer: TransferId) -> Option<TransferStats> {
        let it = self.transfers.get(&transfer)?;
        Some(TransferStats {
            chunks: it.chunk_count(),
            missing: it.missing,
            in_flight: u32::try_from(it.asked.len()).unwrap_or(u32::MAX),
            received_bytes: it.received_bytes.clone(),
            duplicate_bytes: it.duplicate_bytes,
        })
    }
}
