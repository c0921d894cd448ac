//! Large fleets, simulated: the real engines on a virtual clock. By the command that operators have, and, with hosts that die or are
//! slow, by the library below it.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64;
use scap_coordinator::fleet::Inventory;
use scap_coordinator::plan::planner;
use scap_coordinator::plan::rehearsal::Rehearsal;
use scap_coordinator::plan::simulate::{ORIGIN, Simulation};
use scap_proto::release::TopologyKind;
use scap_tests::fleet::Fleet;
use scap_tests::under_test;
use serde_json::Value;

use crate::MIB;
use crate::options::Options;
use crate::row::{Row, Target};

const SITES: usize = 20;
const RATE_MBIT: u32 = 1000;
/// Between two sites, there and back.
const ROUND_TRIP: Duration = Duration::from_millis(40);
const SIZE_BYTES: u64 = 1 << 30;

/// How long a simulation may take on a real clock.
const LIMIT: Duration = Duration::from_secs(1800);

/// A whole deployment, as `plan --simulate` tells it. `None` where no process can be started as in a fleet.
pub(crate) fn measure(options: &Options, name: &str, hosts: usize) -> Option<Row> {
    let hosts = if options.quick { 100 } else { hosts };
    let fleet = Fleet::builder(under_test!()).tmpfs().build()?;
    let file = fleet.dir().join("simulated.toml");
    std::fs::write(&file, fleet_file(hosts)).expect("the fleet's directory is ours");
    let file = file.to_str().expect("the fleet's paths are plain");
    let size = SIZE_BYTES.to_string();
    let args = [
        "plan",
        "--fleet",
        file,
        "--simulate",
        "--size",
        &size,
        "--json",
    ];
    let output = fleet.coordinator().run(args, LIMIT);
    assert_eq!(output.code(), Some(0), "{output:#?}");
    let plan: Value = serde_json::from_str(output.stdout.trim()).expect("it prints one object");
    let simulation = &plan["simulation"];
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);

    let mut row = Row::new(name, describe(hosts, "simulated, no headers and no disks"));
    row.tell("seconds", number(&simulation["seconds"]));
    let ratio = number(&simulation["bound_ratio"]);
    row.judge("x bound", ratio, Target::AtMost(1.10));
    row.tell("copies from the seed", number(&simulation["seed_copies"]));
    let sites = simulation["sites"].as_array().into_iter().flatten();
    let most = sites
        .map(|site| number(&site["copies_in"]))
        .fold(0.0, f64::max);
    row.judge("copies over a border, in", most, Target::AtMost(1.1));
    let orders = &simulation["orders"];
    let reached = number(&orders["reached_with_plan_seconds"]);
    row.judge(
        "an order with the plan reaches all, s",
        reached,
        Target::AtMost(1.0),
    );
    row.tell("an order without it, s", number(&orders["reached_seconds"]));
    let peak = output.usage.peak_rss_bytes as f64 / MIB;
    row.judge("coordinator peak RSS, MiB", peak, Target::AtMost(512.0));
    row.tell("its CPU, s", output.usage.cpu.as_secs_f64());
    row.details = simulation.clone();
    Some(row)
}

