//! Who stands behind whom, as the pages of the roster say.

use std::collections::BTreeSet;

use scap_proto::release::Branch;

use super::{FANOUT, Place, split};

/// Hosts that stand behind relays.
#[derive(Debug, Default)]
pub(super) struct Enclaves(Vec<Enclave>);

/// Hosts that stand behind the same relays, which alone reach them.
#[derive(Debug)]
struct Enclave {
    branch: Branch,
    relays: Vec<Place>,
}

impl Enclaves {
    /// Takes a page in. Pages that follow each other and say the same are one enclave.
    pub(super) fn add(&mut self, branch: Branch, relays: Vec<Place>) {
        for it in self.0.iter_mut().filter(|it| it.relays == relays) {
            if it.branch.first <= branch.first && branch.end <= it.branch.end {
                return;
            }
            if it.branch.end == branch.first {
                it.branch.end = branch.end;
                return;
            }
        }
        self.0.push(Enclave { branch, relays });
    }

    /// Whether a host is not in the open.
    pub(super) fn is_behind(&self, host: Place) -> bool {
        self.0.iter().any(|it| it.branch.hosts().contains(&host))
    }

    /// What a host covers as their relay.
    pub(super) fn of_relay(&self, relay: Place) -> impl Iterator<Item = Branch> {
        let of_relay = self.0.iter().filter(move |it| it.relays.contains(&relay));
        of_relay.flat_map(|it| split(it.branch, FANOUT))
    }

    /// These branches, and all that stand behind hosts in them, over any number of hops.
    pub(super) fn below(&self, branches: &[Branch]) -> Vec<Branch> {
        let mut all = branches.to_vec();
        let mut left: Vec<&Enclave> = self.0.iter().collect();
        loop {
            let is_below = |it: &&Enclave| {
                let mut relays = it.relays.iter();
                relays.any(|relay| all.iter().any(|branch| branch.hosts().contains(relay)))
            };
            let (below, others): (Vec<_>, Vec<_>) = left.into_iter().partition(is_below);
            if below.is_empty() {
                return all;
            }
            all.extend(below.iter().map(|it| it.branch));
            left = others;
        }
    }

    /// Leaves, of hosts that were reached through one that covers `part`, those that still can be: hosts of the part, and those
    /// behind a relay that is among them.
    pub(super) fn prune(&self, part: Branch, live: &mut BTreeSet<Place>) {
        loop {
            let before = live.len();
            for Enclave { branch, relays } in &self.0 {
                if !relays.iter().any(|relay| live.contains(relay)) {
                    live.retain(|host| {
                        !branch.hosts().contains(host) || part.hosts().contains(host)
                    });
                }
            }
            if live.len() == before {
                return;
            }
        }
    }
}
