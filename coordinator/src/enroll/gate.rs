//! How many claims are looked at, from whom: the part that knows no sockets. Sans-IO.
//!
//! A secret of 256 bits is not guessed. What the gate is for is that who tries costs little: a bounded number of links at a
//! time, of lines in the log, and of bytes here, whoever and however many they are.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// Claims that one network may make at once, and then one each [`NETWORK_PERIOD`]. What is good does not count, so a rack
/// behind one address is enrolled at once.
const NETWORK_BURST: u32 = 10;
const NETWORK_PERIOD: Duration = Duration::from_secs(6);

/// The same of all together. A million guesses take longer than half a day.
const ALL_BURST: u32 = 100;
const ALL_PERIOD: Duration = Duration::from_millis(50);

/// Links of one network at a time, so that it takes many to hold all [`LINKS_MAX`] open without saying anything.
const NETWORK_LINKS_MAX: u32 = 4;

/// Links at a time. Each may hold some 100 KiB for 20 s.
const LINKS_MAX: u32 = 64;

/// Networks that are told apart at a time; those beyond share one account. An entry is forgotten once it has its whole
/// burst again: a minute.
const NETWORKS_MAX: usize = 4096;

/// Why somebody is turned away before it is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// Its network made too many claims that were not good.
    Network,
    /// All together did.
    All,
    /// Its network has too many links.
    NetworkLinks,
    /// All together have.
    Links,
}

/// Who may come in.
#[derive(Debug)]
pub struct Gate {
    networks: BTreeMap<Network, Account>,
    others: Account,
    all: Allowance,
    links: u32,
    turned_away: u64,
}

impl Gate {
    /// With nobody in.
    pub fn new(now: Instant) -> Self {
        Self {
            networks: BTreeMap::new(),
            others: Account::new(now),
            all: Allowance { empty_until: now },
            links: 0,
            turned_away: 0,
        }
    }

    /// Whether somebody at this address, which is proved, may have a link. Each that may is to [`Self::leave`].
    ///
    /// # Errors
    /// [`Turned`]; nothing is kept of it but a number.
    pub fn admit(&mut self, now: Instant, from: IpAddr) -> Result<Network, Turned> {
        let admitted = self.try_admit(now, from);
        if admitted.is_err() {
            self.turned_away += 1;
        }
        admitted
    }

    fn try_admit(&mut self, now: Instant, from: IpAddr) -> Result<Network, Turned> {
        if self.links >= LINKS_MAX {
            return Err(Turned::Links);
        }
        let network = self.network(now, from);
        let account = match network {
            Network::Others => &mut self.others,
            known => self.networks.entry(known).or_insert(Account::new(now)),
        };
        if account.links >= NETWORK_LINKS_MAX {
            return Err(Turned::NetworkLinks);
        }
        if !account.allowance.has(now, NETWORK_BURST, NETWORK_PERIOD) {
            return Err(Turned::Network);
        }
        if !self.all.has(now, ALL_BURST, ALL_PERIOD) {
            return Err(Turned::All);
        }
        account.allowance.take(now, NETWORK_PERIOD);
        self.all.take(now, ALL_PERIOD);
        account.links += 1;
        self.links += 1;
        Ok(network)
    }

    /// A link of those that were admitted is over. Where its claim was good, it does not count.
    pub fn leave(&mut self, network: Network, was_good: bool) {
        self.links -= 1;
        let account = match network {
            Network::Others => Some(&mut self.others),
            known => self.networks.get_mut(&known),
        };
        let account = account.expect("an account with links is kept");
        account.links -= 1;
        if was_good {
            account.allowance.give_back(NETWORK_PERIOD);
            self.all.give_back(ALL_PERIOD);
        }
    }

    /// How many were turned away since this was last asked.
    pub fn take_turned_away(&mut self) -> u64 {
        std::mem::take(&mut self.turned_away)
    }

    /// The account that an address is counted on, where need be in place of one that has its whole burst again.
    fn network(&mut self, now: Instant, from: IpAddr) -> Network {
        let network = Network::of(from);
        if self.networks.contains_key(&network) {
            return network;
        }
        if self.networks.len() >= NETWORKS_MAX {
            self.networks
                .retain(|_, it| it.links > 0 || it.allowance.empty_until > now);
        }
        match self.networks.len() < NETWORKS_MAX {
            true => network,
            false => Network::Others,
        }
    }
}

