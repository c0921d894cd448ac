//! A release to a fleet by the programs under test, and what that took.

use std::collections::BTreeMap;

use scap_tests::fleet::{
    Border, Builder, Counters, DeployReport, Fleet, Host, MachineTime, Process, Station, Usage,
};
use scap_tests::repo::SourceRepo;
use scap_tests::under_test;
use serde::Serialize;

use crate::GIB;
use crate::options::Options;
use crate::shape::Shape;

/// A fleet whose agents run, and a repo to deploy.
pub(crate) struct Scene {
    pub(crate) fleet: Fleet,
    pub(crate) repo: SourceRepo,
    shape: Shape,
    topology: String,
}

impl Scene {
    /// `None` where there can be no fleet.
    pub(crate) fn start(options: &Options, shape: &Shape) -> Option<Self> {
        let builder = shape.describe_to(Fleet::builder(under_test!()));
        let fleet = in_place(options, builder).build()?;
        fleet.enrol();
        fleet.start_agents();
        Some(Self::with(options, shape, fleet))
    }

    /// With a fleet whose agents run.
    pub(crate) fn with(options: &Options, shape: &Shape, fleet: Fleet) -> Self {
        let repo = SourceRepo::create(&fleet.dir().join("source").join(REPO));
        Self {
            fleet,
            repo,
            shape: *shape,
            topology: options.topology.clone(),
        }
    }

    /// Deploys what was committed last, of so many bytes.
    pub(crate) fn deploy(&self, payload_bytes: u64) -> Ours {
        self.deploy_while(payload_bytes, &[], |deploy| {
            let deployed = self.fleet.coordinator().finish(deploy);
            let (usage, seconds) = (deployed.output.usage, deployed.output.elapsed);
            (seconds.as_secs_f64(), usage, deployed.expect_done())
        })
    }

    /// Starts to deploy, with more arguments, and leaves the rest to `watch`: it says how long it took, what the process used,
    /// and what that reported.
    pub(crate) fn deploy_while(
        &self,
        payload_bytes: u64,
        more: &[&str],
        watch: impl FnOnce(Process) -> (f64, Usage, DeployReport),
    ) -> Ours {
        let (fleet, payload) = (&self.fleet, payload_bytes as f64);
        let seed = fleet.coordinator().station();
        let (usage, machine) = (agents_usage(fleet), MachineTime::now());
        let (counters, borders) = (seed.counters(), BorderCounters::now(fleet));
        let carried = carried_bytes(fleet);

        let arguments = [&["--topology", self.topology.as_str()], more].concat();
        let deploy = fleet
            .coordinator()
            .start_deploy(self.repo.dir(), &arguments);
        let (seconds, deploy_usage, report) = watch(deploy);

        let machine_idle_share = MachineTime::now().idle_share_since(machine);
        let usage_after = agents_usage(fleet);
        let seed_link_bytes = seed.counters().since(counters).sent_bytes;
        let carried = carried
            .zip(carried_bytes(fleet))
            .map(|(before, after)| after - before);
        let hosts = f64::from(self.shape.hosts);
        let both = fleet.hosts().iter().map(|host| {
            let usages = host.station().usages().into_iter();
            usages.map(|usage| usage.peak_rss_bytes).sum::<u64>()
        });
        let cpu = usage_after.cpu.saturating_sub(usage.cpu) + deploy_usage.cpu;
        let bound_seconds = self.shape.bound_seconds();
        Ours {
            filesystem: fleet.filesystem(),
            seconds,
            bound_seconds,
            bound_ratio: bound_seconds.map(|bound| seconds / bound),
            fetch_seconds: Spread::of(report.hosts.iter(), |host| host.fetch_seconds),
            prepare_seconds: Spread::of(report.hosts.iter(), |host| host.prepare_seconds),
            behind_ratio: self.behind_ratio(&report),
            seed_bytes_sent: report.seed_bytes_sent,
            seed_copies: report.seed_bytes_sent as f64 / payload,
            seed_copies_by_host: copies_by_host(&report, payload),
            seed_link_bytes,
            seed_link_copies: seed_link_bytes as f64 / payload,
            carried_copies: carried.map(|bytes| bytes as f64 / payload / hosts),
            border_copies: borders.copies_since(payload),
            cpu_seconds: cpu.as_secs_f64(),
            cpu_seconds_per_gib_delivered: cpu.as_secs_f64() / (payload * hosts / GIB),
            machine_idle_share,
            agent_peak_rss_bytes: usage_after.peak_rss_bytes,
            agent_processes_peak_rss_bytes: both.max().unwrap_or(0),
            coordinator_peak_rss_bytes: deploy_usage.peak_rss_bytes,
            phases: report.seconds.clone(),
            report,
        }
    }

    /// The slowest fetch of those behind others over the slowest of those in the open.
    fn behind_ratio(&self, report: &DeployReport) -> Option<f64> {
        let (open, behind) = self.fleet.hosts().split_at(self.shape.in_the_open());
        let slowest = |hosts: &[Host]| {
            let times = hosts.iter().map(|host| report.host(host.name()));
            Spread::of(times, |host| host.fetch_seconds).map(|times| times.most)
        };
        Some(slowest(behind)? / slowest(open)?)
    }

    /// Asserts that every host runs a commit, byte for byte.
    pub(crate) fn assert_all_run(&self, commit: &str) {
        let expected = self.repo.archived(commit);
        for host in self.fleet.hosts() {
            expected.assert_is(&host.live(REPO));
        }
    }

