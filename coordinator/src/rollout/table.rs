//! `[rollout]` of a fleet file: how a release goes through this fleet, and the policy that this makes.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use scap_proto::id::NodeId;
use serde::Deserialize;

use super::{
    external::{self, ExternalCheck},
    policy::{Budget, Policy, Prefetch, Wave},
};
use crate::fleet::{CANARY_GROUP, Host};

/// The table, as it is written; what it leaves out has a default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Who fetches when.
    #[serde(default)]
    pub prefetch: Prefetch,
    /// How long each wave soaks, in seconds; 0 unless said.
    #[serde(default)]
    pub soak: u64,
    /// How many hosts each wave may lose, but the first of several; none unless said.
    pub budget: Option<Budget>,
    /// How many hosts each wave may lose in each site; any number unless said.
    pub site_budget: Option<Budget>,
    /// How many hosts each wave may lose in each rack; any number unless said.
    pub rack_budget: Option<Budget>,
    /// After how many seconds without progress a host counts as failed.
    pub deadline: Option<u64>,
    /// After how many seconds a host goes back by itself that has a release live which is not finalized, and hears of nobody;
    /// never unless said.
    pub dead_man: Option<u64>,
    /// The command, with its arguments, that looks at the hosts of each wave from the deployment host; none unless said.
    pub external_check: Option<Vec<String>>,
    /// After how many seconds that has failed; 60 unless said.
    pub external_check_timeout: Option<NonZeroU32>,
    /// The waves, in order. Unless said: the canary group, then the rest.
    #[serde(default, rename = "wave")]
    pub waves: Vec<WaveTable>,
}

/// One wave of it. Hosts that are in an earlier wave stay there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaveTable {
    /// What it is called.
    pub name: String,
    /// The hosts of this group; where neither this nor [`Self::percent`] is said, all that are left.
    pub group: Option<String>,
    /// So many of all hosts of the fleet, rounded down, at least one, in the order of their names: 1 to 100.
    pub percent: Option<u8>,
    /// In place of [`Table::soak`].
    pub soak: Option<u64>,
    /// In place of [`Table::budget`].
    pub budget: Option<Budget>,
    /// How many of its hosts promote at a time; all unless said.
    pub group_size: Option<NonZeroUsize>,
    /// Whether a person must let it promote.
    #[serde(default)]
    pub approval: bool,
}

/// Why a table cannot be kept to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A wave of nobody.
    #[error(
        "wave {0:?} of [rollout] has no host: its group has none, or earlier waves have them all"
    )]
    Empty(String),
    /// Two waves of one name.
    #[error("[rollout] names wave {0:?} twice")]
    Twice(String),
    /// Both ways to say who is in it.
    #[error("wave {0:?} of [rollout]: either `group` or `percent` says who is in it")]
    Both(String),
    /// A share that is none.
    #[error("wave {0:?} of [rollout]: `percent` is from 1 to 100")]
    Percent(String),
    /// A command that is none.
    #[error(
        "`external_check` of [rollout] is a program and its arguments: `[\"/usr/local/bin/look\"]`"
    )]
    NoCommand,
    /// A host that would have nobody to fetch from.
    #[error(
        "host {host} fetches before each host of its `via`: put one of these in its wave or an earlier one"
    )]
    Relay {
        /// Which.
        host: NodeId,
    },
}

impl Table {
    /// The policy for these hosts.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn policy(&self, hosts: &[Host]) -> Result<Policy, PolicyError> {
        if self.external_check.as_ref().is_some_and(Vec::is_empty) {
            return Err(PolicyError::NoCommand);
        }
        let mut left: BTreeSet<&NodeId> = hosts.iter().map(|host| &host.name).collect();
        let mut waves: Vec<Wave> = Vec::new();
        for table in self.tables(hosts) {
            let name = &table.name;
            if waves.iter().any(|wave| wave.name == *name) {
                return Err(PolicyError::Twice(name.clone()));
            }
            let taken = take(&table, hosts, &mut left)?;
            if taken.is_empty() {
                return Err(PolicyError::Empty(name.clone()));
            }
            let is_canary = waves.is_empty() && !left.is_empty();
            waves.push(self.wave(&table, taken, is_canary, hosts));
        }
        if !left.is_empty() {
            let rest = WaveTable {
                name: free_name(&waves),
                ..WaveTable::default()
            };
            let left = left.into_iter().cloned().collect();
            waves.push(self.wave(&rest, left, false, hosts));
        }
        let policy = Policy {
            waves,
            prefetch: self.prefetch,
            is_limited: false,
        };
        check_relays(&policy, hosts)?;
        Ok(policy)
    }

    /// What looks at each wave from the deployment host.
    pub fn external_check(&self) -> Option<ExternalCheck> {
        let timeout = self.external_check_timeout;
        let timeout = timeout.map(|it| Duration::from_secs(it.get().into()));
        Some(ExternalCheck {
            command: self.external_check.clone()?,
            timeout: timeout.unwrap_or(external::TIMEOUT),
        })
    }

    /// The waves that are said, or the canary group where there is one.
    fn tables(&self, hosts: &[Host]) -> Vec<WaveTable> {
        let has_canary = hosts.iter().any(|host| host.groups.contains(CANARY_GROUP));
        if !self.waves.is_empty() || !has_canary {
            return self.waves.clone();
        }
        vec![WaveTable {
            name: CANARY_GROUP.into(),
            group: Some(CANARY_GROUP.into()),
            ..WaveTable::default()
        }]
    }

    fn wave(
        &self,
        table: &WaveTable,
        members: BTreeSet<NodeId>,
        is_canary: bool,
        hosts: &[Host],
    ) -> Wave {
        let later = self.budget.filter(|_| !is_canary);
        let budget = table.budget.or(later).unwrap_or(Budget::Count(0));
        let by_name: BTreeMap<&NodeId, &Host> =
            hosts.iter().map(|host| (&host.name, host)).collect();
        let soak = Duration::from_secs(table.soak.unwrap_or(self.soak));
        let wave = Wave::new(&table.name, members)
            .losing(budget)
            .losing_in_each("site", self.site_budget, |host| &by_name[host].site)
            .losing_in_each("rack", self.rack_budget, |host| &by_name[host].rack)
            .soaking(soak)
            .with_approval(table.approval);
        match table.group_size {
            Some(size) => wave.in_groups_of(size.get()),
            None => wave,
        }
    }
}

