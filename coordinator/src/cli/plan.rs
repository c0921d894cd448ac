//! `plan`: how a release would go through a fleet, without telling any host.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io::IsTerminal,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use scap_proto::{
    id::NodeId,
    identity::Denial,
    limits::PLAN_HOSTS_MAX,
    release::{Plan, TopologyKind},
};
use serde_json::{Value, json};

use super::{
    CliError,
    deploy::{Topology, no_fleet, read_inventory},
    exit, human_bytes,
    progress::some,
};
use crate::{
    fleet::{Inventory, tell::without},
    plan::{
        overview::{Feed, Overview, Site, Source, site_name},
        planner,
        rehearsal::{HOST_DELAY, RATE_MBIT, Rehearsal, SITE_DELAY, SIZE_MAX},
        simulate::{Outcome, Simulation},
    },
    state::StateDirectory,
};

/// What headers add on the wire to the bytes of the content, as a share, as measured.
const WIRE_OVERHEAD: f64 = 0.07;
/// A simulation is given up at this many times the least that it can take, and [`GIVE_UP_AFTER`].
const GIVE_UP_FACTOR: u32 = 100;
const GIVE_UP_AFTER: Duration = Duration::from_secs(3600);
/// A chunk that takes longer on a link is taken for a stall.
const CHUNK_TIME_MAX: Duration = Duration::from_secs(1);
/// Progress is shown after so long, and so often on a terminal and elsewhere.
const PROGRESS_PERIODS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
/// Events between two looks at the clock.
const PROGRESS_EVENTS: u64 = 10_000;
/// Most names in a line.
const NAMES_SHOWN_MAX: usize = 5;

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// The fleet file
    #[arg(long, value_name = "FILE")]
    fleet: PathBuf,
    /// The state directory: hosts that it says are revoked are left out
    #[arg(long, value_name = "DIR", env = "SCAP_STATE")]
    state: Option<PathBuf>,
    /// How chunks spread
    #[arg(long, value_enum, default_value_t = Topology::Lanes)]
    topology: Topology,
    /// Simulate a deployment to the fleet, with the rates, sites and waves that its file says
    #[arg(long, requires = "size")]
    simulate: bool,
    /// How much is deployed, compressed: bytes, or with KiB, MiB or GiB
    #[arg(long, value_name = "SIZE", requires = "simulate", value_parser = parse_size)]
    size: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// What random choices are made from; each release has its own
    #[arg(long, value_name = "N", default_value_t = 1)]
    random_seed: u64,
}

pub(super) fn run(args: &PlanArgs) -> Result<u8, CliError> {
    let fleet = read_inventory(&args.fleet)?;
    let (inventory, revoked) = without_revoked(fleet, args.state.as_deref())?;
    inventory.check_sites().map_err(|error| no_fleet(&error))?;
    let hosts = inventory.hosts.len();
    if hosts > PLAN_HOSTS_MAX {
        let text = format!("plan for {hosts} hosts: at most {PLAN_HOSTS_MAX} are allowed");
        return Err(
            CliError::usage(text).hint("name a part of them in a fleet file of its own".to_owned())
        );
    }
    let seed = "seed".parse().expect("letters");
    let kind = args.topology.kind();
    let plan = planner::plan(seed, &inventory, |_| false, kind, args.random_seed);
    let overview = Overview::of(&plan);
    let mut object = overview_json(&plan, &overview);
    object["revoked"] = json!(revoked.keys().collect::<Vec<_>>());
    if !args.json {
        print_overview(&plan, &overview);
        for (host, denial) in &revoked {
            println!(
                "left out: {host}: revoked: {}",
                denial.reason.escape_debug()
            );
        }
    }
    let mut code = exit::DONE;
    if let Some(size) = args.size {
        let rehearsal = Rehearsal::new(&inventory, &plan, size);
        let outcome = simulate(&rehearsal);
        if outcome.last_completed_at().is_none() {
            code = exit::FAILED;
        }
        if args.json {
            object["simulation"] = simulation_json(&inventory, &rehearsal, &outcome, size);
        } else {
            print_simulation(&inventory, &rehearsal, &outcome, size);
        }
    }
    if args.json {
        println!("{object}");
    }
    Ok(code)
}

