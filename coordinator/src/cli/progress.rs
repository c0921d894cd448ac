//! What a person, or a program, sees while a deployment goes on, on standard error.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use scap_agent::clock;
use scap_proto::{
    id::NodeId,
    release::{BytesBySource, Stage},
};
use serde_json::{Value, json};

use super::{
    About,
    deploy::size_of,
    human_bytes, rollout_status,
    screen::{self, Glyphs, Rates, Sheet, Shown, View},
    watch,
};
use crate::{
    git::Commit,
    rollout::{
        Cause, CommandError, Ended, Engine, HostState, Output, Verdict, Wait, WaitingOn, Watcher,
    },
    snapshot::{self, Built},
};

/// How often a summary is printed where standard error is no terminal.
const SUMMARY_PERIOD: Duration = Duration::from_secs(30);
/// How often lines are drawn again, at most: what a person can read, and no more.
const REDRAW_PERIOD: Duration = Duration::from_millis(200);
/// Most hosts named in a line.
const HOSTS_SHOWN_MAX: usize = 5;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Style {
    /// A line an event, and on a terminal a few below these that are drawn again and again
    #[default]
    Auto,
    /// A line an event
    Plain,
    /// One JSON object a line
    Json,
}

/// Shows progress.
pub(super) struct Progress {
    style: Style,
    /// Whether lines are drawn again and again, and with which characters.
    terminal: Option<Glyphs>,
    /// Objects written.
    written: u64,
    started: Instant,
    summarized: Instant,
    /// What these lines tell besides what the engine knows, once it is known.
    sheet: Option<Sheet>,
    shown: Shown,
    rates: Rates,
}

