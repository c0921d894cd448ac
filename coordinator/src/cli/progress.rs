//! What a person sees while a deployment goes on, on standard error.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use scap_proto::release::{BytesBySource, Stage};

use super::{About, deploy::size_of, human_bytes};
use crate::{
    git::Commit,
    rollout::{Ended, Engine, HostState, Output, Verdict, WaitingOn, Watcher},
    snapshot::{self, Built},
};

/// How often a summary is printed where standard error is no terminal.
const SUMMARY_PERIOD: Duration = Duration::from_secs(30);
/// Most hosts named in a line.
const HOSTS_SHOWN_MAX: usize = 5;

/// Shows progress: a line an event, and on a terminal one more that is redrawn.
pub(super) struct Progress {
    is_terminal: bool,
    started: Instant,
    summarized: Instant,
    is_drawn: bool,
}

impl Progress {
    pub(super) fn new((repo, environment): &About, commit: Option<&Commit>) -> Self {
        let commit = commit.map(|commit| {
            let oid = commit.id.to_string();
            let subject: String = commit.subject.chars().take(60).collect();
            format!("  {} \"{}\"", &oid[..10], subject.escape_debug())
        });
        eprintln!(
            "deploy {repo} to {environment}{}",
            commit.unwrap_or_default()
        );
        let now = Instant::now();
        let is_terminal = std::io::stderr().is_terminal()
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self {
            is_terminal,
            started: now,
            summarized: now,
            is_drawn: false,
        }
    }

    /// Shows how far building the snapshot is.
    pub(super) fn snapshot_line(&self) -> impl FnMut(snapshot::Progress) + Send + 'static {
        let is_terminal = self.is_terminal;
        move |progress: snapshot::Progress| {
            if is_terminal {
                let all = if progress.is_listed { "" } else { " so far" };
                eprint!(
                    "\r\x1b[Ksnapshot  {}/{} entries{all}, {} read",
                    progress.done_entries,
                    progress.listed_entries,
                    human_bytes(progress.read_bytes)
                );
            }
        }
    }

    pub(super) fn built(&mut self, built: &Built) {
        self.is_drawn = self.is_terminal;
        self.line(&format!(
            "snapshot {:.8}  {}, built in {:.2} s",
            built.snapshot.id.to_string(),
            size_of(built),
            built.elapsed.as_secs_f64()
        ));
    }

    /// Removes the line that is redrawn.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.is_drawn) {
            eprint!("\r\x1b[K");
        }
    }

    pub(super) fn ended(&mut self, ended: &Ended, seed_bytes: u64, total: Duration) {
        let hosts = ended.engine.hosts();
        let count = |is: fn(&HostState) -> bool| hosts.values().filter(|h| is(&h.state)).count();
        self.line(&format!(
            "ok {}  failed {}  unreachable {}  skipped {}",
            count(|state| *state == HostState::Promoted),
            count(|state| matches!(state, HostState::Failed(_))),
            count(|state| matches!(state, HostState::Unreachable(_))),
            count(|state| *state == HostState::Skipped),
        ));
        let mut reasons: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for (name, host) in hosts {
            if let HostState::Failed(reason) | HostState::Unreachable(reason) = &host.state {
                reasons
                    .entry(reason.escape_debug().to_string())
                    .or_default()
                    .push(name.as_str());
            }
        }
        for (reason, names) in reasons {
            self.line(&format!("  {}: {reason}", some(&names)));
        }
        let bytes = sum(ended.engine.hosts().values().map(|host| host.bytes));
        self.line(&format!(
            "data  seed {}  peers {}  reuse {}  (the seed sent {} on the wire)",
            human_bytes(bytes.seed),
            human_bytes(bytes.peers),
            human_bytes(bytes.reuse),
            human_bytes(seed_bytes),
        ));
        let verdict = match &ended.verdict {
            Verdict::Done => "done".to_owned(),
            Verdict::Incomplete => {
                "incomplete: run the same command again for the hosts left".into()
            }
            Verdict::Stopped { wave } => {
                format!(
                    "stopped: a host of wave {wave} did not get there; later waves were not touched"
                )
            }
        };
        self.line(&format!("{verdict}, in {:.2} s", total.as_secs_f64()));
    }

    /// Says something that stays.
    pub(super) fn line(&mut self, text: &str) {
        self.clear();
        eprintln!("{text}");
    }
}

