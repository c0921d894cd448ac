//! How fast, and at what cost, a release reaches a fleet; measured with the real programs.
//!
//! `cargo bench -p scap-tests --bench distribution -- [--quick] [--hosts N] [--rate-mbit R]
//! [--seed-mbit R] [--sites N --border-mbit R] [--in-a-row N] [--mib M] [--files N] [--tree-files N] [--topology lanes|swarm|tree]
//! [--disk] [--cold-memory]`. All links have the one rate, unless the seed's own is said; with sites, the
//! hosts are spread over so many, and what leaves or enters one is limited to the border's rate; with `--in-a-row` the last N hosts have a route to and
//! from the one before them alone. Data is
//! kept in memory, as the numbers of other tools were taken, unless `--disk` is said. The memory that it
//! will take is made ready first (see [`WarmMemory`]), unless `--cold-memory` is said. A table goes to
//! stderr, one JSON object to stdout. Needs root, for network namespaces.

mod options;
mod small_change;

use std::ffi::OsStr;
use std::process::ExitCode;
use std::time::Duration;

use scap_tests::fleet::{Border, Counters, Fleet, Host, MachineTime, Rate, Usage, WarmMemory};
use scap_tests::repo::{SourceRepo, write_incompressible, write_source_tree};
use scap_tests::under_test;
use serde::Serialize;

use options::Options;
use small_change::SmallChange;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let Some(distribution) = measure_distribution(&options) else {
        return ExitCode::SUCCESS;
    };
    let Some(activation) = measure_activation(&options) else {
        return ExitCode::SUCCESS;
    };
    let small_change = small_change::measure(&options);
    let machine = Machine::read();
    print_table(&options, &machine, &distribution, &activation);
    if let Some(small_change) = &small_change {
        print_small_change(&options, small_change);
    }
    let all = serde_json::json!({
        "schema": "scap.bench-distribution/1",
        "machine": machine,
        "options": options,
        "distribution": distribution,
        "activation": activation,
        "small_change": small_change,
    });
    println!("{all}");
    ExitCode::SUCCESS
}

/// One incompressible file to every host.
#[derive(Debug, Serialize)]
struct Distribution {
    filesystem: String,
    /// How much memory was made ready before.
    warm_memory_bytes: u64,
    /// From the start of `deploy` to its end, after the last host's verified promote.
    seconds: f64,
    bound_seconds: f64,
    bound_ratio: f64,
    /// Fetch time of the hosts, as they report it.
    fetch_seconds_median: f64,
    fetch_seconds_max: f64,
    /// The slowest fetch of those behind others over the slowest of those in the open.
    behind_ratio: Option<f64>,
    seed_bytes_sent: u64,
    /// What the seed says it sent, in payloads.
    seed_copies: f64,
    /// Of that, by host that the seed fed, most first.
    seed_copies_by_host: Vec<(String, f64)>,
    /// What its link's counter says it sent, acknowledgements and repeats included, in payloads.
    seed_link_copies: f64,
    /// By site, the seed's first; empty without sites.
    border_copies: Vec<BorderCopies>,
    cpu_seconds_per_gib_delivered: f64,
    machine_idle_share: f64,
    agent_peak_rss_bytes: u64,
    coordinator_peak_rss_bytes: u64,
    snapshot_mib_per_second: f64,
    phases: std::collections::BTreeMap<String, f64>,
}

/// What crossed a site's border during the deploy, headers included, in payloads.
#[derive(Debug, Serialize)]
struct BorderCopies {
    site: String,
    /// Into the site.
    copies_in: f64,
    /// Out of it.
    copies_out: f64,
}

