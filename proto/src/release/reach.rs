//! For which hosts a release is the stable one: for all of its environment, or, where somebody deployed it to some alone, for these.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{codec, id::NodeId, limits::EXTENSION_BYTES_MAX};

/// For which hosts, as it is signed.
///
/// Whoever is told by a coordinator was told by name. This is for those that catch up without one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Reach {
    /// All of its environment and audience, also those that are installed later.
    #[default]
    All,
    /// These alone: a person chose them.
    Only(BTreeSet<NodeId>),
    /// All but these: a person went on without them.
    AllBut(BTreeSet<NodeId>),
    /// Those that were given an order about the release: there are too many for a list.
    Ordered,
}

/// What is in the extension; [`Reach::All`] has none.
#[derive(Debug, Serialize, Deserialize)]
enum Listed {
    Only(BTreeSet<NodeId>),
    AllBut(BTreeSet<NodeId>),
    Ordered,
}

impl Reach {
    /// Whether a host is meant. `was_ordered` says whether a coordinator gave it an order about the release.
    pub fn includes(&self, host: &NodeId, was_ordered: bool) -> bool {
        match self {
            Self::All => true,
            Self::Only(hosts) => hosts.contains(host),
            Self::AllBut(hosts) => !hosts.contains(host),
            Self::Ordered => was_ordered,
        }
    }

    /// Whether it is for all but those that a person went on without: a host of which nobody knew is meant.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::All | Self::AllBut(_))
    }

    /// Those for whom the release is stable once it is so for both: it is never taken away from a host.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        use Reach::{All, AllBut, Only, Ordered};
        match (self, other) {
            (All, _) | (_, All) => All,
            (AllBut(a), AllBut(b)) => Self::all_but(&a & &b),
            (AllBut(without), Only(with)) | (Only(with), AllBut(without)) => {
                Self::all_but(&without - &with)
            }
            // Of those without it some may have been ordered it: each of them knows.
            (AllBut(without), Ordered) | (Ordered, AllBut(without)) => Self::all_but(without),
            (Only(a), Only(b)) => Only(&a | &b),
            (Ordered, Only(_) | Ordered) | (Only(_), Ordered) => Ordered,
        }
    }

    /// All but these, which may be none.
    pub fn all_but(hosts: BTreeSet<NodeId>) -> Self {
        match hosts.is_empty() {
            true => Self::All,
            false => Self::AllBut(hosts),
        }
    }

    /// What is signed: a list that is too long for an extension is [`Self::Ordered`].
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let listed = match self {
            Self::All => return None,
            Self::Only(hosts) => Listed::Only(hosts.clone()),
            Self::AllBut(hosts) => Listed::AllBut(hosts.clone()),
            Self::Ordered => Listed::Ordered,
        };
        let bytes = codec::encode(&listed);
        match bytes.len() <= EXTENSION_BYTES_MAX {
            true => Some(bytes),
            false => Some(codec::encode(&Listed::Ordered)),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, codec::CodecError> {
        Ok(match codec::decode(bytes)? {
            Listed::Only(hosts) => Self::Only(hosts),
            Listed::AllBut(hosts) => Self::all_but(hosts),
            Listed::Ordered => Self::Ordered,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn hosts(names: &[&str]) -> BTreeSet<NodeId> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn only(names: &[&str]) -> Reach {
        Reach::Only(hosts(names))
    }

    fn all_but(names: &[&str]) -> Reach {
        Reach::AllBut(hosts(names))
    }

    #[test]
    fn each_says_for_whom_it_is() {
        let includes =
            |reach: &Reach, was_ordered| reach.includes(&"a".parse().unwrap(), was_ordered);
        for was_ordered in [false, true] {
            assert!(includes(&Reach::All, was_ordered));
            assert!(includes(&only(&["a", "b"]), was_ordered));
            assert!(!includes(&only(&["b"]), was_ordered));
            assert!(!includes(&all_but(&["a", "b"]), was_ordered));
            assert!(includes(&all_but(&["b"]), was_ordered));
            assert_eq!(includes(&Reach::Ordered, was_ordered), was_ordered);
        }
    }

    #[test]
    fn what_is_stable_for_a_host_by_one_is_so_by_both() {
        let all = [
            Reach::All,
            only(&["a"]),
            only(&["b", "c"]),
            all_but(&["a"]),
            all_but(&["a", "b"]),
            Reach::Ordered,
        ];
        for (one, other) in all
            .iter()
            .flat_map(|one| all.iter().map(move |it| (one, it)))
        {
            let both = one.clone().and(other.clone());
            assert_eq!(both, other.clone().and(one.clone()));
            for host in ["a", "b", "c", "d"].map(|name| name.parse().unwrap()) {
                let is_meant = |it: &Reach| it.includes(&host, false);
                let expected = is_meant(one) || is_meant(other);
                let is_listed = !matches!((one, other), (Reach::Ordered, _) | (_, Reach::Ordered));
                if is_listed {
                    assert_eq!(is_meant(&both), expected, "{one:?} and {other:?}: {host}");
                }
            }
        }
    }

    #[test]
    fn a_list_that_is_too_long_is_for_those_that_were_ordered() {
        let many: BTreeSet<NodeId> = (0..1000)
            .map(|number| format!("web{number}").parse().unwrap())
            .collect();
        for reach in [Reach::Only(many.clone()), Reach::AllBut(many)] {
            let read = Reach::decode(&reach.encode().unwrap()).unwrap();
            assert_eq!(read, Reach::Ordered);
        }
        for reach in [only(&["a", "b"]), all_but(&["a"]), Reach::Ordered] {
            assert_eq!(Reach::decode(&reach.encode().unwrap()).unwrap(), reach);
        }
        assert_eq!(Reach::All.encode(), None);
    }
}
