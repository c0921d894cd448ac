//! The network of a fleet: a namespace per station, and one for the bridge, or the bridges of sites,
//! between them; made with few processes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::link::{passed_bytes, tbf};
use super::sites::{self, SiteNumber, Sites};
use super::walls::Walls;
use super::{Border, Rate};

/// Station numbers: the coordinator is 0, the hosts follow.
pub(crate) type StationNumber = u16;

/// The namespaces of one fleet. [`Self::remove`] is the owner's duty.
pub(crate) struct Network {
    prefix: String,
    stations: StationNumber,
    sites: Option<Sites>,
    walls: Walls,
    /// All stations are in the first one's namespace.
    is_loopback: bool,
}

impl Network {
    /// Makes one station per rate, each reachable from all others that the walls let through: on one bridge, or spread over
    /// sites.
    ///
    /// # Errors
    /// When a command fails; what was made by then is removed again.
    pub(crate) fn create(
        prefix: &str,
        rates: &[Rate],
        sites: Option<Sites>,
        walls: Walls,
    ) -> Result<Self> {
        let network = Self {
            prefix: prefix.to_owned(),
            stations: StationNumber::try_from(rates.len()).context("too many stations")?,
            sites,
            walls,
            is_loopback: false,
        };
        network
            .add_namespaces()
            .and_then(|()| network.connect(rates))
            .inspect_err(|_| {
                network.remove();
            })?;
        Ok(network)
    }

    /// Makes one namespace for all stations, however many, with nothing in it but the loopback device.
    ///
    /// # Errors
    /// When a command fails; what was made by then is removed again.
    pub(crate) fn create_loopback(prefix: &str) -> Result<Self> {
        let network = Self {
            prefix: prefix.to_owned(),
            stations: 1,
            sites: None,
            walls: Walls::default(),
            is_loopback: true,
        };
        network
            .add_namespaces()
            .and_then(|()| ip(&network.namespace(0), "link set lo up\n"))
            .inspect_err(|_| {
                network.remove();
            })?;
        Ok(network)
    }

    pub(crate) fn namespace(&self, station: StationNumber) -> String {
        let station = if self.is_loopback { 0 } else { station };
        format!("{}-{station}", self.prefix)
    }