/// Takes a wave's hosts out of those that are left.
fn take(
    table: &WaveTable,
    hosts: &[Host],
    left: &mut BTreeSet<&NodeId>,
) -> Result<BTreeSet<NodeId>, PolicyError> {
    let count = match table.percent {
        Some(1..=100) if table.group.is_some() => {
            return Err(PolicyError::Both(table.name.clone()));
        }
        Some(percent @ 1..=100) => Budget::Percent(percent).of(hosts.len()).max(1),
        Some(_) => return Err(PolicyError::Percent(table.name.clone())),
        None => usize::MAX,
    };
    let is_in = |host: &&Host| match &table.group {
        Some(group) => host.groups.contains(group),
        None => true,
    };
    let found = hosts.iter().filter(is_in).map(|host| &host.name);
    let found = found.filter(|name| left.contains(name)).take(count);
    let found: BTreeSet<NodeId> = found.cloned().collect();
    left.retain(|name| !found.contains(name));
    Ok(found)
}

/// `rest`, or, where a wave is called so, the first of `rest-2`, `rest-3`, … that none is.
fn free_name(waves: &[Wave]) -> String {
    let is_free = |name: &String| waves.iter().all(|wave| wave.name != *name);
    let numbered = (2..).map(|number: usize| format!("rest-{number}"));
    let mut names = std::iter::once("rest".to_owned()).chain(numbered);
    names
        .find(is_free)
        .expect("there are more names than waves")
}