fn measure_distribution(options: &Options) -> Option<Distribution> {
    let mut builder = Fleet::builder(under_test!())
        .hosts(options.hosts)
        .rate_mbit(options.rate_mbit)
        .coordinator_rate(Rate::symmetric(options.seed_mbit()));
    if let Some((count, border_mbit)) = options.sites() {
        builder = builder.sites(count, border_mbit);
    }
    let fleet = options.wall(options.place(builder)).build()?;
    let memory = (!options.cold_memory).then(|| WarmMemory::hold(options.memory_bytes()));
    let coordinator = fleet.coordinator();
    let repo = SourceRepo::create(&fleet.dir().join("payload"));
    write_incompressible(&repo.dir().join("payload.bin"), options.payload_bytes(), 1);
    let commit = repo.commit("payload");
    let snapshot_seconds = measure_snapshot(&fleet, &repo);
    fleet.enrol();
    fleet.start_agents();

    let (usage, machine) = (agents_usage(&fleet), MachineTime::now());
    let counters = coordinator.station().counters();
    let borders = BorderCounters::now(&fleet);
    let deployed = coordinator.deploy(repo.dir(), &["--topology", &options.topology]);
    let machine_idle_share = MachineTime::now().idle_share_since(machine);
    let usage_after = agents_usage(&fleet);
    let seed_link_bytes = coordinator.station().counters().since(counters).sent_bytes;
    let border_copies = borders.copies_since(options.payload_bytes());

    let (seconds, deploy_usage) = (deployed.output.elapsed.as_secs_f64(), deployed.output.usage);
    let report = deployed.expect_done();
    let expected = repo.archived(&commit);
    for host in fleet.hosts() {
        expected.assert_is(&host.live("payload"));
    }
    let slowest = |hosts: &[Host]| {
        let times = hosts
            .iter()
            .filter_map(|host| report.host(host.name()).fetch_seconds);
        times.fold(0.0, f64::max)
    };
    let (open, behind) = fleet.hosts().split_at(options.in_the_open());
    let behind_ratio = (!behind.is_empty()).then(|| slowest(behind) / slowest(open));
    let mut fetches: Vec<f64> = report
        .hosts
        .iter()
        .filter_map(|host| host.fetch_seconds)
        .collect();
    fetches.sort_by(f64::total_cmp);
    let fed = report.hosts.iter().filter(|host| host.bytes.seed > 0);
    let mut seed_copies_by_host: Vec<_> = fed
        .map(|host| {
            (
                host.name.clone(),
                host.bytes.seed as f64 / options.payload_bytes() as f64,
            )
        })
        .collect();
    seed_copies_by_host.sort_by(|a, b| b.1.total_cmp(&a.1));
    let payload = options.payload_bytes() as f64;
    let cpu = usage_after.cpu - usage.cpu + deploy_usage.cpu;
    Some(Distribution {
        filesystem: fleet.filesystem(),
        warm_memory_bytes: memory.map_or(0, |memory| memory.bytes()),
        seconds,
        bound_seconds: options.bound_seconds(),
        bound_ratio: seconds / options.bound_seconds(),
        fetch_seconds_median: fetches.get(fetches.len() / 2).copied().unwrap_or(f64::NAN),
        fetch_seconds_max: fetches.last().copied().unwrap_or(f64::NAN),
        behind_ratio,
        seed_bytes_sent: report.seed_bytes_sent,
        seed_copies: report.seed_bytes_sent as f64 / payload,
        seed_copies_by_host,
        seed_link_copies: seed_link_bytes as f64 / payload,
        border_copies,
        cpu_seconds_per_gib_delivered: cpu.as_secs_f64()
            / (payload * f64::from(options.hosts) / GIB),
        machine_idle_share,
        agent_peak_rss_bytes: usage_after.peak_rss_bytes,
        coordinator_peak_rss_bytes: deploy_usage.peak_rss_bytes,
        snapshot_mib_per_second: options.mib as f64 / snapshot_seconds,
        phases: report.seconds,
    })
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

    /// What crossed them since, as multiples of `payload_bytes`.
    fn copies_since(self, payload_bytes: usize) -> Vec<BorderCopies> {
        let copies = |bytes: u64| bytes as f64 / payload_bytes as f64;
        self.0
            .into_iter()
            .map(|(border, before)| {
                let passed = border.counters().since(before);
                BorderCopies {
                    site: border.site(),
                    copies_in: copies(passed.received_bytes),
                    copies_out: copies(passed.sent_bytes),
                }
            })
            .collect()
    }
}

/// Builds a snapshot with a state of its own, so that the deploy starts from nothing.
fn measure_snapshot(fleet: &Fleet, repo: &SourceRepo) -> f64 {
    let state = fleet.dir().join("snapshot-state");
    let run = |verb: &str, more: &[&OsStr]| {
        let args = [OsStr::new(verb), "--state".as_ref(), state.as_ref()];
        let all = args.into_iter().chain(more.iter().copied());
        let output = fleet.coordinator().run(all, Duration::from_secs(300));
        assert_eq!(output.code(), Some(0), "{verb}: {output:#?}");
        output.elapsed.as_secs_f64()
    };
    run("init", &[]);
    let seconds = run(
        "snapshot",
        &["--repo".as_ref(), repo.dir().as_ref(), "--json".as_ref()],
    );
    std::fs::remove_dir_all(&state).expect("the fleet's directory is ours");
    seconds
}

fn agents_usage(fleet: &Fleet) -> Usage {
    let stations = fleet.hosts().iter().map(Host::station);
    stations
        .map(scap_tests::fleet::Station::usage)
        .fold(Usage::default(), Usage::and)
}

/// Many small files on one host whose link is no limit.
#[derive(Debug, Serialize)]
struct Activation {
    filesystem: String,
    files: usize,
    bytes: u64,
    /// To make the tree.
    prepare_seconds: f64,
    /// To check it, and switch to it.
    promote_seconds: f64,
    files_per_second: f64,
    /// The same tree with one line changed.
    update_seconds: f64,
    update_activate_seconds: f64,
    update_fetched_bytes: u64,
}