/// The fleet without the hosts that are revoked, which are told too.
fn without_revoked(
    fleet: Inventory,
    state: Option<&Path>,
) -> Result<(Inventory, BTreeMap<NodeId, Denial>), CliError> {
    let Some(state) = state else {
        return Ok((fleet, BTreeMap::new()));
    };
    let revoked = StateDirectory::open(state).and_then(|state| state.revoked());
    let mut revoked =
        revoked.map_err(|error| CliError::failed("read the state", &error).hint(error.hint()))?;
    revoked.retain(|name, _| fleet.hosts.iter().any(|host| host.name == *name));
    if revoked.is_empty() {
        return Ok((fleet, revoked));
    }
    let names = revoked.keys().cloned().collect();
    match without(fleet, &names).map_err(|error| no_fleet(&error))? {
        (Some(fleet), _) => Ok((fleet, revoked)),
        (None, _) => Err(CliError::usage("all hosts are revoked")),
    }
}

/// Runs it to its end, with progress on standard error where that takes long.
fn simulate(rehearsal: &Rehearsal) -> Outcome {
    let mut simulation = Simulation::new(rehearsal.setup.clone());
    let waves = simulation.outcome().waves;
    let least: Duration = waves.iter().map(|wave| wave.bound).sum();
    simulation.start_all();
    let (events, progress) = (Cell::new(0u64), RefCell::new(Progress::new()));
    simulation.run_until(GIVE_UP_FACTOR * least + GIVE_UP_AFTER, |simulation| {
        events.set(events.get() + 1);
        if events.get().is_multiple_of(PROGRESS_EVENTS) {
            progress.borrow_mut().show(simulation);
        }
        simulation.is_done()
    });
    progress.borrow_mut().clear();
    simulation.outcome()
}

/// A line on standard error.
struct Progress {
    is_terminal: bool,
    shown: Instant,
    is_drawn: bool,
}

impl Progress {
    fn new() -> Self {
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            is_terminal: std::io::stderr().is_terminal() && !is_dumb,
            shown: Instant::now(),
            is_drawn: false,
        }
    }

    fn show(&mut self, simulation: &Simulation) {
        let period = PROGRESS_PERIODS[usize::from(!self.is_terminal)];
        if self.shown.elapsed() < period {
            return;
        }
        self.shown = Instant::now();
        let text = format!(
            "simulating  {:.1} s of the deployment, {:.1} % of its wave's chunks held",
            simulation.now().as_secs_f64(),
            100.0 * simulation.share_held(),
        );
        if self.is_terminal {
            eprint!("\r\x1b[K{text}");
            self.is_drawn = true;
        } else {
            eprintln!("{text}");
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.is_drawn) {
            eprint!("\r\x1b[K");
        }
    }
}

fn print_overview(plan: &Plan, overview: &Overview) {
    let sites = overview.sites.iter().filter(|site| site.hosts() > 0);
    let sites = match sites.count() {
        1 => "1 site".to_owned(),
        count => format!("{count} sites"),
    };
    println!(
        "plan   {} in {sites}: {}",
        hosts_text(plan.hosts.len()),
        waves_text(&overview.waves)
    );
    println!("links  {}", links_text(plan));
    for site in &overview.sites {
        print_site(plan, site);
    }
    for (relays, hosts) in &overview.behind {
        let names = |hosts: &[NodeId]| -> String {
            some(&hosts.iter().map(NodeId::as_str).collect::<Vec<_>>())
        };
        println!("behind {}: {}", names(relays), names(hosts));
    }
    for note in &overview.notes {
        println!("note   {note}");
    }
    if overview.sites.iter().any(|site| !site.gateways.is_empty()) {
        println!(
            "note   which hosts are gateways is drawn anew for each release; these are of seed {}",
            plan.random_seed
        );
    }
}

fn links_text(plan: &Plan) -> String {
    match plan.topology {
        TopologyKind::Lanes => format!(
            "{} lanes, each a tree over all hosts; up to {} neighbours in a site",
            plan.fanout, plan.degree
        ),
        TopologyKind::Swarm => format!("a swarm; up to {} neighbours in a site", plan.degree),
        TopologyKind::Tree => format!("a tree, {} hosts below each", plan.fanout),
    }
}