/// Leaves a terminal without the lines.
impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Progress {
    pub(super) fn new((repo, environment): &About, commit: Option<&Commit>, style: Style) -> Self {
        let now = Instant::now();
        if style == Style::Json {
            screen::write_objects();
        }
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].map(std::env::var);
        let locale = locale.into_iter().flatten().find(|it| !it.is_empty());
        let glyphs = Glyphs::of_locale(&locale.unwrap_or_default());
        let mut progress = Self {
            style,
            terminal: (style == Style::Auto && screen::is_terminal()).then_some(glyphs),
            written: 0,
            started: now,
            summarized: now,
            sheet: None,
            shown: Shown::default(),
            rates: Rates::default(),
        };
        let subject = commit.map(|it| it.subject.chars().take(60).collect::<String>());
        let oid = commit.map(|commit| commit.id.to_string());
        let author = commit.map(|commit| commit.author_name().to_owned());
        let fields = json!({
            "repo": repo.as_str(), "environment": environment.as_str(), "commit": oid, "subject": subject,
            "author": author,
        });
        progress.tell("deploy", fields, || {
            let commit = oid.zip(subject).zip(author);
            let commit = commit.map(|((oid, subject), author)| {
                let (subject, author) = (subject.escape_debug(), author.escape_debug());
                format!("  {} \"{subject}\" by {author}", &oid[..10])
            });
            format!(
                "deploy {repo} to {environment}{}",
                commit.unwrap_or_default()
            )
        });
        progress
    }

    /// Shows how far building the snapshot is.
    pub(super) fn snapshot_line(&self) -> impl FnMut(snapshot::Progress) + Send + 'static {
        let is_terminal = self.terminal.is_some();
        let mut drawn: Option<Instant> = None;
        move |progress: snapshot::Progress| {
            if is_terminal && drawn.is_none_or(|at| at.elapsed() >= REDRAW_PERIOD) {
                drawn = Some(Instant::now());
                let all = if progress.is_listed { "" } else { " so far" };
                let line = format!(
                    "snapshot  {}/{} entries{all}, {} read",
                    progress.done_entries,
                    progress.listed_entries,
                    human_bytes(progress.read_bytes)
                );
                screen::draw(&[line]);
            }
        }
    }

    /// Has the lines that are drawn again and again tell this too, from the next tick on.
    pub(super) fn show(&mut self, sheet: Sheet, shown: Shown) {
        self.sheet = Some(sheet);
        self.shown = shown;
    }

    pub(super) fn built(&mut self, built: &Built) {
        let seconds = built.elapsed.as_secs_f64();
        let fields = json!({
            "snapshot": built.snapshot.id.to_string(),
            "bytes": built.descriptor.totals.bytes,
            "encoded_bytes": built.all.encoded_bytes,
            "new_encoded_bytes": built.new.encoded_bytes,
            "seconds": seconds,
        });
        self.tell("snapshot", fields, || {
            format!(
                "snapshot {:.8}  {}, built in {seconds:.2} s",
                built.snapshot.id.to_string(),
                size_of(built),
            )
        });
    }

    /// What is about to be done.
    pub(super) fn plan(&mut self, fields: Value, lines: &[String]) {
        self.tell("plan", fields, || lines.join("\n"));
    }

    /// One more line, about something that no event tells.
    pub(super) fn note(&mut self, text: &str) {
        self.tell("note", json!({ "text": text }), || text.to_owned());
    }

    /// Takes away the lines that are drawn again and again.
    pub(super) fn clear(&self) {
        if self.terminal.is_some() {
            screen::clear();
        }
    }

    pub(super) fn ended(
        &mut self,
        ended: &Ended,
        seed_bytes: u64,
        total: Duration,
        recorded: &str,
    ) {
        let hosts = ended.engine.hosts();
        let count = |is: fn(&HostState) -> bool| hosts.values().filter(|h| is(&h.state)).count();
        let counts = [
            ("ok", count(|state| *state == HostState::Promoted)),
            (
                "failed",
                count(|state| matches!(state, HostState::Failed(_))),
            ),
            (
                "unreachable",
                count(|state| matches!(state, HostState::Unreachable(_))),
            ),
            ("skipped", count(is_skipped)),
            ("rolled-back", count(|state| *state == HostState::Reverted)),
            ("unfinished", count(is_unfinished)),
        ];
        let is_shown = |at: usize, count: usize| at < 4 || count > 0;
        let shown = counts.iter().enumerate();
        let shown = shown.filter(|(at, (_, count))| is_shown(*at, *count));
        let shown: Vec<String> = shown.map(|(_, (what, n))| format!("{what} {n}")).collect();
        let recap: serde_json::Map<String, Value> = counts
            .iter()
            .map(|(what, n)| ((*what).to_owned(), json!(n)))
            .collect();
        let lost = rollout_status::lost(&ended.engine);
        let shunned = rollout_status::shunned(&ended.engine);
        let verdict = verdict(ended);
        // It is over, so that no time passes any more.
        let spent = ended.engine.spent(Duration::ZERO);
        let seconds = total.as_secs_f64();
        let bytes = sum(hosts.values().map(|host| host.bytes));
        let fields = json!({
            "outcome": outcome(&ended.verdict),
            "code": ended.verdict.code(),
            "recap": recap,
            "lost": lost,
            "shunned": shunned,
            "watch": watch::json(&ended.engine),
            "waves": rollout_status::waves(&ended.engine),
            "seconds": seconds,
            "spent_seconds": rollout_status::spent_json(&spent),
            "recorded": recorded,
        });
        self.tell("end", fields, || {
            let mut text = shown.join("  ");
            for group in &lost {
                let reason = group["reason"].as_str().unwrap_or_default().escape_debug();
                let names = group["hosts"].as_array().into_iter().flatten();
                let names: Vec<&str> = names.filter_map(Value::as_str).collect();
                let code = rollout_status::bracketed(&group["code"]);
                text += &format!("\n  {}: {reason}{code}", some(&names));
            }
            for group in &shunned {
                let peer = group["peer"].as_str().unwrap_or_default();
                let names = group["by"].as_array().into_iter().flatten();
                let names: Vec<&str> = names.filter_map(Value::as_str).collect();
                let code = rollout_status::bracketed(&group["code"]);
                text += &format!("\n  shunned: {peer}{code} by {}", some(&names));
            }
            for line in watch::lines(&ended.engine) {
                text += &format!("\n{line}");
            }
            text += &format!(
                "\ndata  seed {}  peers {}  reuse {}  (the seed sent {} on the wire)",
                human_bytes(bytes.seed),
                human_bytes(bytes.peers),
                human_bytes(bytes.reuse),
                human_bytes(seed_bytes),
            );
            let code = ended.verdict.code();
            let code = code.map_or_else(String::new, |code| format!(" [{code}]"));
            text += &format!("\n{verdict}{code}, in {seconds:.2} s\n");
            text + &format!("{}; {recorded}", rollout_status::spent_line(&spent))
        });
    }

    /// One event: an object for programs, a line or more for people.
    fn tell(&mut self, kind: &str, fields: Value, line: impl FnOnce() -> String) {
        if self.style != Style::Json {
            return screen::above(&line());
        }
        self.written += 1;
        let millis = i64::try_from(clock::now().0).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_millisecond(millis).unwrap_or_default();
        let mut object = json!({
            "schema": "scap.progress/1", "seq": self.written, "ts": time.to_string(), "kind": kind,
        });
        if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), fields) {
            object.extend(fields);
        }
        eprintln!("{object}");
    }

    fn waits(&mut self, wait: &Wait) {
        let fields = json!({ "wait": rollout_status::wait_json(wait, wait.since) });
        let is_told =
            self.style == Style::Json || wait.on == WaitingOn::Soak || wait.on.needs_a_person();
        if !is_told {
            return;
        }
        self.tell("wait", fields, || {
            let wave = wait.wave.as_ref();
            let wave = wave.map(|wave| format!(" of wave {}", wave.escape_debug()));
            let left = wait.until.map(|until| until.saturating_sub(wait.since));
            let left = left.map(|left| format!(", {} s", left.as_secs()));
            let hosts = match wait.hosts.is_empty() {
                true => String::new(),
                false => format!(": {}", some_nodes(&wait.hosts)),
            };
            format!(
                "wait {}{}{}{hosts}; {}",
                wait.on,
                wave.unwrap_or_default(),
                left.unwrap_or_default(),
                wait.on.moves(),
            )
        });
    }
}

