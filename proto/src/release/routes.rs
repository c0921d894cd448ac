//! Routes: which hosts of a plan stand behind others, and so cannot be dialled by everybody.
//!
//! A host names its *relays*, or none. One without is in the open: the seed, the coordinator and all others in the open
//! reach it. One with relays is dialled by these and by hosts that name just the same ones, and by nobody else. A relay
//! may itself stand behind others, any number of times.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    codec::{self, CodecError},
    limits::{EXTENSION_BYTES_MAX, HOST_RELAYS_MAX},
};

/// Which hosts stand behind which, all by their places in a list of hosts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routes {
    /// The different lists of relays, each sorted.
    lists: Vec<Vec<u32>>,
    /// By host, its list; hosts in the open, and those after the last that is not, have none.
    list_of: Vec<Option<usize>>,
}

/// As it travels.
#[derive(Serialize, Deserialize)]
struct Encoded {
    lists: Vec<Vec<u32>>,
    /// Hosts that follow each other: which list they have, counted from 1, or 0 for none; and how many they are.
    runs: Vec<(u32, u32)>,
}

impl Routes {
    /// From the relays of each host, in any order. Hosts after the last are in the open.
    ///
    /// # Errors
    /// [`RoutesError`].
    pub fn new(relays: impl IntoIterator<Item = Vec<u32>>) -> Result<Self, RoutesError> {
        let (mut routes, mut numbers) = (Self::default(), BTreeMap::new());
        for (host, mut list) in (0u32..).zip(relays) {
            list.sort_unstable();
            list.dedup();
            if list.len() > HOST_RELAYS_MAX {
                return Err(RoutesError::TooMany(host));
            }
            let number = (!list.is_empty()).then(|| {
                *numbers.entry(list.clone()).or_insert_with(|| {
                    routes.lists.push(list);
                    routes.lists.len() - 1
                })
            });
            routes.list_of.push(number);
        }
        while routes.list_of.pop_if(|last| last.is_none()).is_some() {}
        match routes.find_cycle() {
            Some(host) => Err(RoutesError::Cycle(host)),
            None => Ok(routes),
        }
    }

    /// Whether all hosts are in the open.
    pub fn are_open(&self) -> bool {
        self.lists.is_empty()
    }

    /// The relays of a host, sorted; none where it is in the open.
    pub fn relays(&self, host: u32) -> &[u32] {
        match self.list_of(host) {
            Some(list) => &self.lists[list],
            None => &[],
        }
    }

    /// Whether one host can dial another.
    pub fn reaches(&self, from: u32, to: u32) -> bool {
        self.list_of(from) == self.list_of(to) || self.relays(to).contains(&from)
    }

    /// Whether a plan holds them, see [`super::Plan::with_routes`].
    pub fn fit_a_plan(&self) -> bool {
        self.encode().len() <= EXTENSION_BYTES_MAX
    }

    fn list_of(&self, host: u32) -> Option<usize> {
        let host = usize::try_from(host).ok()?;
        *self.list_of.get(host)?
    }

    /// A host that stands behind itself. What is left when those are taken away, again and again, that stand behind none
    /// that is left.
    fn find_cycle(&self) -> Option<u32> {
        let mut left: Vec<usize> = (0..self.lists.len()).collect();
        loop {
            let before = left.len();
            let is_left = |relay: &u32| self.list_of(*relay).is_some_and(|it| left.contains(&it));
            let keep: Vec<usize> = left
                .iter()
                .copied()
                .filter(|&list| self.lists[list].iter().any(is_left))
                .collect();
            left = keep;
            if left.len() == before {
                break;
            }
        }
        // From any that is left the way leads on among them, and so around.
        let mut list = *left.first()?;
        let mut passed = Vec::new();
        loop {
            let next = self.lists[list].iter().find_map(|&relay| {
                let behind = self.list_of(relay).filter(|it| left.contains(it))?;
                Some((relay, behind))
            });
            let (relay, behind) = next.expect("it is left");
            if passed.contains(&relay) {
                return Some(relay);
            }
            passed.push(relay);
            list = behind;
        }
    }

    /// The bytes of the extension that says it.
    pub(super) fn encode(&self) -> Bytes {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for list in &self.list_of {
            let list = list.map_or(0, |list| list + 1);
            let list = u32::try_from(list).expect("as few as hosts");
            match runs.last_mut() {
                Some((last, count)) if *last == list => *count += 1,
                _ => runs.push((list, 1)),
            }
        }
        let lists = self.lists.clone();
        codec::encode(&Encoded { lists, runs }).into()
    }