    /// Ends all agents and removes what they hold, so that others have the machine for themselves.
    pub(crate) fn clear(&self) {
        for host in self.fleet.hosts() {
            host.terminate();
            for dir in [host.data(), host.deploy_root()] {
                std::fs::remove_dir_all(dir).expect("the fleet's directories are ours");
            }
        }
        let store = self.fleet.coordinator().state().join("store");
        std::fs::remove_dir_all(store).expect("a deployment has made it");
    }
}

/// What a deployment took.
#[derive(Debug, Serialize)]
pub(crate) struct Ours {
    pub(crate) filesystem: String,
    /// From the start of `deploy` to its end, after the last host's verified promote.
    pub(crate) seconds: f64,
    pub(crate) bound_seconds: Option<f64>,
    pub(crate) bound_ratio: Option<f64>,
    /// As the hosts report it.
    pub(crate) fetch_seconds: Option<Spread>,
    /// To make the release's directory, in the same way.
    pub(crate) prepare_seconds: Option<Spread>,
    pub(crate) behind_ratio: Option<f64>,
    pub(crate) seed_bytes_sent: u64,
    /// What the seed says it sent, in payloads.
    pub(crate) seed_copies: f64,
    /// Of that, by host that the seed fed, most first.
    pub(crate) seed_copies_by_host: Vec<(String, f64)>,
    /// What its link's counter says it sent, acknowledgements and repeats included; what was handed over in one piece counts
    /// one header.
    pub(crate) seed_link_bytes: u64,
    pub(crate) seed_link_copies: f64,
    /// What a host's link carried to it on average, in payloads: every header, acknowledgement and repeat.
    pub(crate) carried_copies: Option<f64>,
    /// By site, the seed's first; empty without sites.
    pub(crate) border_copies: Vec<BorderCopies>,
    pub(crate) cpu_seconds: f64,
    pub(crate) cpu_seconds_per_gib_delivered: f64,
    pub(crate) machine_idle_share: f64,
    /// Of the larger of an agent's two processes, on the host where it was most.
    pub(crate) agent_peak_rss_bytes: u64,
    /// Of both added, each at its own peak, on the host where that is most.
    pub(crate) agent_processes_peak_rss_bytes: u64,
    pub(crate) coordinator_peak_rss_bytes: u64,
    pub(crate) phases: BTreeMap<String, f64>,
    #[serde(skip)]
    pub(crate) report: DeployReport,
}

impl Ours {
    /// What a phase of the deployment took; 0 where it had none.
    pub(crate) fn phase(&self, name: &str) -> f64 {
        self.phases.get(name).copied().unwrap_or(0.0)
    }
}

/// Times of many hosts, seconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Spread {
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// `None` of nothing.
    pub(crate) fn of<T>(
        all: impl Iterator<Item = T>,
        time: impl Fn(T) -> Option<f64>,
    ) -> Option<Self> {
        let mut times: Vec<f64> = all.filter_map(time).collect();
        times.sort_by(f64::total_cmp);
        Some(Self {
            least: *times.first()?,
            median: times[times.len() / 2],
            most: *times.last()?,
        })
    }
}

/// What crossed a site's border during the deploy, headers included, in payloads.
#[derive(Debug, Serialize)]
pub(crate) struct BorderCopies {
    pub(crate) site: String,
    /// Into the site.
    pub(crate) copies_in: f64,
    /// Out of it.
    pub(crate) copies_out: f64,
}

/// A reading of all borders' counters.
struct BorderCounters(Vec<(Border, Counters)>);

impl BorderCounters {
    fn now(fleet: &Fleet) -> Self {
        let borders = fleet.borders().into_iter();
        let read = |border: Border| {
            let now = border.counters();
            (border, now)
        };
        Self(borders.map(read).collect())
    }

    /// What crossed them since, as multiples of the payload.
    fn copies_since(self, payload_bytes: f64) -> Vec<BorderCopies> {
        let copies = |bytes: u64| bytes as f64 / payload_bytes;
        let crossed = self.0.into_iter().map(|(border, before)| {
            let passed = border.counters().since(before);
            BorderCopies {
                site: border.site(),
                copies_in: copies(passed.received_bytes),
                copies_out: copies(passed.sent_bytes),
            }
        });
        crossed.collect()
    }
}

/// In memory, unless on a disk is said.
pub(crate) fn in_place(options: &Options, builder: Builder) -> Builder {
    match options.is_in_memory() {
        true => builder.tmpfs(),
        false => builder,
    }
}

/// What all processes on hosts have used so far.
pub(crate) fn agents_usage(fleet: &Fleet) -> Usage {
    let stations = fleet.hosts().iter().map(Host::station);
    stations
        .map(Station::usage)
        .fold(Usage::default(), Usage::and)
}

fn carried_bytes(fleet: &Fleet) -> Option<u64> {
    let hosts = fleet.hosts().iter();
    hosts.map(|host| host.station().carried_bytes()).sum()
}

fn copies_by_host(report: &DeployReport, payload_bytes: f64) -> Vec<(String, f64)> {
    let fed = report.hosts.iter().filter(|host| host.bytes.seed > 0);
    let mut copies: Vec<_> = fed
        .map(|host| (host.name.clone(), host.bytes.seed as f64 / payload_bytes))
        .collect();
    copies.sort_by(|a, b| b.1.total_cmp(&a.1));
    copies
}

/// The repo's name, and so of its directory on each host.
pub(crate) const REPO: &str = "payload";