fn is_skipped(state: &HostState) -> bool {
    matches!(state, HostState::Waiting | HostState::Skipped(_))
}

fn is_unfinished(state: &HostState) -> bool {
    use HostState::{Fetched, Fetching, Promoting, Reverting};
    matches!(state, Fetching | Fetched | Promoting | Reverting)
}

/// The word for how it ended, as JSON has it.
pub(super) fn outcome(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Done => "done",
        Verdict::Partial => "partial",
        Verdict::Failed => "failed",
        Verdict::Stopped(_) => "stopped",
        Verdict::RolledBack(_) => "rolled-back",
        Verdict::RollbackIncomplete(_) => "rollback-incomplete",
        Verdict::TakenOver { .. } => "taken-over",
    }
}

/// How it ended, in words, and what to do now.
fn verdict(ended: &Ended) -> String {
    let again = "the same command again goes on";
    match &ended.verdict {
        Verdict::Done => "done".to_owned(),
        Verdict::Partial => {
            "done, with hosts lost or skipped: the same command again is for those".into()
        }
        Verdict::Failed => "failed: no host has it live".into(),
        Verdict::Stopped(None) => format!("stopped; {again}"),
        Verdict::Stopped(Some(WaitingOn::Rollback)) => format!(
            "stopped while it rolled back; these may run it or not: {}; the same command deploys the release again",
            touched(ended)
        ),
        Verdict::Stopped(Some(on)) => match ended.engine.dead_man() {
            None => {
                format!("stopped, waiting for {on}: hosts keep what they were told last; {again}")
            }
            Some(time) => format!(
                "stopped, waiting for {on}: hosts that have it live go back by themselves in {} s; until then {again}",
                time.as_secs()
            ),
        },
        Verdict::RolledBack(cause) => {
            format!(
                "rolled back, since {}: every host runs what it ran before",
                why(cause)
            )
        }
        Verdict::RollbackIncomplete(cause) => {
            format!(
                "rolled back, since {}, and may still run it: {}; deploy the older revision once these are reached",
                why(cause),
                touched(ended)
            )
        }
        Verdict::TakenOver { host, epoch } => format!(
            "taken over: {host} follows epoch {epoch} of this release; nothing more is told from here"
        ),
    }
}

/// The hosts that may have the release live by our doing.
fn touched(ended: &Ended) -> String {
    let hosts = ended.engine.hosts().iter().filter(|(_, it)| it.is_touched);
    let hosts: Vec<&str> = hosts.map(|(host, _)| host.as_str()).collect();
    some(&hosts)
}