/// That whoever stands behind others fetches no earlier than the first of them.
fn check_relays(policy: &Policy, hosts: &[Host]) -> Result<(), PolicyError> {
    let (rounds, _) = policy.rounds();
    for host in hosts.iter().filter(|host| !host.via.is_empty()) {
        let own = rounds[&host.name];
        if host
            .via
            .iter()
            .all(|relay| rounds.get(relay).is_none_or(|round| *round > own))
        {
            let host = host.name.clone();
            return Err(PolicyError::Relay { host });
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::fleet::Inventory;

    /// Hosts `h0`, `h1`, …; those of `canaries` are in the canary group, odd ones in rack b of site east.
    fn fleet(count: usize, canaries: usize, rollout: &str) -> Result<Inventory, String> {
        let mut text = rollout.to_owned();
        for n in 0..count {
            text += &format!("\n[[host]]\nname = 'h{n}'\naddress = '10.0.0.{n}:7227'\n");
            if n < canaries {
                text += "groups = ['canary']\n";
            }
            if n % 2 == 1 {
                text += "site = 'east'\nrack = 'b'\n";
            }
        }
        let parsed = Inventory::parse(&text, Path::new("fleet.toml"));
        parsed.map_err(|error| scap_agent::error_chain(&error))
    }

    fn policy(count: usize, canaries: usize, rollout: &str) -> Result<Policy, String> {
        let fleet = fleet(count, canaries, rollout)?;
        Ok(fleet.rollout.policy(&fleet.hosts).unwrap())
    }

    fn shape(policy: &Policy) -> Vec<(&str, usize, usize)> {
        let one = |wave: &Wave| wave.hosts().count();
        let waves = policy.waves.iter();
        let shape = waves.map(|wave| (wave.name.as_str(), one(wave), wave.limits[0].allowed));
        shape.collect()
    }

    #[test]
    fn unless_it_is_said_the_canary_goes_first_and_nobody_may_be_lost() {
        let plain = policy(5, 2, "").unwrap();
        assert_eq!(shape(&plain), [("canary", 2, 0), ("rest", 3, 0)]);
        assert_eq!(plain.prefetch, Prefetch::Canary);
        assert!(
            plain
                .waves
                .iter()
                .all(|wave| wave.soak.is_zero() && !wave.needs_approval)
        );
        assert_eq!(shape(&policy(3, 0, "").unwrap()), [("rest", 3, 0)]);
        assert_eq!(shape(&policy(3, 3, "").unwrap()), [("canary", 3, 0)]);
    }

    #[test]
    fn waves_are_by_group_by_share_and_of_what_is_left() {
        let text = "[rollout]\nsoak = 60\nbudget = '20%'\nprefetch = 'all'\nsite_budget = 1
            [[rollout.wave]]\nname = 'first'\ngroup = 'canary'\nsoak = 600
            [[rollout.wave]]\nname = 'tenth'\npercent = 10\napproval = true
            [[rollout.wave]]\nname = 'half'\npercent = 50\nbudget = 3\ngroup_size = 4\n";
        let policy = policy(19, 2, text).unwrap();
        let expected = [
            ("first", 2, 0),
            ("tenth", 1, 0),
            ("half", 9, 3),
            ("rest", 7, 1),
        ];
        assert_eq!(shape(&policy), expected);
        let seconds: Vec<u64> = policy.waves.iter().map(|it| it.soak.as_secs()).collect();
        assert_eq!(seconds, [600, 60, 60, 60]);
        let approvals: Vec<bool> = policy.waves.iter().map(|it| it.needs_approval).collect();
        assert_eq!(approvals, [false, true, false, false]);
        let half: Vec<usize> = policy.waves[2].groups.iter().map(BTreeSet::len).collect();
        assert_eq!(half, [4, 4, 1]);
        let limit = &policy.waves[3].limits[1];
        assert_eq!(
            (limit.of.as_str(), limit.allowed),
            ("site east of wave rest", 1)
        );
        assert_eq!(policy.prefetch, Prefetch::All);
    }

    #[test]
    fn the_first_of_several_waves_may_lose_nobody_unless_it_says_so_itself() {
        let budget = "[rollout]\nbudget = 1\n";
        let canary =
            |more: &str| format!("{budget}[[rollout.wave]]\nname = 'w'\ngroup = 'canary'\n{more}");
        assert_eq!(shape(&policy(3, 0, budget).unwrap()), [("rest", 3, 1)]);
        let two = policy(3, 1, budget).unwrap();
        assert_eq!(shape(&two), [("canary", 1, 0), ("rest", 2, 1)]);
        let own = policy(4, 2, &canary("budget = 2\n")).unwrap();
        assert_eq!(shape(&own), [("w", 2, 2), ("rest", 2, 1)]);
        assert_eq!(shape(&policy(2, 2, &canary("")).unwrap()), [("w", 2, 1)]);
    }

    #[test]
    fn a_table_that_cannot_be_kept_to_is_refused_by_name() {
        let wave = "[[rollout.wave]]\nname = 'w'\n";
        for (rollout, cause) in [
            ("[rollout]\nsoka = 1\n".to_owned(), "unknown field `soka`"),
            (format!("{wave}gruop = 'x'\n"), "unknown field `gruop`"),
            (
                "[rollout]\nprefetch = 'none'\n".into(),
                "`canary`, `wave` or `all`",
            ),
            ("[rollout]\nbudget = '101%'\n".into(), "from `0%` to `100%`"),
            ("[rollout]\nbudget = -1\n".into(), "a number of hosts"),
            (
                format!("{wave}group = 'nobody'\n"),
                "wave \"w\" of [rollout] has no host",
            ),
            (format!("{wave}{wave}"), "wave \"w\" twice"),
            (
                format!("{wave}group = 'canary'\npercent = 5\n"),
                "either `group` or `percent`",
            ),
            (format!("{wave}percent = 0\n"), "from 1 to 100"),
            (format!("{wave}group_size = 0\n"), "nonzero"),
        ] {
            let error = fleet(4, 1, &rollout).unwrap_err();
            assert!(error.contains(cause), "{rollout}: {error}");
        }
    }

    #[test]
    fn whoever_stands_behind_others_fetches_no_earlier_than_they() {
        let text = "[[rollout.wave]]\nname = 'one'\ngroup = 'g'
            [[host]]\nname = 'inner'\naddress = '10.1.0.1:7227'\nvia = 'outer'\ngroups = ['g']
            [[host]]\nname = 'outer'\naddress = '10.0.0.1:7227'\n";
        let parse = |text: &str| Inventory::parse(text, Path::new("fleet.toml"));
        let error = scap_agent::error_chain(&parse(text).unwrap_err());
        assert!(error.contains("host inner fetches before"), "{error}");
        parse(&format!("[rollout]\nprefetch = 'all'\n{text}")).unwrap();
    }
}