impl Watcher for Progress {
    fn output(&mut self, _engine: &Engine, output: &Output) {
        match output {
            Output::Began { wave, stage, hosts } => {
                let stage = match stage {
                    Stage::Fetch => "fetch",
                    Stage::Promote => "promote",
                    Stage::Revert => "revert",
                };
                self.line(&format!("wave {wave}: {stage} on {hosts} hosts"));
            }
            Output::Settled { host, state } => match state {
                HostState::Failed(reason) => {
                    self.line(&format!("failed {host}: {}", reason.escape_debug()));
                }
                HostState::Unreachable(reason) => {
                    self.line(&format!("unreachable {host}: {}", reason.escape_debug()));
                }
                _ => {}
            },
            Output::Suspect { host } => {
                self.line(&format!("{host} does not answer over others: dialling it"));
            }
            Output::Order { .. } | Output::Finalize { .. } | Output::Ended(_) => {}
        }
    }

    fn tick(&mut self, engine: &Engine) {
        if self.is_terminal {
            // One line, so that nothing but it is ever redrawn.
            eprint!("\r\x1b[K{}", summary(engine, self.started.elapsed()));
            let _ = std::io::stderr().flush();
            self.is_drawn = true;
        } else if self.summarized.elapsed() >= SUMMARY_PERIOD {
            self.summarized = Instant::now();
            eprintln!("{}", summary(engine, self.started.elapsed()));
        }
    }
}

/// Where it is and what it waits for, in a line.
fn summary(engine: &Engine, elapsed: Duration) -> String {
    let hosts = engine.hosts();
    let live = hosts
        .values()
        .filter(|host| host.state == HostState::Promoted)
        .count();
    let bytes = sum(hosts.values().map(|host| host.bytes));
    let waiting = match engine.waiting_on() {
        Some(WaitingOn::Chunks { hosts: waiting, .. }) => {
            let (held, known) = waiting
                .iter()
                .map(|host| hosts[host].chunks)
                .fold((0u64, 0u64), |(h, k), (held, known)| {
                    (h + u64::from(held), k + u64::from(known))
                });
            format!("chunks {held}/{known} on {}", some_nodes(&waiting))
        }
        Some(WaitingOn::Promotion { hosts: waiting, .. }) => {
            format!("promotion on {}", some_nodes(&waiting))
        }
        Some(WaitingOn::Finalization { hosts: waiting }) => {
            format!("the finalization on {}", some_nodes(&waiting))
        }
        None => "nothing".into(),
    };
    format!(
        "live {live}/{}  seed {}  peers {}  reuse {}  {:.0} s  wait {waiting}",
        hosts.len(),
        human_bytes(bytes.seed),
        human_bytes(bytes.peers),
        human_bytes(bytes.reuse),
        elapsed.as_secs_f64(),
    )
}

fn sum(all: impl Iterator<Item = BytesBySource>) -> BytesBySource {
    all.fold(BytesBySource::default(), |sum, bytes| BytesBySource {
        seed: sum.seed + bytes.seed,
        peers: sum.peers + bytes.peers,
        reuse: sum.reuse + bytes.reuse,
    })
}

fn some_nodes(hosts: &std::collections::BTreeSet<scap_proto::id::NodeId>) -> String {
    some(&hosts.iter().map(|host| host.as_str()).collect::<Vec<_>>())
}

/// The first few names, and how many more there are.
pub(super) fn some(names: &[&str]) -> String {
    let shown = names
        .iter()
        .take(HOSTS_SHOWN_MAX)
        .copied()
        .collect::<Vec<_>>()
        .join(" ");
    match names.len().saturating_sub(HOSTS_SHOWN_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
