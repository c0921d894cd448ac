//! What a host saw that nobody honest does: it goes along with its reports, so that an attack on one host is known to all who
//! watch.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    codec,
    id::NodeId,
    limits::EXTENSION_BYTES_MAX,
    reason::{REASON_CODE_BYTES_MAX, Reason},
    release::UnixMillis,
};

/// Most of them in a report: so many kinds of attack, or attackers, at a time are told apart. Each is at most as
/// long as a code, a name and 20 bytes, so that all of them fit an extension.
pub const SIGHTINGS_MAX: usize = 12;
const _: () = assert!(
    SIGHTINGS_MAX * (REASON_CODE_BYTES_MAX + NodeId::BYTES_MAX + 20) <= EXTENSION_BYTES_MAX
);

/// One kind of misbehaviour of one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// What: [`Reason::WrongBytes`], [`Reason::RefusedSequence`], [`Reason::RefusedEquivocation`], [`Reason::StateLost`] and the like.
    pub code: Reason,
    /// By whom it came, where that is known. Who relays need not have made it.
    pub peer: Option<NodeId>,
    /// How often.
    pub count: u32,
    /// When it was seen last, by the host's clock.
    pub last: UnixMillis,
}

/// All of them as one extension: of more than [`SIGHTINGS_MAX`] the first.
pub(super) fn to_bytes(sightings: &[Sighting]) -> Bytes {
    let some = &sightings[..sightings.len().min(SIGHTINGS_MAX)];
    codec::encode(&some).into()
}

/// None where they cannot be read: a report is no worse for it.
pub(super) fn from_bytes(bytes: &[u8]) -> Vec<Sighting> {
    let read: Vec<Sighting> = codec::decode(bytes).unwrap_or_default();
    read.into_iter().take(SIGHTINGS_MAX).collect()
}