/// The same with one host in twenty dying at some time, and one in twenty on a link twenty times slower.
pub(crate) fn measure_faults(options: &Options, name: &str, hosts: usize) -> Row {
    let hosts = if options.quick { 100 } else { hosts };
    let inventory = Inventory::parse(&fleet_file(hosts), Path::new("simulated.toml"));
    let inventory = inventory.expect("it is well formed");
    let seed = "seed".parse().expect("letters");
    let plan = planner::plan(seed, &inventory, |_| false, TopologyKind::Lanes, 1);
    let mut setup = Rehearsal::new(&inventory, &plan, SIZE_BYTES).setup;
    let bound = Simulation::new(setup.clone()).outcome().bound;

    let mut random = Pcg64::seed_from_u64(1);
    let mut nodes: Vec<usize> = (ORIGIN + 1..=hosts).collect();
    nodes.shuffle(&mut random);
    let (dying, rest) = nodes.split_at(hosts / 20);
    let (slow, fast) = rest.split_at(hosts / 20);
    for &node in slow {
        let host = &mut setup.hosts[node - 1];
        host.up_bytes_per_sec /= 20;
        host.down_bytes_per_sec /= 20;
    }
    let mut deaths: Vec<(Duration, usize)> = dying
        .iter()
        .map(|&node| (bound.mul_f64(random.random()), node))
        .collect();
    deaths.sort();

    let mut simulation = Simulation::new(setup);
    simulation.start_all();
    for (at, node) in deaths {
        simulation.run_to(at);
        simulation.crash(node);
    }
    let outcome = simulation.run(GIVE_UP_BOUNDS * bound);
    let completed = |nodes: &[usize]| -> Vec<Option<Duration>> {
        nodes
            .iter()
            .map(|&node| outcome.completed_at[node - 1])
            .collect()
    };
    let last = |nodes: &[usize]| -> f64 {
        let last = completed(nodes).into_iter().max().flatten();
        last.map_or(f64::NAN, |at| at.as_secs_f64() / bound.as_secs_f64())
    };
    let missing = completed(rest).iter().filter(|at| at.is_none()).count();
    let mut fast_ratios: Vec<f64> = completed(fast)
        .into_iter()
        .map(|at| at.map_or(f64::INFINITY, |at| at.as_secs_f64() / bound.as_secs_f64()))
        .collect();
    fast_ratios.sort_by(f64::total_cmp);

    let text = "simulated; 5 % die at some time within the bound, 5 % are 20 times slower";
    let mut row = Row::new(name, describe(hosts, text));
    row.judge("live hosts without it", missing as f64, Target::AtMost(0.0));
    let (median, most) = (
        fast_ratios[fast_ratios.len() / 2],
        fast_ratios[fast_ratios.len() - 1],
    );
    row.judge("last of the fast ones, x bound", most, Target::AtMost(1.3));
    row.tell("half of the fast ones, x bound", median);
    row.tell("last of the slow ones, x bound", last(slow));
    row.tell("copies from the seed", outcome.origin_copies);
    row.tell("of no use, share", outcome.duplicate_share);
    row.details = serde_json::json!({
        "bound_seconds": bound.as_secs_f64(),
        "simulated_seconds": simulation.now().as_secs_f64(),
        "live_without": missing,
        "fast_most": most,
        "fast_median": median,
        "slow_most": last(slow),
        "seed_copies": outcome.origin_copies,
        "duplicate_share": outcome.duplicate_share,
        "peers_dropped": outcome.dropped.len(),
    });
    row
}

fn describe(hosts: usize, how: &str) -> String {
    format!(
        "1 GiB to {hosts} hosts in {SITES} sites, {RATE_MBIT} Mbit/s everywhere, {} ms of round trip between sites; {how}",
        ROUND_TRIP.as_millis()
    )
}

/// The fleet as an operator would describe it.
fn fleet_file(hosts: usize) -> String {
    let mut text = format!("seed = {{ rate_mbit = {RATE_MBIT}, site = 'site00' }}\n");
    for host in 0..hosts {
        let site = host * SITES / hosts;
        let _ = writeln!(
            text,
            "[[host]]\nname = 'h{host:05}'\naddress = 'h{host:05}:7227'\nsite = 'site{site:02}'\nrate_mbit = {RATE_MBIT}"
        );
    }
    // One way, and half of it at each end.
    let delay = ROUND_TRIP.as_secs_f64() * 1000.0 / 4.0;
    for site in 0..SITES {
        let _ = writeln!(
            text,
            "[[site]]\nname = 'site{site:02}'\nborder_mbit = {RATE_MBIT}\ndelay_ms = {delay}"
        );
    }
    text
}

/// A simulation in which hosts still lack something after so many bounds has failed.
const GIVE_UP_BOUNDS: u32 = 200;