    /// The device that a station's traffic passes.
    pub(crate) fn device(&self) -> &'static str {
        if self.is_loopback { "lo" } else { DEVICE }
    }

    /// A station's only address, or on the loopback device its own among all that are there.
    pub(crate) fn address(&self, station: StationNumber) -> Ipv4Addr {
        let address = address(station);
        if self.is_loopback {
            let [_, _, high, low] = address.octets();
            return Ipv4Addr::new(127, 0, high, low);
        }
        address
    }

    /// Bytes that the queue in front of a station's link let through to it, each packet with its headers, also those that the
    /// sender handed over in one piece; `None` where the link has no rate.
    pub(crate) fn bytes_to(&self, station: StationNumber) -> Option<u64> {
        if self.is_loopback {
            return None;
        }
        passed_bytes(&self.bridge_namespace(), &format!("p{station}"))
    }

    fn bridge_namespace(&self) -> String {
        format!("{}-br", self.prefix)
    }

    /// The site that a station is in; `None` in a fleet without.
    pub(crate) fn site(&self, station: StationNumber) -> Option<SiteNumber> {
        self.sites.map(|sites| sites.of(station))
    }

    /// The stations that a station stands behind.
    pub(crate) fn relays(&self, station: StationNumber) -> impl Iterator<Item = StationNumber> {
        self.walls.relays(station)
    }

    /// One per site, in order.
    pub(crate) fn borders(&self) -> Vec<Border> {
        self.sites
            .into_iter()
            .flat_map(Sites::numbers)
            .map(|site| Border::new(site, self.bridge_namespace()))
            .collect()
    }

    /// Connects a station to the bridge, or cuts it off, without the station losing an address.
    pub(crate) fn set_link(&self, station: StationNumber, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        ip(
            &self.bridge_namespace(),
            &format!("link set p{station} {state}\n"),
        )
    }

    /// Plugs a station into the main bridge, or into the one that a partition cuts off.
    ///
    /// # Panics
    /// When the fleet has sites.
    pub(crate) fn set_side(&self, station: StationNumber, other_side: bool) -> Result<()> {
        assert!(
            self.sites.is_none(),
            "a fleet with sites cannot be partitioned"
        );
        let bridge = if other_side { OTHER_BRIDGE } else { BRIDGE };
        ip(
            &self.bridge_namespace(),
            &format!("link set p{station} master {bridge}\n"),
        )
    }

    /// Ends every process in the fleet's namespaces; they are the fleet's, or started by those.
    pub(crate) fn kill_processes(&self) {
        kill_all_in(
            &(0..self.stations)
                .map(|n| self.namespace(n))
                .collect::<Vec<_>>(),
        );
    }

    /// Processes that run in a station's namespace now.
    pub(crate) fn processes(&self, station: StationNumber) -> Vec<Pid> {
        processes_in(&[self.namespace(station)])
    }

    pub(crate) fn remove(&self) {
        let mut names: Vec<_> = (0..self.stations).map(|n| self.namespace(n)).collect();
        names.push(self.bridge_namespace());
        remove_namespaces(&names);
    }

    fn add_namespaces(&self) -> Result<()> {
        let mut batch = format!("netns add {}\n", self.bridge_namespace());
        for station in 0..self.stations {
            let _ = writeln!(batch, "netns add {}", self.namespace(station));
        }
        run(Command::new("ip").args(["-batch", "-"]), &batch)
    }

    fn connect(&self, rates: &[Rate]) -> Result<()> {
        self.stop_filtering()?;
        let mut links = self
            .sites
            .map_or_else(|| [BRIDGE, OTHER_BRIDGE].map(bridge).concat(), Sites::links);
        for station in 0..self.stations {
            let (namespace, mac) = (self.namespace(station), mac(station));
            let bridge = self
                .site(station)
                .map_or_else(|| BRIDGE.to_owned(), sites::site_bridge);
            let _ = writeln!(
                links,
                "link add p{station} type veth peer name {DEVICE} address {mac} netns {namespace}\n\
                 link set p{station} master {bridge} addrgenmode none up"
            );
        }
        ip(&self.bridge_namespace(), &links)?;

        let mut down = self.sites.map(Sites::limits).unwrap_or_default();
        for (station, rate) in (0..self.stations).zip(rates) {
            self.configure(station, *rate)?;
            down.extend(rate.down_mbit.map(|mbit| tbf(&format!("p{station}"), mbit)));
        }
        tc(&self.bridge_namespace(), &down)
    }

    /// Keeps the kernel from taking what passes the bridge through the packet filter, as it does by default where that
    /// module is loaded: a switch does not, and it costs each packet about as much again.
    fn stop_filtering(&self) -> Result<()> {
        const SCRIPT: &str = r#"cd /proc/sys/net/bridge 2>/dev/null || exit 0
            for switch in bridge-nf-call-*; do echo 0 >"$switch"; done"#;
        let namespace = self.bridge_namespace();
        run(
            Command::new("ip").args(["netns", "exec", &namespace, "sh", "-c", SCRIPT]),
            "",
        )
    }

    fn configure(&self, station: StationNumber, rate: Rate) -> Result<()> {
        let namespace = self.namespace(station);
        let mut batch = format!(
            "link set lo up\naddr add {}/16 dev {DEVICE}\nlink set {DEVICE} addrgenmode none up\n",
            address(station)
        );
        // A namespace shares the machine's neighbour table, and N hosts that talk to each other
        // need N² entries: more than it keeps, unless they are permanent.
        for other in (0..self.stations).filter(|other| *other != station) {
            let _ = writeln!(
                batch,
                "neigh replace {} lladdr {} nud permanent dev {DEVICE}",
                address(other),
                mac(other)
            );
            if !self.walls.let_through(station, other) {
                let _ = writeln!(batch, "route add unreachable {}", address(other));
            }
        }
        ip(&namespace, &batch)?;
        tc(
            &namespace,
            &rate
                .up_mbit
                .map(|mbit| tbf(DEVICE, mbit))
                .unwrap_or_default(),
        )
    }
}

/// The `ip` commands that make a bridge without traffic of its own.
pub(crate) fn bridge(name: &str) -> String {
    format!("link add {name} type bridge mcast_snooping 0\nlink set {name} addrgenmode none up\n")
}

/// A station's address; the network is 10.99.0.0/16, seen by nobody outside the fleet.
pub(crate) fn address(station: StationNumber) -> Ipv4Addr {
    let [high, low] = (station + 1).to_be_bytes();
    Ipv4Addr::new(10, 99, high, low)
}

/// Locally administered, and derived from the address.
fn mac(station: StationNumber) -> String {
    let [high, low] = (station + 1).to_be_bytes();
    format!("02:00:0a:63:{high:02x}:{low:02x}")
}

/// Where the kernel's handle of a namespace is.
pub(crate) fn handle(namespace: &str) -> PathBuf {
    Path::new("/run/netns").join(namespace)
}

