//! What a transfer waits for, in words.

use std::time::Duration;

use crate::swarm::Waiting;

/// What a transfer waits for, as people read it. `now` is the engine's time.
pub(super) fn describe(waiting: &Waiting, now: Duration) -> String {
    let secs = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64();
    match *waiting {
        Waiting::Unknown => "its first chunk to be known".into(),
        Waiting::Local { until } => {
            format!(
                "the disk: storing a chunk failed; again in {:.1} s",
                secs(now, until)
            )
        }
        Waiting::NoPeers => "a peer that may be asked: there is none".into(),
        Waiting::InFlight { chunks, oldest } => {
            format!(
                "{chunks} chunks on their way, the oldest for {:.1} s",
                secs(oldest, now)
            )
        }
        Waiting::PeersPaused { until } => {
            format!(
                "peers that were busy, slow or silent; again in {:.1} s",
                secs(now, until)
            )
        }
        Waiting::Budget { in_flight_bytes } => {
            format!("{in_flight_bytes} bytes on their way for other releases")
        }
        Waiting::Pushes { missing } => {
            format!("{missing} chunks that its upstreams push as they get them")
        }
        Waiting::NobodyHas { missing } => format!("{missing} chunks that no peer says it has"),
        Waiting::PeersBusy => "peers that serve other releases first".into(),
    }
}
