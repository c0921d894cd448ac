//! Trees: each host has one above it. Those in the open are one tree, below the origin, and those of each enclave one, below its
//! relays. The first hosts of each are its roots, and each host has the next as its children.

use std::{collections::BTreeMap, ops::Range};

use super::Positions;

/// The trees of a fleet, one for each enclave.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    fanout: usize,
    parts: Vec<Part>,
    /// By root of an enclave, the relay above it; and the other way around.
    above: BTreeMap<usize, usize>,
    below: BTreeMap<usize, Vec<usize>>,
}

/// The tree of an enclave.
#[derive(Debug, Clone)]
struct Part {
    hosts: Range<usize>,
    roots: usize,
}

impl Tree {
    /// From the enclave and the wave of each position, and the relays of each enclave. Enclaves are contiguous, and waves within
    /// them rise. The origin feeds `origin_roots`, at least 1.
    pub(super) fn new(
        spots: &[(usize, u32)],
        relays: &[Vec<usize>],
        fanout: usize,
        origin_roots: usize,
    ) -> Self {
        let fanout = fanout.max(1);
        let mut tree = Self {
            fanout,
            parts: Vec::new(),
            above: BTreeMap::new(),
            below: BTreeMap::new(),
        };
        for (enclave, relays) in relays.iter().enumerate() {
            let first = spots.partition_point(|spot| spot.0 < enclave);
            let end = spots.partition_point(|spot| spot.0 <= enclave);
            let roots = if enclave == 0 {
                origin_roots.max(1)
            } else {
                fanout
            };
            let roots = roots.min(end - first);
            for (number, root) in (first..first + roots).enumerate() {
                let in_time = |relay: &&usize| spots[**relay].1 <= spots[root].1;
                let able: Vec<usize> = relays.iter().filter(in_time).copied().collect();
                let able = if able.is_empty() { relays } else { &able };
                if let Some(&relay) = able.get(number % able.len().max(1)) {
                    tree.above.insert(root, relay);
                    tree.below.entry(relay).or_default().push(root);
                }
            }
            let hosts = first..end;
            tree.parts.push(Part { hosts, roots });
        }
        tree
    }

    /// The positions that the origin feeds.
    pub(super) fn origin_roots(&self) -> Range<usize> {
        0..self.parts.first().map_or(0, |part| part.roots)
    }

    pub(super) fn edges(&self, at: usize) -> Positions {
        let part = self.parts.partition_point(|part| part.hosts.end <= at);
        let Part { hosts, roots } = &self.parts[part];
        let place = at - hosts.start;
        let first = at + roots + place * (self.fanout - 1);
        let last = (first + self.fanout).min(hosts.end);
        let relayed = self.below.get(&at).into_iter().flatten().copied();
        let parent = match place.checked_sub(*roots) {
            Some(below) => Some(hosts.start + below / self.fanout),
            None => self.above.get(&at).copied(),
        };
        let parent: Vec<usize> = parent.into_iter().collect();
        let below = (first..last).chain(relayed);
        (below.collect(), parent.clone(), parent)
    }
}
