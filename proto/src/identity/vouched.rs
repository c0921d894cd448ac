//! What a fleet trust says beside whose certificates count: which denials are over, and what of before still counts.
//!
//! Each is an extension with an even number. A build that does not know it goes by the rest: there nothing that was left out is denied any
//! more, and nothing of before counts.

use bytes::Bytes;

use super::fleet_trust::{Denied, FleetTrust};
use crate::{codec, limits::EXTENSION_BYTES_MAX};

/// Who is denied no more, knowingly: digests, the earliest first.
const LIFTED: u16 = 2;
/// Which signers file releases go by: its number, little-endian, and its BLAKE3.
const SIGNERS: u16 = 4;
/// By which grants that count no more what is stable was made so: the BLAKE3 of the payload of each.
const GRANTS: u16 = 6;

const LIFT_BYTES: usize = 16;
const GRANT_BYTES: usize = blake3::OUT_LEN;

/// Most denials that a fleet trust says are lifted: what fits an extension. A host that was away while more were lifted since holds to
/// the earliest, and is told by their next certificate.
pub const LIFTS_MAX: usize = EXTENSION_BYTES_MAX / LIFT_BYTES;

/// Most grants that a fleet trust vouches for: what fits an extension. It is one for each repo and environment.
pub const VOUCHED_GRANTS_MAX: usize = EXTENSION_BYTES_MAX / GRANT_BYTES;

/// A signers file that the fleet's authority knows to be in force.
///
/// Whoever holds the authority's key cannot bring a signers file by it: each link must be signed by the keys of the files on both
/// sides all the same. It tells that the way to this file is the true one, also once some of these keys are over, and were stolen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VouchedSigners {
    /// Its number.
    pub number: u64,
    /// Its BLAKE3.
    pub hash: [u8; blake3::OUT_LEN],
}

impl FleetTrust {
    /// Whether it says that somebody is denied no more.
    pub fn lifts(&self, who: &Denied) -> bool {
        let lifted = lift(who);
        let all = self.extensions.get(LIFTED);
        let mut all = all.iter().flat_map(|it| it.chunks_exact(LIFT_BYTES));
        all.any(|it| it == lifted)
    }

    /// The same, in which these are denied no more and those that it denies are not said to be lifted. Beyond [`LIFTS_MAX`] the
    /// earliest are left out.
    pub fn lifting<'a>(self, more: impl Iterator<Item = &'a Denied>) -> Self {
        let before = self.extensions.get(LIFTED).cloned().unwrap_or_default();
        let before = before.chunks_exact(LIFT_BYTES).map(<[u8]>::to_vec);
        let mut all: Vec<Vec<u8>> = before.collect();
        for who in more {
            let lifted = lift(who).to_vec();
            if !all.contains(&lifted) {
                all.push(lifted);
            }
        }
        let denied: Vec<_> = self.denials.iter().map(|it| lift(&it.who)).collect();
        all.retain(|it| !denied.iter().any(|denied| denied[..] == it[..]));
        let first = all.len().saturating_sub(LIFTS_MAX);
        self.saying(LIFTED, all[first..].concat())
    }

    /// Which signers file it vouches for.
    pub fn signers(&self) -> Option<VouchedSigners> {
        let (number, hash) = self.extensions.get(SIGNERS)?.split_first_chunk()?;
        Some(VouchedSigners {
            number: u64::from_le_bytes(*number),
            hash: hash.try_into().ok()?,
        })
    }

    /// The same, vouching for this signers file.
    pub fn with_signers(self, signers: VouchedSigners) -> Self {
        let VouchedSigners { number, hash } = signers;
        let bytes = [&number.to_le_bytes()[..], &hash].concat();
        self.saying(SIGNERS, bytes)
    }

    /// Whether what is stable by a grant, which this is the BLAKE3 of, stays so though whoever directed it counts no more.
    pub fn vouches_for_grant(&self, hash: &[u8; GRANT_BYTES]) -> bool {
        let all = self.extensions.get(GRANTS);
        let mut all = all.iter().flat_map(|it| it.chunks_exact(GRANT_BYTES));
        all.any(|it| it == hash)
    }

    /// The same, vouching for the grants that these are the BLAKE3s of, and for no others; at most the first [`VOUCHED_GRANTS_MAX`].
    pub fn with_grants(self, hashes: impl Iterator<Item = [u8; GRANT_BYTES]>) -> Self {
        let hashes: Vec<_> = hashes.take(VOUCHED_GRANTS_MAX).collect();
        self.saying(GRANTS, hashes.concat())
    }

    fn saying(mut self, tag: u16, bytes: Vec<u8>) -> Self {
        if bytes.is_empty() && self.extensions.get(tag).is_none() {
            return self;
        }
        // There is no room only beside sixteen others, of later builds, which know better what to leave out.
        if let Ok(with) = self.extensions.clone().with(tag, Bytes::from(bytes)) {
            self.extensions = with;
        }
        self
    }
}

/// What says that exactly this denial is over.
fn lift(who: &Denied) -> [u8; LIFT_BYTES] {
    let hash = blake3::hash(&codec::encode(who));
    *hash.as_bytes().first_chunk().expect("a hash has 32 bytes")
}
