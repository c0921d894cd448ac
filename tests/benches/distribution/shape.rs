//! A fleet, its links and what it is to get; and the least time that this can take.

use scap_tests::fleet::{Builder, Rate};
use serde::Serialize;

/// What a row is measured on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Shape {
    pub(crate) hosts: u16,
    /// Of each link, each way; without one they are as fast as the machine.
    pub(crate) rate_mbit: Option<u32>,
    /// Of the seed's own link; as all others, unless said.
    pub(crate) seed_mbit: Option<u32>,
    /// How many sites the hosts are spread over, the seed in the first; none unless said.
    pub(crate) sites: Option<u16>,
    /// What may leave a site, and what may enter one.
    pub(crate) border_mbit: Option<u32>,
    /// So many last hosts stand behind the one before them each.
    pub(crate) in_a_row: u16,
    /// What goes to each host; 0 where that is not one incompressible file.
    pub(crate) mib: usize,
}

impl Shape {
    /// Hosts on one network, with links of one rate.
    pub(crate) const fn equal(hosts: u16, rate_mbit: u32, mib: usize) -> Self {
        Self {
            hosts,
            rate_mbit: Some(rate_mbit),
            seed_mbit: None,
            sites: None,
            border_mbit: None,
            in_a_row: 0,
            mib,
        }
    }

    /// A small one of the same kind, for a look at whether everything works.
    pub(crate) fn quick(mut self) -> Self {
        let groups = self.sites.unwrap_or(1);
        self.hosts = self.hosts.min(4 * groups).min(6);
        self.in_a_row = self.in_a_row.min(self.hosts.saturating_sub(2));
        self.mib = self.mib.min(16);
        self
    }

    /// The same with all links at half their rates, but none of hosts below [`Self::rate_mbit_min`]; `None` where they are there.
    pub(crate) fn slower(self) -> Option<Self> {
        let rate = self.rate_mbit?;
        let slower = (rate / 2).max(self.rate_mbit_min());
        let scaled = |mbit: u32| (mbit * slower / rate).max(1);
        (slower < rate).then(|| Self {
            rate_mbit: Some(slower),
            seed_mbit: self.seed_mbit.map(scaled),
            border_mbit: self.border_mbit.map(scaled),
            ..self
        })
    }

    /// As slow as links may be made where the processors are the limit: slower ones are nobody's.
    fn rate_mbit_min(self) -> u32 {
        if self.hosts <= 16 { 20 } else { 10 }
    }

    /// # Errors
    /// What does not go together.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.sites.is_some() != self.border_mbit.is_some() {
            return Err("--sites and --border-mbit need each other".to_owned());
        }
        if let Some(sites) = self.sites.filter(|n| !(1..=self.hosts).contains(n)) {
            let hosts = self.hosts;
            return Err(format!("{hosts} hosts cannot be spread over {sites} sites"));
        }
        if self.in_a_row >= self.hosts {
            return Err("--in-a-row leaves no host in the open".to_owned());
        }
        Ok(())
    }

    pub(crate) fn describe_to(&self, builder: Builder) -> Builder {
        let mut builder = builder.hosts(self.hosts);
        if let Some(mbit) = self.rate_mbit {
            builder = builder.rate_mbit(mbit);
        }
        if let Some(mbit) = self.seed_mbit {
            builder = builder.coordinator_rate(Rate::symmetric(mbit));
        }
        if let Some((count, border_mbit)) = self.sites.zip(self.border_mbit) {
            builder = builder.sites(count, border_mbit);
        }
        let behind = self.hosts - self.in_a_row + 1..=self.hosts;
        behind.fold(builder, |builder, host| builder.behind(host, &[host - 1]))
    }

    /// How many hosts, the first ones, stand behind no other.
    pub(crate) fn in_the_open(&self) -> usize {
        usize::from(self.hosts - self.in_a_row)
    }

    pub(crate) fn payload_bytes(&self) -> usize {
        self.mib * 1024 * 1024
    }

    /// What measuring it will fill: each host keeps chunks and tree, the seed the chunks, git its objects and the work tree, and
    /// the rest is room to check, and for what else the machine reads and writes meanwhile.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let copies = 2 * u64::from(self.hosts) + 6;
        copies * self.payload_bytes() as u64
    }

    /// The least time in which all hosts can hold the payload: the seed must send it once, each host must receive it, all
    /// links together must carry a copy per host, and where there are several sites, the seed's must let it out once and each
    /// other must take it in once. `None` where the links have no rate.
    pub(crate) fn bound_seconds(&self) -> Option<f64> {
        let payload = self.payload_bytes() as f64;
        let per_second = |mbit: u32| f64::from(mbit) * 1e6 / 8.0;
        let link = self.rate_mbit.map(per_second)?;
        let seed = self.seed_mbit.map_or(link, per_second);
        let hosts = f64::from(self.hosts);
        let border = match self.sites.zip(self.border_mbit) {
            Some((2.., border_mbit)) => per_second(border_mbit),
            _ => f64::INFINITY,
        };
        let single = payload / seed.min(link).min(border);
        Some(single.max(hosts * payload / (seed + hosts * link)))
    }

    /// The fleet and its network, for people.
    pub(crate) fn describe(&self) -> String {
        let rate = match self.rate_mbit {
            Some(mbit) => format!("at {mbit} Mbit/s"),
            None => "on links without a rate".to_owned(),
        };
        let mut text = format!("{} hosts {rate}", self.hosts);
        if let Some(mbit) = self.seed_mbit {
            text += &format!(", the seed at {mbit}");
        }
        if let Some((count, mbit)) = self.sites.zip(self.border_mbit) {
            text += &format!(", in {count} sites with borders of {mbit}");
        }
        if self.in_a_row > 0 {
            text += &format!(", the last {} behind one another", self.in_a_row);
        }
        text
    }
}