fn measure_activation(options: &Options) -> Option<Activation> {
    let fleet = options.place(Fleet::builder(under_test!())).build()?;
    fleet.enrol();
    fleet.start_agents();
    let repo = SourceRepo::create(&fleet.dir().join("files"));
    write_source_tree(repo.dir(), options.files, 1);
    let tree = repo.archived(&repo.commit("files"));
    let first = fleet.coordinator().deploy(repo.dir(), &[]).expect_done();
    tree.assert_is(&fleet.host(1).live("files"));
    repo.write("names/two words", "another line\n");
    let commit = repo.commit("one line");
    let deployed = fleet.coordinator().deploy(repo.dir(), &[]);
    let update_seconds = deployed.output.elapsed.as_secs_f64();
    let update = deployed.expect_done();
    repo.archived(&commit)
        .assert_is(&fleet.host(1).live("files"));

    let activate = |report: &scap_tests::fleet::DeployReport| {
        let host = report.host("host1");
        let seconds = host.prepare_seconds.zip(host.promote_seconds);
        seconds.expect("it prepared and promoted")
    };
    let (prepare_seconds, promote_seconds) = activate(&first);
    let (update_prepare, update_promote) = activate(&update);
    let fetched = update.host("host1").bytes;
    Some(Activation {
        filesystem: fleet.filesystem(),
        files: tree.file_count(),
        bytes: tree.file_bytes(),
        prepare_seconds,
        promote_seconds,
        files_per_second: tree.file_count() as f64 / (prepare_seconds + promote_seconds),
        update_seconds,
        update_activate_seconds: update_prepare + update_promote,
        update_fetched_bytes: fetched.seed + fetched.peers,
    })
}

#[derive(Debug, Serialize)]
struct Machine {
    processors: usize,
    model: String,
    memory_mib: u64,
    kernel: String,
}

impl Machine {
    fn read() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or_default();
            line.split_once(':')
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kib = memory
            .split(' ')
            .next()
            .and_then(|word| word.parse::<u64>().ok());
        Self {
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            model: field(&read("/proc/cpuinfo"), "model name"),
            memory_mib: kib.unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

fn print_table(options: &Options, machine: &Machine, d: &Distribution, a: &Activation) {
    let mib = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
    eprintln!("{machine:?}");
    eprintln!(
        "{} MiB to {}, {}, on {}, {:.0} MiB of memory made ready",
        options.mib,
        options.describe(),
        options.topology,
        d.filesystem,
        mib(d.warm_memory_bytes)
    );
    for (what, value, target) in [
        ("seconds", d.seconds, ""),
        ("x bound", d.bound_ratio, "at most 1.4"),
        ("slowest fetch, s", d.fetch_seconds_max, ""),
        ("copies from the seed", d.seed_copies, "at most 2.0"),
        ("copies on the seed's link", d.seed_link_copies, ""),
        ("CPU s/GiB delivered", d.cpu_seconds_per_gib_delivered, ""),
        ("machine idle share", d.machine_idle_share, ""),
        (
            "agent peak RSS, MiB",
            mib(d.agent_peak_rss_bytes),
            "under 100",
        ),
        (
            "coordinator peak RSS, MiB",
            mib(d.coordinator_peak_rss_bytes),
            "",
        ),
        ("snapshot, MiB/s", d.snapshot_mib_per_second, ""),
    ] {
        eprintln!("  {what:<28}{value:>10.2}  {target}");
    }
    if let Some(ratio) = d.behind_ratio {
        eprintln!("  {:<28}{ratio:>10.2}  at most 1.3", "x those in the open");
    }
    if let Some((seed_site, others)) = d.border_copies.split_first() {
        let most = others.iter().map(|b| b.copies_in).fold(0.0, f64::max);
        for (what, value, target) in [
            ("copies over a border, in", most, "at most 1.1"),
            ("copies from the seed's site", seed_site.copies_out, ""),
            ("copies into the seed's site", seed_site.copies_in, ""),
        ] {
            eprintln!("  {what:<28}{value:>10.2}  {target}");
        }
    }
    eprintln!(
        "{} files, {:.1} MiB, to one host, on {}",
        a.files,
        mib(a.bytes),
        a.filesystem
    );
    for (what, value) in [
        ("files activated/s", a.files_per_second),
        ("one-line update, s", a.update_seconds),
        (
            "one-line update fetched, KiB",
            a.update_fetched_bytes as f64 / 1024.0,
        ),
    ] {
        eprintln!("  {what:<28}{value:>10.2}");
    }
}

fn print_small_change(options: &Options, it: &SmallChange) {
    eprintln!(
        "{} files, {:.1} MiB, to {}, then one line of it; and by git",
        it.files,
        it.bytes as f64 / (1024.0 * 1024.0),
        options.describe()
    );
    let (ours, git) = (&it.ours, &it.git);
    for (what, ours, git) in [
        ("all of it, s", ours.first_seconds, git.first_seconds),
        (
            "left the seed, KiB",
            ours.first_seed_link_bytes as f64 / 1024.0,
            git.first_seed_link_bytes as f64 / 1024.0,
        ),
        ("one line, s", ours.change_seconds, git.change_seconds),
        (
            "left the seed, KiB",
            ours.change_seed_link_bytes as f64 / 1024.0,
            git.change_seed_link_bytes as f64 / 1024.0,
        ),
    ] {
        eprintln!("  {what:<28}{ours:>10.2}{git:>10.2}");
    }
}

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