fn waves_text(waves: &BTreeMap<u32, usize>) -> String {
    let waves = waves.iter();
    let waves = waves.map(|(&wave, hosts)| format!("{hosts} {}", planner::wave_name(wave)));
    waves.collect::<Vec<_>>().join(", ")
}

fn print_site(plan: &Plan, site: &Site) {
    let name = if plan.seed_site().is_some() {
        site_name(&site.name)
    } else {
        "all".to_owned()
    };
    let seed = if site.has_seed { ", with the seed" } else { "" };
    println!(
        "{name}: {} ({}){seed}",
        hosts_text(site.hosts()),
        waves_text(&site.waves)
    );
    for feed in &site.feeds {
        println!("  {}", feed_text(feed));
    }
    if !site.gateways.is_empty() {
        let names: Vec<&str> = site.gateways.iter().map(|host| host.as_str()).collect();
        println!(
            "  gateways {}, of which {} fetch across while all is well: {}",
            site.gateways.len(),
            site.entries,
            some(&names)
        );
    }
}

fn feed_text(feed: &Feed) -> String {
    let from = match &feed.from {
        Source::Seed => "the seed".to_owned(),
        Source::Site(site) => site_name(site),
    };
    match feed.lane {
        Some(lane) => format!("lane {lane} from {from}"),
        None => format!("from {from} to {}", hosts_text(feed.hosts)),
    }
}

fn hosts_text(hosts: usize) -> String {
    let plural = if hosts == 1 { "" } else { "s" };
    format!("{hosts} host{plural}")
}

fn print_simulation(inventory: &Inventory, rehearsal: &Rehearsal, outcome: &Outcome, size: u64) {
    let setup = &rehearsal.setup;
    let ratio = |took: Duration, bound: Duration| took.as_secs_f64() / bound.as_secs_f64();
    println!("");
    println!(
        "simulated  {} in {} chunks of {}, sent in parts of {}; seed {}",
        human_bytes(size),
        rehearsal.chunk_count(),
        human_bytes(setup.chunk_bytes.into()),
        human_bytes(setup.quantum_bytes.into()),
        setup.seed
    );
    match (outcome.last_completed_at(), last_host(inventory, outcome)) {
        (Some(took), Some(last)) => println!(
            "last host  {:.1} s, {:.2}x of the bound of {:.1} s for all at once ({last})",
            took.as_secs_f64(),
            ratio(took, outcome.bound),
            outcome.bound.as_secs_f64(),
        ),
        _ => {
            let missing = outcome.completed_at.iter().filter(|at| at.is_none());
            println!(
                "last host  given up: chunks are missing on {}",
                hosts_text(missing.count())
            );
        }
    }
    for wave in &outcome.waves {
        let name = planner::wave_name(wave.wave);
        match wave.took {
            Some(took) => println!(
                "{name:<9}  {:.1} s, {:.2}x of its bound of {:.1} s ({})",
                took.as_secs_f64(),
                ratio(took, wave.bound),
                wave.bound.as_secs_f64(),
                hosts_text(wave.hosts)
            ),
            None => println!("{name:<9}  not complete ({})", hosts_text(wave.hosts)),
        }
    }
    println!("seed       sends {:.2} copies", outcome.origin_copies);
    for (name, (into, out)) in rehearsal.sites.iter().zip(&outcome.border_copies) {
        println!(
            "border     {}: {into:.2} copies in, {out:.2} out",
            site_name(name)
        );
    }
    println!(
        "waste      {:.2} % of what came was there already; {} control messages; {} peers dropped",
        100.0 * outcome.duplicate_share,
        outcome.messages,
        outcome.dropped.len()
    );
    if let Some([with_plan, without]) = rehearsal.orders() {
        let seconds = |time: Duration| time.as_secs_f64();
        println!(
            "orders     at the last host after {:.2} s, with the plan ({}) after {:.2} s; what they say is back after {:.2} s; a \
             way to all is known {:.2} s after the start",
            seconds(without.reached),
            human_bytes(rehearsal.plan_bytes),
            seconds(with_plan.reached),
            seconds(without.reported),
            seconds(without.formed)
        );
    }
    for line in assumed_text(rehearsal) {
        println!("assumed    {line}");
    }
    println!(
        "left out   headers (the wire carries about {:.0} % more), loss, disks, activation",
        100.0 * WIRE_OVERHEAD
    );
    if rehearsal.is_coarse() {
        println!(
            "note       with so many hosts chunks are larger than in a deployment, which takes longer here"
        );
    }
    if rehearsal.chunk_time_max() > CHUNK_TIME_MAX {
        println!(
            "note       one chunk takes {:.1} s on the slowest link, which the agents take for a stall: simulate a part \
             of the size, and multiply",
            rehearsal.chunk_time_max().as_secs_f64()
        );
    }
}