pub(super) fn why(cause: &Cause) -> String {
    match cause {
        Cause::Abort => "a person said so".into(),
        Cause::Before => "that was going on when its coordinator ended".into(),
        Cause::External { wave, reason } => format!(
            "the external check of wave {} failed: {}",
            wave.escape_debug(),
            reason.escape_debug()
        ),
        Cause::Budget {
            of,
            failed,
            allowed,
        } => {
            let hosts = if *failed == 1 { "host" } else { "hosts" };
            let of = of.escape_debug();
            format!("{failed} {hosts} of {of} failed, and {allowed} may be lost")
        }
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
                let fields = json!({ "wave": wave, "stage": stage, "hosts": hosts });
                self.tell("stage", fields, || {
                    format!("wave {}: {stage} on {hosts} hosts", wave.escape_debug())
                });
            }
            Output::Look { wave, hosts, .. } => {
                let hosts = hosts.len();
                let fields = json!({ "wave": wave, "hosts": hosts });
                self.tell("external-check", fields, || {
                    let wave = wave.escape_debug();
                    format!("wave {wave}: external check of {hosts} hosts")
                });
            }
            Output::Settled { host, state } => self.settled(host, state),
            Output::Suspect { host } => {
                let fields = json!({ "host": host.as_str() });
                self.tell("suspect", fields, || {
                    format!("{host} does not answer over others: dialling it")
                });
            }
            Output::Waits(wait) => self.waits(wait),
            Output::RollsBack(cause) => {
                let fields = json!({ "why": why(cause), "code": cause.code() });
                self.tell("rolls-back", fields, || {
                    format!("rolling back: {} [{}]", why(cause), cause.code())
                });
            }
            Output::Order { .. } | Output::Finalize { .. } | Output::Ended(_) => {}
        }
    }

    fn tick(&mut self, engine: &Engine, now: Duration) {
        self.rates.note(now, engine.hosts());
        if let (Some(glyphs), Some(sheet)) = (self.terminal, &self.sheet) {
            let view = View::of(engine, now, &self.rates, sheet, self.shown);
            screen::draw(&screen::lines(sheet, &view, screen::size(), glyphs));
        } else if self.summarized.elapsed() >= SUMMARY_PERIOD {
            self.summarized = Instant::now();
            let wait = engine
                .wait()
                .map(|wait| rollout_status::wait_json(&wait, now));
            let fields = json!({ "waves": rollout_status::waves(engine), "wait": wait });
            let elapsed = self.started.elapsed();
            let hosts = self.sheet.as_ref().map(|sheet| {
                let view = View::of(engine, now, &self.rates, sheet, self.shown);
                screen::host_lines(&view)
            });
            self.tell("summary", fields, || {
                let summary = std::iter::once(summary(engine, elapsed, now));
                let lines: Vec<String> = summary.chain(hosts.into_iter().flatten()).collect();
                lines.join("\n")
            });
        }
    }

    fn interrupted(&mut self, paused: Result<(), CommandError>) {
        let fields = json!({ "is_paused": paused.is_ok() });
        self.tell("interrupted", fields, || match paused {
            Ok(()) => "paused: `scap-coordinator resume` goes on, `scap-coordinator abort` takes every switched host \
                       back; Ctrl-C again ends this and leaves hosts as they are"
                .to_owned(),
            Err(why) => format!("not paused: {why}; Ctrl-C again ends this and leaves hosts as they are"),
        });
    }
}

impl Progress {
    fn settled(&mut self, host: &NodeId, state: &HostState) {
        let Some(because) = state.because() else {
            if self.style == Style::Json {
                let fields = json!({ "host": host.as_str(), "state": state.code() });
                self.tell("host", fields, String::new);
            } else if *state == HostState::Waiting {
                self.tell("host", Value::Null, || format!("{host} is tried again"));
            }
            return;
        };
        let fields = json!({
            "host": host.as_str(), "state": state.code(), "code": because.code, "reason": because.text,
        });
        self.tell("host", fields, || {
            let reason = rollout_status::shown_reason(because);
            format!("{} {host}: {reason}", state.code())
        });
    }
}

/// Where it is and what it waits for, in a line.
fn summary(engine: &Engine, elapsed: Duration, now: Duration) -> String {
    let hosts = engine.hosts();
    let live = hosts
        .values()
        .filter(|host| host.state == HostState::Promoted)
        .count();
    let bytes = sum(hosts.values().map(|host| host.bytes));
    let wait = engine.wait();
    let steps = wait
        .as_ref()
        .map(|wait| rollout_status::wait_json(wait, now));
    let steps = steps.map_or_else(String::new, |wait| {
        rollout_status::shown_steps(&wait["steps"])
    });
    let waiting = wait.map_or("nothing".into(), |wait| match wait.on {
        WaitingOn::Chunks => {
            let chunks = wait.hosts.iter().map(|host| hosts[host].chunks);
            let (held, known) = chunks.fold((0u64, 0u64), |(h, k), (held, known)| {
                (h + u64::from(held), k + u64::from(known))
            });
            format!("chunks {held}/{known} on {}", some_nodes(&wait.hosts))
        }
        on => {
            let hosts = match wait.hosts.is_empty() {
                true => String::new(),
                false => format!(" on {}", some_nodes(&wait.hosts)),
            };
            let left = wait.until.map(|until| until.saturating_sub(now));
            let left = left.map(|left| format!(", {} s left", left.as_secs()));
            format!("{on}{hosts}{}", left.unwrap_or_default())
        }
    });
    format!(
        "live {live}/{}  seed {}  peers {}  reuse {}  {:.0} s  wait {waiting}{steps}",
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

fn some_nodes(hosts: &BTreeSet<NodeId>) -> String {
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
