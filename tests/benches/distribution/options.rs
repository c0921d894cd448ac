//! What is measured, and the least time that it can take.

use scap_tests::fleet::Builder;
use serde::Serialize;

/// What the command line says.
#[derive(Debug, Serialize)]
pub(crate) struct Options {
    pub(crate) hosts: u16,
    pub(crate) rate_mbit: u32,
    /// The rate of the seed's own link; as all others, unless said.
    seed_mbit: Option<u32>,
    /// How many sites the hosts are spread over; none unless said.
    sites: Option<u16>,
    /// What may leave a site, and what may enter one.
    border_mbit: Option<u32>,
    /// So many last hosts stand behind the one before them each.
    in_a_row: u16,
    pub(crate) mib: usize,
    pub(crate) files: usize,
    /// Files of the tree that goes to all hosts, before and after one line changed; 0 for none.
    pub(crate) tree_files: usize,
    pub(crate) topology: String,
    disk: bool,
    pub(crate) cold_memory: bool,
}

impl Options {
    /// # Errors
    /// What is wrong with the words.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            hosts: 16,
            rate_mbit: 100,
            seed_mbit: None,
            sites: None,
            border_mbit: None,
            in_a_row: 0,
            mib: 256,
            files: 20_000,
            tree_files: 13_000,
            topology: "lanes".to_owned(),
            disk: false,
            cold_memory: false,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--quick" => {
                    (options.hosts, options.mib) = (4, 32);
                    (options.files, options.tree_files) = (2_000, 2_000);
                }
                "--hosts" => options.hosts = number(&value()?)?,
                "--rate-mbit" => options.rate_mbit = number(&value()?)?,
                "--seed-mbit" => options.seed_mbit = Some(number(&value()?)?),
                "--sites" => options.sites = Some(number(&value()?)?),
                "--border-mbit" => options.border_mbit = Some(number(&value()?)?),
                "--in-a-row" => options.in_a_row = number(&value()?)?,
                "--mib" => options.mib = number(&value()?)?,
                "--files" => options.files = number(&value()?)?,
                "--tree-files" => options.tree_files = number(&value()?)?,
                "--topology" => options.topology = value()?,
                "--disk" => options.disk = true,
                "--cold-memory" => options.cold_memory = true,
                "--bench" => {} // cargo says so
                _ => return Err(format!("unknown option {word}")),
            }
        }
        if options.sites.is_some() != options.border_mbit.is_some() {
            return Err("--sites and --border-mbit need each other".to_owned());
        }
        if let Some(sites) = options.sites.filter(|n| !(1..=options.hosts).contains(n)) {
            let hosts = options.hosts;
            return Err(format!("{hosts} hosts cannot be spread over {sites} sites"));
        }
        if options.in_a_row >= options.hosts {
            return Err("--in-a-row leaves no host in the open".to_owned());
        }
        Ok(options)
    }

    /// How many hosts, the first ones, stand behind no other.
    pub(crate) fn in_the_open(&self) -> usize {
        usize::from(self.hosts - self.in_a_row)
    }

    /// Puts hosts behind others, where that is said.
    pub(crate) fn wall(&self, builder: Builder) -> Builder {
        let behind = self.hosts - self.in_a_row + 1..=self.hosts;
        behind.fold(builder, |builder, host| builder.behind(host, &[host - 1]))
    }

    pub(crate) fn place(&self, builder: Builder) -> Builder {
        if self.disk { builder } else { builder.tmpfs() }
    }

    pub(crate) fn seed_mbit(&self) -> u32 {
        self.seed_mbit.unwrap_or(self.rate_mbit)
    }

    /// How many, and the rate of each one's border each way.
    pub(crate) fn sites(&self) -> Option<(u16, u32)> {
        self.sites.zip(self.border_mbit)
    }

    pub(crate) fn payload_bytes(&self) -> usize {
        self.mib * 1024 * 1024
    }

    /// What the measurement will fill: each host keeps chunks and tree, the seed the chunks, git its
    /// objects, and the rest is room to check, and for what else the machine reads and writes meanwhile.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let copies = 2 * u64::from(self.hosts) + 16;
        copies * self.payload_bytes() as u64
    }

    /// The least time in which all hosts can hold the payload: the seed must send it once, each
    /// host must receive it, all links together must carry a copy per host, and where there are
    /// several sites, the seed's must let it out once and each other must take it in once.
    pub(crate) fn bound_seconds(&self) -> f64 {
        let payload = self.payload_bytes() as f64;
        let per_second = |mbit: u32| f64::from(mbit) * 1e6 / 8.0;
        let (seed, link) = (per_second(self.seed_mbit()), per_second(self.rate_mbit));
        let hosts = f64::from(self.hosts);
        let border = match self.sites() {
            Some((2.., border_mbit)) => per_second(border_mbit),
            _ => f64::INFINITY,
        };
        let single = payload / seed.min(link).min(border);
        single.max(hosts * payload / (seed + hosts * link))
    }

    /// The fleet and its network, for people.
    pub(crate) fn describe(&self) -> String {
        let mut text = format!("{} hosts at {} Mbit/s", self.hosts, self.rate_mbit);
        if let Some(mbit) = self.seed_mbit {
            text += &format!(", the seed at {mbit}");
        }
        if let Some((count, mbit)) = self.sites() {
            text += &format!(", in {count} sites with borders of {mbit}");
        }
        if self.in_a_row > 0 {
            text += &format!(", the last {} behind one another", self.in_a_row);
        }
        text
    }
}

fn number<N: std::str::FromStr>(word: &str) -> Result<N, String> {
    word.parse()
        .map_err(|_| format!("{word:?} is no number that fits"))
}
