//! How a fleet is described and made.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

use super::logs::Logs;
use super::netns::{self, Network, StationNumber};
use super::sites::{SiteNumber, Sites};
use super::walls::Walls;
use super::{Coordinator, Fleet, Host, Rate, Shared, Station, UnderTest, mounts, support};

/// A fleet to be.
#[must_use]
pub struct Builder {
    under_test: UnderTest,
    hosts: StationNumber,
    canaries: StationNumber,
    rate: Rate,
    coordinator_rate: Option<Rate>,
    host_rates: BTreeMap<StationNumber, Rate>,
    loopback: bool,
    sites: Option<(SiteNumber, u32)>,
    walls: Walls,
    tmpfs: bool,
}

impl Builder {
    pub(crate) fn new(under_test: UnderTest) -> Self {
        Self {
            under_test,
            hosts: 1,
            canaries: 0,
            rate: Rate::default(),
            coordinator_rate: None,
            host_rates: BTreeMap::new(),
            loopback: false,
            sites: None,
            walls: Walls::default(),
            tmpfs: false,
        }
    }

    /// How many targets, `host1` and up; 1 unless said.
    pub fn hosts(mut self, hosts: u16) -> Self {
        self.hosts = hosts;
        self
    }

    /// How many of them, from the first, are in group `canary`; none unless said.
    pub fn canaries(mut self, canaries: u16) -> Self {
        self.canaries = canaries;
        self
    }

    /// The rate of every link, up and down each, the coordinator's too; unlimited unless said.
    pub fn rate_mbit(mut self, mbit: u32) -> Self {
        self.rate = Rate::symmetric(mbit);
        self
    }

    /// The rate of the coordinator's link where it differs.
    pub fn coordinator_rate(mut self, rate: Rate) -> Self {
        self.coordinator_rate = Some(rate);
        self
    }

    /// The rate of the link of `host{number}` where it differs.
    pub fn host_rate(mut self, number: u16, rate: Rate) -> Self {
        self.host_rates.insert(number, rate);
        self
    }

    /// Has all processes on one network of its own, the loopback device: no link, no bridge and no rate between them.
    pub fn on_loopback(mut self) -> Self {
        self.loopback = true;
        self
    }

    /// Spreads the fleet over `count` sites, `site1` and up: the hosts in order and evenly, the
    /// coordinator in the first. Between sites, what leaves one and what comes into it are limited
    /// to `border_mbit` each. One network for all unless said.
    pub fn sites(mut self, count: u16, border_mbit: u32) -> Self {
        self.sites = Some((count, border_mbit));
        self
    }

    /// Puts `host{number}` behind others: only they, and hosts behind just the same ones, have a route to it, and the fleet
    /// file says so.
    pub fn behind(mut self, number: u16, relays: &[u16]) -> Self {
        self.walls.add(number, relays);
        self
    }

    /// Keeps the fleet's directory in memory.
    pub fn tmpfs(mut self) -> Self {
        self.tmpfs = true;
        self
    }

    /// Makes the fleet, after waiting for any other on this machine to end. `None` where the
    /// machine cannot hold one; a line on stderr says why.
    ///
    /// # Panics
    /// When it cannot be made on a machine that can hold one, or a site would have no host, and, with
    /// `SCAP_TESTS_NO_SKIP` in the environment, where the machine cannot.
    #[must_use]
    pub fn build(self) -> Option<Fleet> {
        if let Err(why) = support::tools_are_here() {
            self.under_test.skip(&why);
            return None;
        }
        let temp = std::env::temp_dir()
            .canonicalize()
            .expect("there is a temporary directory");
        let turn = take_turn(&temp).unwrap_or_else(|error| panic!("wait for a turn: {error:#}"));
        netns::remove_stale();
        if let Err(why) = netns::probe() {
            self.under_test.skip(&format!("{why:#}"));
            return None;
        }
        Some(
            self.make(&temp, turn)
                .unwrap_or_else(|error| panic!("make a fleet: {error:#}")),
        )
    }

    fn make(self, temp: &Path, turn: File) -> Result<Fleet> {
        let sites = self
            .sites
            .map(|(count, border_mbit)| Sites::new(count, self.hosts, border_mbit));
        remove_stale_dirs(temp);

        let number = FLEETS_MADE.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::Builder::new()
            .prefix(&format!("{DIR_NAME}{}-{number}-", std::process::id()))
            .tempdir_in(temp)
            .context("create the fleet's directory")?;
        if self.tmpfs {
            mounts::mount_tmpfs(dir.path(), None);
        }
        let logs = dir.path().join("logs");
        let home = dir.path().join("home");
        for made in [&logs, &home] {
            std::fs::create_dir(made).with_context(|| format!("create {}", made.display()))?;
        }
        let shared = Rc::new(Shared {
            under_test: self.under_test.clone(),
            logs: Logs::new(logs),
            home,
        });
        let prefix = netns::prefix(number);
        let network = match self.loopback {
            true => Network::create_loopback(&prefix)?,
            false => Network::create(&prefix, &self.rates(), sites, self.walls.clone())?,
        };
        let network = Rc::new(network);
        let station = |name: &str, number| {
            let place = dir.path().join(name);
            Station::new(
                name.to_owned(),
                number,
                place,
                Rc::clone(&network),
                Rc::clone(&shared),
            )
        };
        Ok(Fleet {
            coordinator: Coordinator::new(station("coordinator", 0)),
            hosts: (1..=self.hosts)
                .map(|number| {
                    let station = station(&format!("host{number}"), number);
                    Host::new(station, number <= self.canaries)
                })
                .collect(),
            network,
            shared,
            dir,
            _turn: turn,
        })
    }

    fn rates(&self) -> Vec<Rate> {
        let mut rates = vec![self.rate; usize::from(self.hosts) + 1];
        rates[0] = self.coordinator_rate.unwrap_or(self.rate);
        for (number, rate) in &self.host_rates {
            rates[usize::from(*number)] = *rate;
        }
        rates
    }
}

/// Waits for the machine's lock of fleets; it is free again when the file is dropped, also by the
/// death of the process.
fn take_turn(temp: &Path) -> Result<File> {
    let path = temp.join("scap-fleet.lock");
    let file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    file.lock()
        .with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}

fn remove_stale_dirs(temp: &Path) {
    for entry in std::fs::read_dir(temp).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name
            .to_str()
            .and_then(|n| n.strip_prefix(DIR_NAME))
            .is_some_and(netns::maker_is_gone)
        {
            mounts::unmount_beneath(&entry.path());
            // What cannot be removed is only in the way, and the next fleet tries again.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

static FLEETS_MADE: AtomicU32 = AtomicU32::new(0);

/// What the name of every fleet's directory starts with.
const DIR_NAME: &str = "scap-fleet-";
