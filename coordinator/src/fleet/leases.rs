//! Leases: who is fed by the seed though its plan does not say so. A host whose feeders failed asks; when a whole site did,
//! all its hosts ask at once, and a few of them are enough, since they pass on what they get. Sans-IO.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How many hosts the seed feeds at a time beside those of the plan: as many as that.
pub const LEASES_MAX: usize = 4;

/// How long a host's lease counts while others wait. One that got little by then gets little.
pub const LEASE_TIME: Duration = Duration::from_secs(20);

/// Who has a lease, and who waits for one.
#[derive(Debug)]
pub struct Leases<H> {
    /// Since when.
    held: BTreeMap<H, Duration>,
    /// By rank, and their ranks.
    waiting: BTreeSet<(usize, H)>,
    ranks: BTreeMap<H, usize>,
}

impl<H> Default for Leases<H> {
    fn default() -> Self {
        Self {
            held: BTreeMap::new(),
            waiting: BTreeSet::new(),
            ranks: BTreeMap::new(),
        }
    }
}

impl<H: Ord + Clone> Leases<H> {
    /// A host asks to be fed. It may ask again. Those of lower rank, who feed others, get it first.
    pub fn ask(&mut self, rank: usize, host: &H) {
        if !self.held.contains_key(host) {
            self.withdraw(host);
            self.waiting.insert((rank, host.clone()));
            self.ranks.insert(host.clone(), rank);
        }
    }

    /// A host needs no lease, or none any more: it gets what it needs, or is gone.
    pub fn end(&mut self, host: &H) {
        self.held.remove(host);
        self.withdraw(host);
    }

    /// A host no longer asks. It keeps the lease that it has.
    pub fn withdraw(&mut self, host: &H) {
        if let Some((host, rank)) = self.ranks.remove_entry(host) {
            self.waiting.remove(&(rank, host));
        }
    }

    /// Who is to be fed from now on. To be asked until there is nobody.
    pub fn grant(&mut self, now: Duration) -> Option<H> {
        let counts = |since: &&Duration| now < **since + LEASE_TIME;
        if self.held.values().filter(counts).count() >= LEASES_MAX {
            return None;
        }
        let (_, host) = self.waiting.pop_first()?;
        self.ranks.remove(&host);
        self.held.insert(host.clone(), now);
        Some(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(leases: &mut Leases<u32>, secs: u64) -> Vec<u32> {
        let now = Duration::from_secs(secs);
        std::iter::from_fn(|| leases.grant(now)).collect()
    }

    #[test]
    fn a_few_of_a_crowd_are_fed_at_a_time_each_once_and_in_turn() {
        let mut leases = Leases::default();
        for _ in 0..3 {
            for host in (0..20).rev() {
                leases.ask(100 + host as usize, &host);
            }
        }
        assert_eq!(granted(&mut leases, 0), [0, 1, 2, 3]);
        assert_eq!(granted(&mut leases, 1), [0; 0]);
        // One is done, one that waits gets it from the others, one asks again.
        leases.end(&1);
        leases.withdraw(&4);
        leases.ask(102, &2);
        assert_eq!(granted(&mut leases, 2), [5]);
        // Those that had theirs for long no longer keep others from one.
        assert_eq!(granted(&mut leases, 20), [6, 7, 8]);
        assert_eq!(granted(&mut leases, 21), [0; 0]);
        for host in 0..20 {
            leases.end(&host);
        }
        assert_eq!(granted(&mut leases, 22), [0; 0]);
    }
}
