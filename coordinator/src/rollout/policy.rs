//! What a rollout is to keep to: its waves, how many hosts each may lose, and how long it waits between them.
//!
//! Made from the fleet file and flags, or by whoever maps another configuration onto it: all of it is plain data.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    time::Duration,
};

use scap_proto::id::NodeId;
use serde::Deserialize;

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// The waves, in order; no host is in two, and none is empty.
    pub waves: Vec<Wave>,
    /// Who fetches when.
    pub prefetch: Prefetch,
    /// Whether a person chose these hosts among others: then the release is the stable one of these alone.
    pub is_limited: bool,
}

/// Hosts that take the release together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wave {
    /// For people.
    pub name: String,
    /// Its hosts, in the groups that promote one after the other. All of them fetch together.
    pub groups: Vec<BTreeSet<NodeId>>,
    /// What it may lose. None of these may be exceeded.
    pub limits: Vec<Limit>,
    /// How long its hosts must have had the release live before the next wave promotes, or it is finalized.
    pub soak: Duration,
    /// Whether a person must let it promote.
    pub needs_approval: bool,
}

/// How many of some hosts may be lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Of what it is, for people: `wave canary`, `site eqiad of wave rest`.
    pub of: String,
    /// Which hosts count.
    pub hosts: BTreeSet<NodeId>,
    /// So many may be lost; one more exceeds it.
    pub allowed: usize,
    /// What that is by.
    budget: Budget,
}

/// How many may be lost, as people say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BudgetText")]
pub enum Budget {
    /// So many hosts.
    Count(usize),
    /// A share of the hosts, from 0 to 100.
    Percent(u8),
}

/// When hosts of later waves fetch. It never changes when they promote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub enum Prefetch {
    /// The first wave alone; once it has the release live, all others, so that they have it while the first wave soaks, and
    /// nobody spends disk and bandwidth on a release that not even the first wave could take.
    #[default]
    Canary,
    /// Each wave when its turn comes.
    Wave,
    /// All at once.
    All,
}

/// Text that is no [`Budget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a number of hosts, or a percentage from `0%` to `100%`")]
pub struct BudgetError;

/// Text that is no [`Prefetch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`canary`, `wave` or `all`")]
pub struct PrefetchError;

impl Policy {
    /// In which round each host fetches, counted from 0, and how many rounds there are: hosts of a round fetch from each
    /// other, and from those of earlier ones.
    pub fn rounds(&self) -> (BTreeMap<&NodeId, usize>, usize) {
        let round = |wave: usize| match self.prefetch {
            Prefetch::All => 0,
            Prefetch::Canary => wave.min(1),
            Prefetch::Wave => wave,
        };
        let waves = self.waves.iter().enumerate();
        let hosts = waves.flat_map(|(at, wave)| wave.hosts().map(move |host| (host, round(at))));
        let last = round(self.waves.len().saturating_sub(1));
        (hosts.collect(), last + 1)
    }

    /// How long it takes at least: all soaks.
    pub fn soaks(&self) -> Duration {
        let soaks = self.waves.iter().map(|wave| wave.soak);
        soaks.fold(Duration::ZERO, Duration::saturating_add)
    }

    /// The same policy for some of its hosts: waves that are left without any are gone, and a share that may be lost is of those that
    /// are left.
    #[must_use]
    pub fn limited_to(mut self, is_chosen: impl Fn(&NodeId) -> bool) -> Self {
        let are_all_chosen = |wave: &Wave| wave.hosts().all(&is_chosen);
        self.is_limited |= !self.waves.iter().all(are_all_chosen);
        for wave in &mut self.waves {
            for group in &mut wave.groups {
                group.retain(&is_chosen);
            }
            wave.groups.retain(|group| !group.is_empty());
            for limit in &mut wave.limits {
                limit.hosts.retain(&is_chosen);
                limit.allowed = limit.budget.of(limit.hosts.len());
            }
        }
        self.waves.retain(|wave| !wave.groups.is_empty());
        self
    }
}

