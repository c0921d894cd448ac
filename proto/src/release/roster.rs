//! The roster: the hosts of a control tree and where they are reached, as a coordinator says, for those that relay for it.
//!
//! It travels in pages, so that a host gets only those of the hosts below it. An address that no coordinator of the fleet
//! signed is never dialled.

use std::{fmt, net::SocketAddr, ops::Range};

use serde::{Deserialize, Serialize};

use crate::{
    codec::{self, CodecError, Extensible},
    extensions::{Extension, Extensions},
    id::NodeId,
    identity::{Identity, Role, Trust},
    limits::{HOST_ADDRESSES_MAX, HOST_RELAYS_MAX, PLAN_HOSTS_MAX, ROSTER_PAGE_HOSTS_MAX},
    release::signed::{AuthorityError, LeafSigned, SignedObject, UnixMillis},
};

/// One control tree: a number that its coordinator drew for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TreeId(pub u64);

impl fmt::Display for TreeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Hosts of a control tree that follow each other in the roster: those from `first` up to, and without, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Branch {
    /// The first.
    pub first: u32,
    /// After the last.
    pub end: u32,
}

impl Branch {
    /// The hosts in it, by their places in the roster.
    pub fn hosts(self) -> Range<u32> {
        self.first..self.end
    }
}

/// One host of a roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterHost {
    /// Its name, which its certificate must say.
    pub name: NodeId,
    /// Where its peers reach it; at most [`HOST_ADDRESSES_MAX`].
    pub addresses: Vec<SocketAddr>,
}

/// A page of a roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// Of which tree.
    pub tree: TreeId,
    /// The place of the page's first host among the tree's.
    pub first: u32,
    /// The hosts; 1 to [`ROSTER_PAGE_HOSTS_MAX`].
    pub hosts: Vec<RosterHost>,
    /// Nobody is dialled for it after that.
    pub expires: UnixMillis,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Extensible for Roster {
    const EXTENSIONS_KNOWN: &'static [u16] = &[RELAYS];

    fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

/// The places of the relays that all hosts of the page stand behind; absent where they are in the open. Required: who does
/// not know it would dial in vain.
const RELAYS: u16 = 1;

impl SignedObject for Roster {
    const MAGIC: &'static str = "scap-roster/1\n";
}

impl Roster {
    /// The same page, all hosts of which stand behind these relays, by their places in the roster; at most
    /// [`HOST_RELAYS_MAX`], and none where they are in the open.
    pub fn behind(self, relays: &[u32]) -> Self {
        let extension = Extension {
            tag: RELAYS,
            bytes: codec::encode(&relays).into(),
        };
        let list = match relays.is_empty() {
            true => Vec::new(),
            false => vec![extension],
        };
        let extensions = Extensions::try_from(list).expect("one, of a few bytes");
        Self { extensions, ..self }
    }

    /// The places of the relays that all hosts of the page stand behind.
    ///
    /// # Errors
    /// Where there is something else.
    pub fn relays(&self) -> Result<Vec<u32>, CodecError> {
        match self.extensions.get(RELAYS) {
            Some(bytes) => codec::decode(bytes),
            None => Ok(Vec::new()),
        }
    }
}

/// A page of a roster with its signature, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRoster(pub LeafSigned);

impl SignedRoster {
    /// Signs `roster` with the coordinator's own key.
    pub fn sign(roster: &Roster, identity: &Identity) -> Self {
        Self(LeafSigned::sign(roster, identity))
    }

    /// Checks that a coordinator of the fleet signed it, and that it is not over.
    ///
    /// # Errors
    /// [`AuthorityError::Roster`], [`AuthorityError::Codec`], [`AuthorityError::Expired`], [`AuthorityError::Limit`].
    pub fn verify(&self, trust: &Trust, now: UnixMillis) -> Result<Roster, AuthorityError> {
        let signer = self.0.signer(trust, now);
        if signer.is_none_or(|signer| signer.role != Role::Coordinator) {
            return Err(AuthorityError::Roster);
        }
        let roster = Roster::from_payload(&self.0.payload)?;
        let count = roster.hosts.len();
        AuthorityError::check_limit(
            "hosts in a page of a roster",
            count,
            1..=ROSTER_PAGE_HOSTS_MAX,
        )?;
        let end =
            usize::try_from(roster.first).map_or(usize::MAX, |first| first.saturating_add(count));
        AuthorityError::check_limit("hosts in a roster", end, 1..=PLAN_HOSTS_MAX)?;
        for host in &roster.hosts {
            let count = host.addresses.len();
            AuthorityError::check_limit("addresses of a host", count, 0..=HOST_ADDRESSES_MAX)?;
        }
        let count = roster.relays()?.len();
        AuthorityError::check_limit("relays of a host", count, 0..=HOST_RELAYS_MAX)?;
        if roster.expires <= now {
            return Err(AuthorityError::Expired {
                what: "the roster",
                at: roster.expires,
                now,
            });
        }
        Ok(roster)
    }
}
