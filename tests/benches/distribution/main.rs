//! How fast, and at what cost, a release reaches a fleet; measured with the real programs, row by row, each beside its target, and beside
//! others on the same links.
//!
//! `cargo bench -p scap-tests --bench distribution -- [--row NAME]… [--list] [--install] [--quick] [--others none|NAME,…]
//! [--hosts N] [--rate-mbit R] [--seed-mbit R] [--sites N --border-mbit R] [--in-a-row N] [--mib M] [--files N]
//! [--topology lanes|swarm|tree] [--disk] [--cold-memory]`.
//!
//! Without `--row` all rows are measured; `--list` names them. `--install` prints the command that installs what ours is measured
//! against; what is missing is told in its place. The flags from `--hosts` on stand over what each row would take: 0 for
//! `--rate-mbit` is a link without a rate; with sites, the hosts are spread over so many, and what leaves or enters one is limited
//! to the border's rate; with `--in-a-row` the last N hosts have a route to and from the one before them alone. Data is kept in memory,
//! as the numbers of other tools were taken, unless `--disk` is said. The memory that it will take is made ready first (see
//! [`WarmMemory`]), unless `--cold-memory` is said. Tables go to stderr as they are measured, one JSON object to stdout at
//! the end. Needs root, for network namespaces. Exit code 1 where a row could not be measured; a target that is not met is none.

mod activation;
mod bad_hosts;
mod content;
mod floor;
mod machine;
mod options;
mod others;
mod ours;
mod pair;
mod row;
mod rows;
mod shape;
mod simulated;
mod source_tree;
mod switch;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use scap_tests::fleet::WarmMemory;

use machine::Machine;
use options::{Action, Options};
use others::TOOLS;
use row::{Row, Target};
use rows::{Entry, ROWS};

fn main() -> ExitCode {
    let refuse = |error: String| {
        eprintln!("error: {error}");
        ExitCode::from(2)
    };
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => return refuse(error),
    };
    match options.action {
        Action::List => list(),
        Action::Install => install(),
        Action::Measure => match wanted(&options) {
            Ok((entries, memory_bytes)) => return measure(&options, &entries, memory_bytes),
            Err(error) => return refuse(error),
        },
    }
    ExitCode::SUCCESS
}

/// The rows that were asked for, and what the largest of them will fill.
///
/// # Errors
/// Which name is none, or what does not go together.
fn wanted(options: &Options) -> Result<(Vec<&'static Entry>, u64), String> {
    let find = |name: &String| {
        let entry = ROWS.iter().find(|entry| entry.name == *name);
        entry.ok_or(format!("no row is called {name}: --list names them"))
    };
    let entries: Vec<&Entry> = match options.rows.is_empty() {
        true => ROWS.iter().collect(),
        false => options.rows.iter().map(find).collect::<Result<_, _>>()?,
    };
    let mut others = options.others_named();
    if let Some(name) = others.find(|name| TOOLS.iter().all(|tool| tool.name != *name)) {
        return Err(format!(
            "nothing to measure against is called {name}: --list names them"
        ));
    }
    let sizes = entries.iter().map(|entry| entry.memory_bytes(options));
    let sizes: Vec<u64> = sizes.collect::<Result<_, _>>()?;
    Ok((entries, sizes.into_iter().max().unwrap_or(0)))
}

fn measure(options: &Options, entries: &[&Entry], memory_bytes: u64) -> ExitCode {
    let machine = Machine::read();
    eprintln!("{machine:?}");
    // Held to the end: what a row leaves is ready for the next.
    let is_warmed = options.warms_memory() && options.is_in_memory() && memory_bytes > 0;
    let memory = is_warmed.then(|| WarmMemory::hold(memory_bytes));
    let warm_bytes = memory.as_ref().map_or(0, WarmMemory::bytes);
    eprintln!("{:.0} MiB of memory made ready", warm_bytes as f64 / MIB);

    let (mut rows, mut failed): (Vec<Row>, Vec<&str>) = (Vec::new(), Vec::new());
    for entry in entries {
        // What a row cannot do ends that row; its panic has been printed.
        match catch_unwind(AssertUnwindSafe(|| entry.measure(options))) {
            Ok(Some(measured)) => {
                for row in measured.into_iter().map(Row::finish) {
                    row.print();
                    rows.push(row);
                }
            }
            Ok(None) => eprintln!("\n{}: not on this machine", entry.name),
            Err(_) => failed.push(entry.name),
        }
    }
    if let Some(row) = memory_row(&rows) {
        let row = row.finish();
        row.print();
        rows.push(row);
    }
    summarize(&rows, &failed);
    let all = serde_json::json!({
        "schema": "scap.bench-distribution/2",
        "machine": machine,
        "options": options,
        "warm_memory_bytes": warm_bytes,
        "rows": rows,
        "failed": failed,
    });
    println!("{all}");
    match failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// The most that an agent held in any row.
fn memory_row(rows: &[Row]) -> Option<Row> {
    let peaks = rows
        .iter()
        .filter_map(|row| Some((row.agent_peak_rss_bytes?, &row.name)));
    let (bytes, name) = peaks.max()?;
    let what = format!("the most that a process of an agent held, in row {name}");
    let mut row = Row::new("memory", what);
    row.judge(
        "agent peak RSS, MiB",
        bytes as f64 / MIB,
        Target::AtMost(64.0),
    );
    Some(row)
}

/// Which targets are met, in a line each.
fn summarize(rows: &[Row], failed: &[&str]) {
    eprintln!();
    for row in rows {
        let verdict = match (row.is_met, row.is_cpu_bound) {
            (Some(true), _) => "met",
            (Some(false), true) => "NOT MET (CPU-bound)",
            (Some(false), false) => "NOT MET",
            (None, _) => "no target",
        };
        eprintln!("{:<20}{verdict}", row.name);
    }
    for name in failed {
        eprintln!("{name:<20}FAILED");
    }
}

fn list() {
    println!("rows:");
    for entry in &ROWS {
        println!("  {:<18}{}", entry.name, entry.what);
    }
    println!("measured against:");
    for tool in &TOOLS {
        println!("  {:<18}{}", tool.name, tool.what);
    }
}

fn install() {
    let missing: BTreeSet<&str> = TOOLS.iter().flat_map(|tool| tool.missing()).collect();
    if missing.is_empty() {
        println!("everything is here");
        return;
    }
    let packages: Vec<&str> = missing.into_iter().collect();
    println!(
        "apt-get install --yes --no-install-recommends {}",
        packages.join(" ")
    );
}

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;
const GIB: f64 = 1024.0 * MIB;