impl Wave {
    /// A wave whose hosts promote together, that may lose none of them, and is over once they have.
    pub fn new(name: impl Into<String>, hosts: BTreeSet<NodeId>) -> Self {
        Self {
            name: name.into(),
            groups: vec![hosts],
            limits: Vec::new(),
            soak: Duration::ZERO,
            needs_approval: false,
        }
        .losing(Budget::Count(0))
    }

    /// All its hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &NodeId> {
        self.groups.iter().flatten()
    }

    /// The same wave, which may lose so many of all its hosts; a percentage is of all of them, and rounded down.
    #[must_use]
    pub fn losing(mut self, budget: Budget) -> Self {
        let hosts: BTreeSet<NodeId> = self.hosts().cloned().collect();
        let of = format!("wave {}", self.name);
        self.limits.retain(|limit| limit.of != of);
        let allowed = budget.of(hosts.len());
        let limit = Limit {
            of,
            hosts,
            allowed,
            budget,
        };
        self.limits.insert(0, limit);
        self
    }

    /// The same wave, which may also lose no more than so many of its hosts in each `kind` (`site`, `rack`), where there is a budget; a
    /// host whose domain is empty is in none. A percentage is of the wave's hosts there, and rounded down.
    #[must_use]
    pub fn losing_in_each<'a>(
        mut self,
        kind: &str,
        budget: impl Into<Option<Budget>>,
        domain_of: impl Fn(&NodeId) -> &'a str,
    ) -> Self {
        let Some(budget) = budget.into() else {
            return self;
        };
        let mut domains: BTreeMap<&str, BTreeSet<NodeId>> = BTreeMap::new();
        for host in self.groups.iter().flatten() {
            let domain = domain_of(host);
            if !domain.is_empty() {
                domains.entry(domain).or_default().insert(host.clone());
            }
        }
        let limits = domains.into_iter().map(|(domain, hosts)| Limit {
            of: format!("{kind} {domain} of wave {}", self.name),
            allowed: budget.of(hosts.len()),
            hosts,
            budget,
        });
        self.limits.extend(limits);
        self
    }

    /// The same wave, whose hosts promote at most `size` at a time, in the order of their names.
    ///
    /// # Panics
    /// When `size` is 0.
    #[must_use]
    pub fn in_groups_of(mut self, size: usize) -> Self {
        let hosts: Vec<NodeId> = self.hosts().cloned().collect();
        let groups = hosts.chunks(size);
        self.groups = groups
            .map(|group| group.iter().cloned().collect())
            .collect();
        self
    }

    /// The same wave, which soaks so long.
    #[must_use]
    pub fn soaking(self, soak: Duration) -> Self {
        Self { soak, ..self }
    }

    /// The same wave, which promotes once a person lets it.
    #[must_use]
    pub fn with_approval(self, needs_approval: bool) -> Self {
        Self {
            needs_approval,
            ..self
        }
    }
}

impl Budget {
    /// How many of `hosts` may be lost: a percentage is rounded down.
    pub fn of(self, hosts: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => hosts * usize::from(percent) / 100,
        }
    }
}

impl FromStr for Budget {
    type Err = BudgetError;

    fn from_str(text: &str) -> Result<Self, BudgetError> {
        let number = |digits: &str| -> Option<usize> {
            let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|_| is_plain)
        };
        let budget = match text.strip_suffix('%') {
            None => number(text).map(Self::Count),
            Some(share) => number(share)
                .and_then(|share| u8::try_from(share).ok())
                .filter(|share| *share <= 100)
                .map(Self::Percent),
        };
        budget.ok_or(BudgetError)
    }
}

/// How a file writes it.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a number of hosts, or a percentage like `10%`")]
enum BudgetText {
    Count(usize),
    Text(String),
}

impl TryFrom<BudgetText> for Budget {
    type Error = BudgetError;