/// The host that was complete last, if all are.
fn last_host<'a>(inventory: &'a Inventory, outcome: &Outcome) -> Option<&'a str> {
    let last = outcome.last_completed_at()?;
    let mut hosts = outcome.completed_at.iter().zip(&inventory.hosts);
    let (_, host) = hosts.find(|(at, _)| **at == Some(last))?;
    Some(host.name.as_str())
}

fn assumed_text(rehearsal: &Rehearsal) -> Vec<String> {
    let assumed = &rehearsal.assumed;
    let mut lines = Vec::new();
    let links = match (assumed.hosts, assumed.seed) {
        (0, false) => None,
        (0, true) => Some("the seed's link".to_owned()),
        (hosts, false) => Some(format!("the links of {}", hosts_text(hosts))),
        (hosts, true) => Some(format!("the links of {} and the seed's", hosts_text(hosts))),
    };
    if let Some(links) = links {
        lines.push(format!("{links}: {RATE_MBIT} Mbit/s each way"));
    }
    let names = |sites: &[String]| {
        let shown = sites.iter().take(NAMES_SHOWN_MAX);
        let shown: Vec<String> = shown.map(|name| site_name(name)).collect();
        match sites.len().saturating_sub(NAMES_SHOWN_MAX) {
            0 => shown.join(", "),
            more => format!("{} and {more} more", shown.join(", ")),
        }
    };
    if !assumed.borders.is_empty() {
        lines.push(format!(
            "the border of {}: {RATE_MBIT} Mbit/s each way",
            names(&assumed.borders)
        ));
    }
    if !assumed.delays.is_empty() {
        lines.push(format!(
            "from {} to the middle of all: {} ms one way",
            names(&assumed.delays),
            SITE_DELAY.as_secs_f64() * 1000.0
        ));
    }
    lines.push(format!(
        "from each host to the middle of its site: {} ms one way; all hosts reachable",
        HOST_DELAY.as_secs_f64() * 1000.0
    ));
    lines
}

fn overview_json(plan: &Plan, overview: &Overview) -> Value {
    let waves = |waves: &BTreeMap<u32, usize>| -> Vec<Value> {
        let waves = waves.iter();
        let wave = |(&wave, hosts): (&u32, &usize)| json!({ "name": planner::wave_name(wave), "hosts": hosts });
        waves.map(wave).collect()
    };
    let feed = |feed: &Feed| {
        let (from, site) = match &feed.from {
            Source::Seed => ("seed", None),
            Source::Site(site) => ("site", Some(site)),
        };
        json!({ "from": from, "site": site, "lane": feed.lane, "hosts": feed.hosts })
    };
    let site = |site: &Site| {
        json!({
            "name": site.name,
            "has_seed": site.has_seed,
            "hosts": site.hosts(),
            "waves": waves(&site.waves),
            "feeds": site.feeds.iter().map(feed).collect::<Vec<_>>(),
            "gateways": site.gateways.len(),
            "gateways_in_use": site.entries,
            "gateways_example": site.gateways.iter().map(|host| host.as_str()).collect::<Vec<_>>(),
        })
    };
    let (topology, lanes) = match plan.topology {
        TopologyKind::Lanes => ("lanes", plan.fanout),
        TopologyKind::Swarm => ("swarm", 0),
        TopologyKind::Tree => ("tree", 0),
    };
    json!({
        "schema": "scap.plan/1",
        "topology": topology,
        "lanes": lanes,
        "random_seed": plan.random_seed,
        "hosts": plan.hosts.len(),
        "waves": waves(&overview.waves),
        "sites": overview.sites.iter().map(site).collect::<Vec<_>>(),
        "behind": overview.behind.iter().map(|(relays, hosts)| {
            let names = |hosts: &[NodeId]| -> Vec<String> { hosts.iter().map(NodeId::to_string).collect() };
            json!({ "relays": names(relays), "hosts": names(hosts) })
        }).collect::<Vec<_>>(),
        "notes": overview.notes,
        "simulation": null,
    })
}