/// Runs `work` in a namespace, on a thread of its own.
///
/// # Panics
/// When `work` does, or the namespace is gone.
pub(crate) fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let handle = handle(namespace);
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let namespace = File::open(&handle).expect("the fleet keeps its namespaces");
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), kind).expect("it is a namespace");
            work()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The name that a fleet's namespaces share: which process made it, and its number there.
pub(crate) fn prefix(fleet_number: u32) -> String {
    format!("{NAME}{}-{fleet_number}", std::process::id())
}

/// Removes the namespaces, and ends the processes, of fleets whose maker is gone.
///
/// Fleets take turns, so what carries our own process id is of an earlier one with that id.
pub(crate) fn remove_stale() {
    let names: Vec<_> = std::fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.strip_prefix(NAME).is_some_and(maker_is_gone))
        .collect();
    kill_all_in(&names);
    remove_namespaces(&names);
}

/// Whether the process that `name`, with or without more after its digits, starts with is gone.
pub(crate) fn maker_is_gone(name: &str) -> bool {
    let digits = name
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .unwrap_or_default();
    digits
        .parse::<u32>()
        .is_ok_and(|pid| pid == std::process::id() || !Path::new("/proc").join(digits).exists())
}

/// Finds out by trying whether namespaces and rates can be had.
pub(crate) fn probe() -> Result<()> {
    let name = format!(
        "{NAME}{}-probe-{:?}",
        std::process::id(),
        std::thread::current().id()
    )
    .replace(['(', ')'], "");
    let result = run(Command::new("ip").args(["netns", "add", &name]), "")
        .context("needs network namespaces")
        .and_then(|()| tc(&name, &tbf("lo", 1)).context("needs the kernel's tbf queue"));
    remove_namespaces(&[name]);
    result
}

/// Runs a batch of `ip` commands in a namespace.
pub(crate) fn ip(namespace: &str, batch: &str) -> Result<()> {
    run(
        Command::new("ip").args(["-n", namespace, "-batch", "-"]),
        batch,
    )
}

fn tc(namespace: &str, batch: &str) -> Result<()> {
    if batch.is_empty() {
        return Ok(());
    }
    run(
        Command::new("tc").args(["-n", namespace, "-batch", "-"]),
        batch,
    )
}

fn run(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    let mut stdin = child.stdin.take().expect("it is piped");
    // A command that stops reading has failed, and says why on stderr.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child
        .wait_with_output()
        .with_context(|| format!("wait for {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn remove_namespaces(names: &[String]) {
    let batch: String = names
        .iter()
        .map(|name| format!("netns delete {name}\n"))
        .collect();
    // With -force the rest goes although one is missing, as it is after a create that failed.
    let _ = run(Command::new("ip").args(["-force", "-batch", "-"]), &batch);
}

fn kill_all_in(namespaces: &[String]) {
    // Again while there are any: a process may start another before it dies.
    for _ in 0..KILL_ROUNDS_MAX {
        let processes = processes_in(namespaces);
        if processes.is_empty() {
            return;
        }
        for pid in processes {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(super::wait::POLL_EVERY);
    }
}

/// Processes in any of the namespaces, those excluded that have ended and wait for their parent.
fn processes_in(namespaces: &[String]) -> Vec<Pid> {
    let wanted: BTreeSet<_> = namespaces
        .iter()
        .filter_map(|name| std::fs::metadata(handle(name)).ok())
        .map(|meta| (meta.dev(), meta.ino()))
        .collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            // Of a zombie there is no namespace to read.
            let meta = std::fs::metadata(entry.path().join("ns/net")).ok()?;
            wanted.contains(&(meta.dev(), meta.ino())).then_some(pid)
        })
        .collect()
}

/// A station's device in its own namespace.
pub(crate) const DEVICE: &str = "eth0";

/// What the names of all namespaces of all fleets start with.
const NAME: &str = "scap-fleet-";

const BRIDGE: &str = "br0";

/// Where a partition plugs in the stations that it cuts off.
const OTHER_BRIDGE: &str = "br1";

/// A process forks once or twice while it is being killed, not a hundred times.
const KILL_ROUNDS_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_leave_out_network_and_broadcast() {
        assert_eq!(address(0), Ipv4Addr::new(10, 99, 0, 1));
        assert_eq!(address(300), Ipv4Addr::new(10, 99, 1, 45));
        assert_eq!(mac(300), "02:00:0a:63:01:2d");
    }

    #[test]
    fn a_name_without_a_process_is_nobodys() {
        assert!(!maker_is_gone("br"));
        assert!(!maker_is_gone(&format!(
            "{}-0-br",
            std::os::unix::process::parent_id()
        )));
        assert!(maker_is_gone("4194305-0-br")); // one more than the highest process id
    }
}