    fn try_from(text: BudgetText) -> Result<Self, BudgetError> {
        match text {
            BudgetText::Count(count) => Ok(Self::Count(count)),
            BudgetText::Text(text) => text.parse(),
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for Prefetch {
    type Err = PrefetchError;

    fn from_str(text: &str) -> Result<Self, PrefetchError> {
        match text {
            "canary" => Ok(Self::Canary),
            "wave" => Ok(Self::Wave),
            "all" => Ok(Self::All),
            _ => Err(PrefetchError),
        }
    }
}

impl TryFrom<String> for Prefetch {
    type Error = PrefetchError;

    fn try_from(text: String) -> Result<Self, PrefetchError> {
        text.parse()
    }
}

impl fmt::Display for Prefetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Canary => "canary",
            Self::Wave => "wave",
            Self::All => "all",
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn hosts(count: usize) -> BTreeSet<NodeId> {
        let name = |n: usize| format!("h{n:03}").parse().unwrap();
        (0..count).map(name).collect()
    }

    #[test]
    fn a_percentage_is_rounded_down_and_exact_at_its_edges() {
        for (text, hosts, allowed) in [
            ("0", 9, 0),
            ("3", 2, 3),
            ("0%", 1000, 0),
            ("10%", 9, 0),
            ("10%", 10, 1),
            ("10%", 19, 1),
            ("33%", 100, 33),
            ("33%", 3, 0),
            ("34%", 3, 1),
            ("100%", 7, 7),
        ] {
            let budget: Budget = text.parse().unwrap();
            assert_eq!(budget.of(hosts), allowed, "{text} of {hosts}");
            assert_eq!(budget.to_string(), text);
        }
        for text in ["", "%", "-1", "+1", "101%", "1.5%", "10 %", "ten", "300%"] {
            assert_eq!(text.parse::<Budget>(), Err(BudgetError), "{text}");
        }
    }

    #[test]
    fn a_wave_may_lose_none_unless_it_is_said() {
        let wave = Wave::new("w", hosts(5));
        let allowed = |wave: &Wave| wave.limits.iter().map(|it| it.allowed).collect::<Vec<_>>();
        assert_eq!(allowed(&wave), [0]);
        let wave = wave.losing(Budget::Percent(40));
        assert_eq!(allowed(&wave), [2], "it takes the place of the default");
        let site = |host: &NodeId| match host.as_str() {
            "h000" => "",
            "h001" => "east",
            _ => "west",
        };
        let wave = wave.losing_in_each("site", Budget::Percent(34), site);
        let limits: Vec<_> = wave
            .limits
            .iter()
            .map(|it| (it.of.as_str(), it.allowed))
            .collect();
        assert_eq!(
            limits,
            [
                ("wave w", 2),
                ("site east of wave w", 0),
                ("site west of wave w", 1)
            ]
        );
    }

    #[test]
    fn groups_hold_all_hosts_of_a_wave_once_and_in_order() {
        let sizes = |count, size| -> Vec<usize> {
            let wave = Wave::new("w", hosts(count)).in_groups_of(size);
            assert!(wave.hosts().eq(hosts(count).iter()));
            wave.groups.iter().map(BTreeSet::len).collect()
        };
        assert_eq!(sizes(5, 2), [2, 2, 1]);
        assert_eq!(sizes(4, 2), [2, 2]);
        assert_eq!(sizes(3, 9), [3]);
    }

    #[test]
    fn hosts_fetch_in_the_rounds_that_the_policy_says() {
        let names: Vec<NodeId> = hosts(3).into_iter().collect();
        let rounds = |prefetch| {
            let one = |host: &NodeId| Wave::new("w", BTreeSet::from([host.clone()]));
            let waves = names.iter().map(one).collect();
            let policy = Policy {
                waves,
                prefetch,
                is_limited: false,
            };
            let (rounds, count) = policy.rounds();
            let rounds: Vec<usize> = names.iter().map(|name| rounds[name]).collect();
            (rounds, count)
        };
        assert_eq!(rounds(Prefetch::All), (vec![0, 0, 0], 1));
        assert_eq!(rounds(Prefetch::Canary), (vec![0, 1, 1], 2));
        assert_eq!(rounds(Prefetch::Wave), (vec![0, 1, 2], 3));
    }
}
