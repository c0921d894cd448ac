//! A fleet of hosts on this machine: a network namespace each, on one bridge or on one per site, at a
//! given rate.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use scap_tests::fleet::{Fleet, UnderTest};
//! # let under_test = UnderTest::new("scap-under-test", "example");
//! let Some(fleet) = Fleet::builder(under_test).hosts(3).rate_mbit(100).build() else { return };
//! fleet.enrol();
//! fleet.start_agents();
//! let output = fleet.coordinator().run(["--help"], Duration::from_secs(5));
//! assert_eq!(output.code(), Some(0));
//! ```
//! Dropping a fleet kills every process in its namespaces, unmounts what it mounted and removes
//! its directory, also when the test panics; a panic prints the log tails first. What a killed
//! test process leaves behind, the next fleet removes. One fleet exists at a time on a machine.

mod builder;
mod coordinator;
mod host;
mod link;
mod logs;
mod memory;
mod mounts;
mod netns;
mod process;
mod report;
mod sites;
mod station;
mod support;
mod usage;
mod wait;
mod walls;
mod watch;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tempfile::TempDir;

pub use builder::Builder;
pub use coordinator::{Coordinator, DEPLOY_MAX, Deployed};
pub use host::Host;
pub use link::{Counters, Rate};
pub use memory::WarmMemory;
pub use process::{Output, Process};
pub use report::{
    AgentStatus, BytesBySource, DeployReport, DroppedPeer, HostReport, ReleaseStatus,
};
pub use sites::Border;
pub use station::Station;
pub use support::UnderTest;
pub use usage::{MachineTime, Usage};
pub use wait::wait_until;
pub use watch::{Device, Series, WATCH_EVERY, Watch};

pub(crate) use mounts::{filesystem_of, mount_tmpfs, remount};
use netns::Network;

/// Hosts, a coordinator and the network between them.
///
/// Not to be sent to another thread: the kernel ties the processes' lives to the thread that
/// started them.
pub struct Fleet {
    coordinator: Coordinator,
    hosts: Vec<Host>,
    network: Rc<Network>,
    shared: Rc<Shared>,
    dir: TempDir,
    /// Held while the fleet lives: fleets exist one at a time.
    _turn: File,
}

/// What every part of a fleet needs to start a process.
pub(crate) struct Shared {
    pub(crate) under_test: UnderTest,
    pub(crate) logs: logs::Logs,
    pub(crate) home: PathBuf,
}

impl Fleet {
    /// Describes a fleet; [`under_test!`](crate::under_test) gives the argument.
    pub fn builder(under_test: UnderTest) -> Builder {
        Builder::new(under_test)
    }

    /// The deployment host, on a link of its own.
    pub fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }

    /// All targets in order.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The target called `host{number}`, from 1.
    ///
    /// # Panics
    /// When the fleet has no such host.
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number - 1]
    }

    /// The border of each site, in order, the coordinator's first; none in a fleet without sites.
    pub fn borders(&self) -> Vec<Border> {
        self.network.borders()
    }

    /// The fleet's own directory, removed with it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The kind of file system the fleet's directory is on, for example `ext4`.
    pub fn filesystem(&self) -> String {
        filesystem_of(self.dir.path())
    }

    /// Lets WARN and ERROR lines that contain `pattern` appear in the logs; any other such line
    /// fails the test when the fleet is dropped.
    pub fn expect_log(&self, pattern: &str) {
        self.shared.logs.expect(pattern);
    }

    /// Makes the coordinator's state, enrols every host and writes the fleet file.
    ///
    /// # Panics
    /// When a command fails.
    pub fn enrol(&self) {
        self.coordinator.init();
        for host in &self.hosts {
            self.coordinator.enrol(host);
        }
        self.coordinator.write_fleet_file(self.hosts.iter());
    }

    /// Starts every host's agent and waits until each answers.
    ///
    /// # Panics
    /// When one does not answer within [`AGENT_START_MAX`].
    pub fn start_agents(&self) {
        for host in &self.hosts {
            host.spawn_agent();
        }
        for host in &self.hosts {
            host.wait_ready();
        }
    }

    pub(crate) fn network(&self) -> &Network {
        &self.network
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        self.network.kill_processes();
        if panicking {
            self.shared.logs.print_tails();
        }
        let unexpected = self.shared.logs.unexpected();
        mounts::unmount_beneath(self.dir.path());
        self.network.remove();
        if std::env::var_os(KEEP).is_some() {
            self.dir.disable_cleanup(true);
            eprintln!("kept: {}", self.dir.path().display());
        }
        assert!(
            panicking || unexpected.is_empty(),
            "log lines that the test did not expect:\n{}",
            unexpected.join("\n")
        );
    }
}

/// The longest that an agent may take to answer `status` after its start.
///
/// Sixteen of them start at once on two cores; one alone takes well under a second.
pub const AGENT_START_MAX: Duration = Duration::from_secs(30);

/// With this variable set, a fleet's directory stays.
const KEEP: &str = "SCAP_TESTS_KEEP";