    /// Reads what [`Self::encode`] made, for a list of so many hosts.
    pub(super) fn decode(bytes: &[u8], hosts: usize) -> Result<Self, RoutesError> {
        let Encoded { lists, runs } = codec::decode_canonical(bytes)?;
        let known = |relay: &u32| usize::try_from(*relay).is_ok_and(|relay| relay < hosts);
        if let Some(stranger) = lists.iter().flatten().find(|relay| !known(relay)) {
            return Err(RoutesError::Unknown(*stranger));
        }
        let count = runs.iter().fold(0, |sum: usize, (_, count)| {
            sum.saturating_add(usize::try_from(*count).unwrap_or(usize::MAX))
        });
        if count > hosts {
            return Err(RoutesError::Hosts(count));
        }
        let mut relays = Vec::with_capacity(count);
        for (list, count) in runs {
            let list = match list.checked_sub(1) {
                None => Vec::new(),
                Some(list) => {
                    let found = lists.get(usize::try_from(list).unwrap_or(usize::MAX));
                    found.ok_or(RoutesError::NoList(list))?.clone()
                }
            };
            relays.extend(std::iter::repeat_n(
                list,
                usize::try_from(count).unwrap_or(0),
            ));
        }
        let routes = Self::new(relays)?;
        // Of each there is one encoding.
        match routes.encode() == bytes {
            true => Ok(routes),
            false => Err(CodecError::NotCanonical.into()),
        }
    }
}

/// Why hosts cannot stand as it is said.
#[derive(Debug, thiserror::Error)]
pub enum RoutesError {
    /// Not such a list.
    #[error("read which hosts stand behind others")]
    Codec(#[from] CodecError),
    /// A relay that is not among the hosts.
    #[error("host {0} is a relay, and there is none of that number")]
    Unknown(u32),
    /// More hosts than there are.
    #[error("{0} hosts are said to stand behind others, or not, more than there are")]
    Hosts(usize),
    /// A list of relays that is not there.
    #[error("list {0} of relays is named and not there")]
    NoList(u32),
    /// Too many relays.
    #[error("host {0} has more than {HOST_RELAYS_MAX} relays")]
    TooMany(u32),
    /// A host that is reached only through itself.
    #[error("host {0} stands behind itself")]
    Cycle(u32),
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn routes(relays: &[&[u32]]) -> Result<Routes, RoutesError> {
        Routes::new(relays.iter().map(|list| list.to_vec()))
    }

    #[test]
    fn who_stands_behind_relays_is_dialled_by_these_and_by_who_names_the_same() {
        // 0 and 1 are in the open; 2 and 3 behind both; 4 behind 2; 5 behind 1.
        let routes = routes(&[&[], &[], &[1, 0], &[0, 1, 0], &[2], &[1], &[]]).unwrap();
        assert_eq!(routes.relays(3), [0, 1]);
        let reaches = |from: u32| -> Vec<u32> {
            (0..7)
                .filter(|&to| to != from && routes.reaches(from, to))
                .collect()
        };
        assert_eq!(reaches(0), [1, 2, 3, 6]);
        assert_eq!(reaches(1), [0, 2, 3, 5, 6]);
        assert_eq!(reaches(2), [3, 4]);
        assert_eq!(reaches(3), [2]);
        assert_eq!((reaches(4), reaches(5)), (vec![], vec![]));
        assert!(!routes.are_open() && Routes::new([vec![], vec![]]).unwrap().are_open());
    }

    #[test]
    fn nobody_stands_behind_itself_however_far() {
        let cycle = |relays: &[&[u32]]| match routes(relays) {
            Err(RoutesError::Cycle(host)) => host,
            other => panic!("{other:?}"),
        };
        assert_eq!(cycle(&[&[0]]), 0);
        assert!([0, 1, 2].contains(&cycle(&[&[2], &[0], &[1], &[]])));
        // 3 is behind the cycle, and not in it; that 1 could also be reached by 4 does not help.
        assert!([0, 1].contains(&cycle(&[&[1], &[0, 4], &[], &[0], &[]])));
        assert!(routes(&[&[], &[0], &[1], &[2], &[3, 0]]).is_ok());
        let many: Vec<u32> = (1..10).collect();
        assert!(matches!(routes(&[&many]), Err(RoutesError::TooMany(0))));
    }

    #[test]
    fn routes_have_one_encoding_and_name_only_hosts_that_there_are() {
        let some = routes(&[&[], &[], &[0, 1], &[0, 1], &[2], &[]]).unwrap();
        let bytes = some.encode();
        // Two lists: 0 and 1, 2; then 2 hosts in the open, 2 behind the first list, 1 behind the second.
        assert_eq!(bytes.as_ref(), [2, 2, 0, 1, 1, 2, 3, 0, 2, 1, 2, 2, 1]);
        assert_eq!(Routes::decode(&bytes, 6).unwrap(), some);
        let decode =
            |bytes: &[u8], hosts| Routes::decode(bytes, hosts).map_err(|error| error.to_string());
        assert!(decode(&bytes, 4).unwrap_err().starts_with("5 hosts"));
        assert!(decode(&bytes, 2).unwrap_err().contains("host 2 is a relay"));
        assert!(
            decode(&[1, 1, 1, 1, 2, 1], 3)
                .unwrap_err()
                .contains("list 1")
        );
        for other in [
            &[1, 2, 1, 0, 2, 0, 2, 1, 1][..],
            &[1, 1, 0, 3, 0, 1, 0, 1, 1, 1],
            &[2, 1, 0, 1, 0, 2, 0, 1, 2, 1],
        ] {
            assert!(
                matches!(Routes::decode(other, 9), Err(RoutesError::Codec(_))),
                "{other:?}"
            );
        }
        assert!(
            decode(&[1, 1, 0, 1, 1, 1], 3)
                .unwrap_err()
                .contains("behind itself")
        );
    }
}