/// What is counted as one: an IPv4 address, or the /64 that a site gives out as one IPv6 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Network {
    /// One of those that are told apart.
    Known(IpAddr),
    /// One of those that are not.
    Others,
}

impl Network {
    fn of(address: IpAddr) -> Self {
        Self::Known(match address.to_canonical() {
            IpAddr::V6(address) => {
                let prefix = u128::from(address) & !u128::from(u64::MAX);
                Ipv6Addr::from(prefix).into()
            }
            v4 => v4,
        })
    }
}

#[derive(Debug)]
struct Account {
    allowance: Allowance,
    links: u32,
}

impl Account {
    fn new(now: Instant) -> Self {
        Self {
            allowance: Allowance { empty_until: now },
            links: 0,
        }
    }
}

/// A leaky bucket, as the time at which it is empty.
#[derive(Debug)]
struct Allowance {
    empty_until: Instant,
}

impl Allowance {
    fn has(&self, now: Instant, burst: u32, period: Duration) -> bool {
        self.empty_until.saturating_duration_since(now) + period <= burst * period
    }

    fn take(&mut self, now: Instant, period: Duration) {
        self.empty_until = self.empty_until.max(now) + period;
    }

    fn give_back(&mut self, period: Duration) {
        if let Some(earlier) = self.empty_until.checked_sub(period) {
            self.empty_until = earlier;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn host(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    /// Lets somebody in and out again.
    fn claim(gate: &mut Gate, now: Instant, from: IpAddr, was_good: bool) -> Result<(), Turned> {
        let network = gate.admit(now, from)?;
        gate.leave(network, was_good);
        Ok(())
    }

    #[test]
    fn a_network_has_ten_claims_and_then_ten_a_minute_and_others_have_theirs() {
        let now = Instant::now();
        let mut gate = Gate::new(now);
        for _ in 0..10 {
            claim(&mut gate, now, host(1), false).unwrap();
        }
        assert_eq!(claim(&mut gate, now, host(1), false), Err(Turned::Network));
        claim(&mut gate, now, host(2), false).unwrap();
        let later = now + NETWORK_PERIOD;
        claim(&mut gate, later, host(1), false).unwrap();
        assert_eq!(
            claim(&mut gate, later, host(1), false),
            Err(Turned::Network)
        );
        assert_eq!(gate.take_turned_away(), 2);
        assert_eq!(gate.take_turned_away(), 0);
        // All addresses of one IPv6 network are one.
        for last in 0..10 {
            let address = IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, last]);
            claim(&mut gate, later, address, false).unwrap();
        }
        let address = "2001:db8:0:1:ffff::".parse().unwrap();
        assert_eq!(
            claim(&mut gate, later, address, false),
            Err(Turned::Network)
        );
    }

    #[test]
    fn good_claims_do_not_count() {
        let now = Instant::now();
        let mut gate = Gate::new(now);
        for _ in 0..1000 {
            claim(&mut gate, now, host(1), true).unwrap();
        }
    }

    #[test]
    fn links_are_few_and_fewer_of_one_network() {
        let now = Instant::now();
        let mut gate = Gate::new(now);
        let first: Vec<_> = (0..4).map(|_| gate.admit(now, host(1)).unwrap()).collect();
        assert_eq!(gate.admit(now, host(1)), Err(Turned::NetworkLinks));
        for number in 2..17 {
            for _ in 0..4 {
                gate.admit(now, host(number)).unwrap();
            }
        }
        assert_eq!(gate.admit(now, host(99)), Err(Turned::Links));
        gate.leave(first[0], false);
        gate.admit(now, host(99)).unwrap();
    }

    /// E7: a million guesses from as many addresses, as fast as they come.
    #[test]
    fn e7_of_a_million_guesses_at_once_a_hundred_are_looked_at_and_little_is_kept() {
        let began = Instant::now();
        let mut gate = Gate::new(began);
        let mut looked_at = 0;
        for number in 0..1_000_000u32 {
            // In ten seconds.
            let now = began + Duration::from_micros(u64::from(number) * 10);
            looked_at += u32::from(claim(&mut gate, now, host(number), false).is_ok());
            assert!(gate.networks.len() <= NETWORKS_MAX);
        }
        // The burst, and 20 a second.
        assert!((290..=301).contains(&looked_at), "{looked_at}");
        assert_eq!(gate.take_turned_away(), 1_000_000 - u64::from(looked_at));
        // Who comes after them is heard again.
        let later = began + Duration::from_secs(80);
        claim(&mut gate, later, host(7), false).unwrap();
    }
}