fn simulation_json(
    inventory: &Inventory,
    rehearsal: &Rehearsal,
    outcome: &Outcome,
    size: u64,
) -> Value {
    let (setup, assumed) = (&rehearsal.setup, &rehearsal.assumed);
    let seconds = |time: Duration| time.as_secs_f64();
    let waves = outcome.waves.iter().map(|wave| {
        json!({
            "name": planner::wave_name(wave.wave),
            "hosts": wave.hosts,
            "seconds": wave.took.map(seconds),
            "bound_seconds": seconds(wave.bound),
        })
    });
    let sites = rehearsal.sites.iter().zip(&outcome.border_copies);
    let sites = sites
        .map(|(name, (into, out))| json!({ "name": name, "copies_in": into, "copies_out": out }));
    json!({
        "size_bytes": size,
        "chunks": rehearsal.chunk_count(),
        "chunk_bytes": setup.chunk_bytes,
        "part_bytes": setup.quantum_bytes,
        "is_complete": outcome.last_completed_at().is_some(),
        "seconds": outcome.last_completed_at().map(seconds),
        "bound_seconds": seconds(outcome.bound),
        "bound_ratio": outcome.bound_ratio(),
        "last_host": last_host(inventory, outcome),
        "waves": waves.collect::<Vec<_>>(),
        "seed_copies": outcome.origin_copies,
        "sites": sites.collect::<Vec<_>>(),
        "duplicate_share": outcome.duplicate_share,
        "messages": outcome.messages,
        "peers_dropped": outcome.dropped.len(),
        "orders": rehearsal.orders().map(|[with_plan, without]| json!({
            "plan_bytes": rehearsal.plan_bytes,
            "formed_seconds": seconds(without.formed),
            "reached_seconds": seconds(without.reached),
            "reached_with_plan_seconds": seconds(with_plan.reached),
            "reported_seconds": seconds(without.reported),
        })),
        "chunk_seconds_max": seconds(rehearsal.chunk_time_max()),
        "wire_overhead_share": WIRE_OVERHEAD,
        "assumed": {
            "rate_mbit": RATE_MBIT,
            "site_delay_ms": seconds(SITE_DELAY) * 1000.0,
            "host_delay_ms": seconds(HOST_DELAY) * 1000.0,
            "hosts_without_rate": assumed.hosts,
            "seed_without_rate": assumed.seed,
            "sites_without_border": assumed.borders,
            "sites_without_delay": assumed.delays,
        },
    })
}

/// Bytes, or a number of KiB, MiB or GiB.
fn parse_size(text: &str) -> Result<u64, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[number.len()..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        other => return Err(format!("`{other}` is none of B, KiB, MiB and GiB")),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "a size is like 256MiB".to_owned())?;
    match number.checked_mul(unit) {
        Some(0) => Err("nothing is to be deployed".to_owned()),
        Some(bytes) if bytes <= SIZE_MAX => Ok(bytes),
        _ => Err(format!("at most {} are simulated", human_bytes(SIZE_MAX))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_or_none() {
        for (text, bytes) in [
            ("1", 1),
            ("300B", 300),
            ("2KiB", 2048),
            ("256MiB", 256 << 20),
            ("256GiB", SIZE_MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes));
        }
        for text in [
            "",
            "MiB",
            "0",
            "-1",
            "1.5GiB",
            "1 GiB",
            "1GB",
            "257GiB",
            "99999999999999999999",
            "9999999999999GiB",
            "1µ",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
