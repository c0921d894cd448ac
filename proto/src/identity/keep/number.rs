//! The number of what was kept, beside it: what tells that it is lost, and of whose it was.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{KeepError, read, replace, way::Link};
use crate::{
    identity::{
        fleet_trust::{FleetTrust, SignedFleetTrust},
        peer::AuthorityCertificate,
    },
    release::signed::SignedObject,
};

/// The number of what was kept last, and the authorities that it was of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KeptNumber {
    /// 0 where nothing ever was kept.
    pub(super) number: u64,
    /// The first bytes of the keys of all authorities that were believed then, or ever on the way there; none where an earlier
    /// build wrote it, which did not say.
    authorities: Option<BTreeSet<[u8; 8]>>,
}

impl KeptNumber {
    /// That of a chain whose first link an authority of `own` signed.
    pub(super) fn of(chain: &[Link], own: &BTreeSet<[u8; 8]>) -> Self {
        let signed = chain.iter().map(|link| &link.signed);
        Self {
            number: chain.last().map_or(0, |link| link.number),
            authorities: Some(own.union(&authorities(signed)).copied().collect()),
        }
    }

    /// Reads that of what is kept at `path`. One that cannot be read counts as 1: something was kept.
    ///
    /// # Errors
    /// [`KeepError::Io`].
    pub(super) fn read(path: &Path) -> Result<Self, KeepError> {
        let Some(text) = read(&beside(path))? else {
            let (number, authorities) = (0, None);
            return Ok(Self {
                number,
                authorities,
            });
        };
        let parsed = String::from_utf8(text).ok().and_then(|text| {
            let mut lines = text.lines();
            let number = lines.next()?.trim().parse().ok()?;
            let authorities = lines.next().map(|line| {
                let marks = line.split_whitespace();
                let marks = marks.map(|mark| hex::decode(mark).ok()?.try_into().ok());
                marks.collect::<Option<_>>()
            });
            let authorities = match authorities {
                Some(marks) => Some(marks?),
                None => None,
            };
            Some(Self {
                number,
                authorities,
            })
        });
        Ok(parsed.unwrap_or(Self {
            number: 1,
            authorities: None,
        }))
    }

    /// Replaces it. A crash leaves the old or the new one.
    ///
    /// # Errors
    /// [`KeepError::Io`].
    pub(super) fn write(&self, path: &Path) -> Result<(), KeepError> {
        let marks: Vec<String> = self.authorities.iter().flatten().map(hex::encode).collect();
        let text = format!("{}\n{}\n", self.number, marks.join(" "));
        replace(&beside(path), text.as_bytes())
    }

    /// Whether it is of a fleet of which one of our own authorities is, or was: by what it says or, where an earlier build wrote
    /// it, by the chain beside it. Where that is gone too it is taken for ours: a loss is worse to miss than to see.
    pub(super) fn is_of(&self, own: &BTreeSet<[u8; 8]>, chain: &[SignedFleetTrust]) -> bool {
        match &self.authorities {
            Some(authorities) => !authorities.is_disjoint(own),
            None if chain.is_empty() => true,
            None => !authorities(chain.iter()).is_disjoint(own),
        }
    }
}

/// All that a chain names, those that are believed no more included.
fn authorities<'a>(chain: impl Iterator<Item = &'a SignedFleetTrust>) -> BTreeSet<[u8; 8]> {
    let trusts = chain.filter_map(|signed| FleetTrust::from_payload(&signed.0.payload).ok());
    let marks = trusts.flat_map(|trust| {
        let ders = trust.authorities.into_iter().chain(trust.retired);
        let keys = ders.filter_map(|der| Some(AuthorityCertificate::parse(&der).ok()?.public_key));
        let marks = keys.filter_map(|key| key.first_chunk().copied());
        marks.collect::<Vec<[u8; 8]>>()
    });
    marks.collect()
}

fn beside(path: &Path) -> PathBuf {
    path.with_extension("number")
}
