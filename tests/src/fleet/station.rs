//! What the coordinator and the hosts have in common: a namespace, an address and a directory.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::netns::{self, Network, StationNumber};
use super::process::{Process, Spawn};
use super::{Counters, Device, Shared, Usage, sites};

/// A place in the fleet's network.
pub struct Station {
    name: String,
    number: StationNumber,
    dir: PathBuf,
    network: Rc<Network>,
    shared: Rc<Shared>,
}

impl Station {
    pub(crate) fn new(
        name: String,
        number: StationNumber,
        dir: PathBuf,
        network: Rc<Network>,
        shared: Rc<Shared>,
    ) -> Self {
        std::fs::create_dir_all(&dir)
            .unwrap_or_else(|error| panic!("create {}: {error}", dir.display()));
        Self {
            name,
            number,
            dir,
            network,
            shared,
        }
    }

    /// `coordinator` or `host1` and up.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its only address but loopback.
    pub fn address(&self) -> Ipv4Addr {
        self.network.address(self.number)
    }

    /// Where an agent listens by default.
    pub fn listen(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.address(), 7227)
    }

    /// The site that it is in, `site1` and up; `None` in a fleet without.
    pub fn site(&self) -> Option<String> {
        self.network.site(self.number).map(sites::name)
    }

    /// The hosts that it stands behind; none where it is in the open.
    pub fn relays(&self) -> Vec<String> {
        let relays = self.network.relays(self.number);
        relays.map(|number| format!("host{number}")).collect()
    }

    /// What has passed its link so far.
    pub fn counters(&self) -> Counters {
        Counters::read(&self.network.namespace(self.number), self.network.device())
    }

    /// Its link, to be watched.
    #[must_use]
    pub fn device(&self) -> Device {
        Device::open(&self.network.namespace(self.number), self.network.device())
    }

    /// Bytes that its link carried to it so far, every packet with its headers; `None` where the link has no rate.
    pub fn carried_bytes(&self) -> Option<u64> {
        self.network.bytes_to(self.number)
    }

    /// What the processes that run here now have used, together.
    pub fn usage(&self) -> Usage {
        self.usages().into_iter().fold(Usage::default(), Usage::and)
    }

    /// What each process that runs here now has used.
    pub fn usages(&self) -> Vec<Usage> {
        let processes = self.network.processes(self.number).into_iter();
        processes.filter_map(Usage::of).collect()
    }

    /// Starts any program here; its output goes to the log called `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn<A: AsRef<OsStr>>(
        &self,
        log: &str,
        program: &[PathBuf],
        args: impl IntoIterator<Item = A>,
        env: &[(&str, &str)],
    ) -> Process {
        Spawn {
            name: log,
            namespace: &netns::handle(&self.network.namespace(self.number)),
            program,
            home: &self.shared.home,
            stdout: self.shared.logs.stdout_of(log),
            stderr: self.shared.logs.stderr_of(log),
        }
        .start(args, env)
    }

    /// Runs `work` as if on this machine, on a thread of its own: sockets that it makes are on this
    /// station's network for good, wherever they are used later.
    ///
    /// # Panics
    /// When `work` does, or the namespace is gone.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::inside(&self.network.namespace(self.number), work)
    }

    pub(crate) fn number(&self) -> StationNumber {
        self.number
    }

    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }
}
