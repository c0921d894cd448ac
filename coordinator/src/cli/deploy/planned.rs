//! The plan of a deployment, before anything moves: what `deploy` shows and asks about, and what `--dry-run` ends with.

use std::collections::BTreeMap;

use scap_proto::{
    id::{NodeId, SnapshotId},
    identity::Denial,
    release::{
        HostConfig,
        host_config::{HostStage, Moment},
    },
};
use serde_json::{Value, json};

use super::{DeployArgs, greet::Greeted, stages};
use crate::{
    cli::{
        About, CliError,
        branch::{failed, now},
        deltas::Deltas,
        human_bytes,
        progress::some,
        snapshot::Tree,
    },
    git::{Commit, Repo},
    rollout::{Policy, Wave},
    snapshot::Built,
    state::{History, Lock, ProcessMark, Rollout, StateDirectory},
};

/// All of it.
pub(super) struct Planned<'a> {
    pub(super) about: &'a About,
    /// The release and its sequence, where it is signed.
    pub(super) release: Option<(String, u64)>,
    /// What the environment is on.
    pub(super) from: Option<Rollout>,
    pub(super) to: Option<&'a Commit>,
    pub(super) built: &'a Built,
    pub(super) policy: &'a Policy,
    /// What hosts are asked.
    pub(super) asked: Option<&'a HostConfig>,
    pub(super) seed_bytes: SeedBytes,
    /// Who holds the lock, in words.
    pub(super) lock: Option<String>,
    /// Who cannot be reached now, and why; none where nobody was asked.
    pub(super) away: Option<&'a BTreeMap<NodeId, String>>,
    /// Who would take part and is revoked, with why.
    pub(super) revoked: &'a BTreeMap<NodeId, Denial>,
}

/// What leaves the seed, as far as that is known: each chunk that hosts lack is sent about once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SeedBytes {
    /// By what hosts say that they run.
    Expected(u64),
    /// Nobody was asked: where hosts run what was released last, and where they hold nothing of it.
    Between(u64, u64),
}

impl SeedBytes {
    /// As the hosts that were reached say: of those that run the tree nothing; by a delta where there is one, which makes all that
    /// they lack; what is new here where `has` says that it has what they run; and all of it where it is not known what they run.
    pub(super) fn expected(
        greeted: &Greeted,
        built: &Built,
        deltas: &Deltas,
        has: impl Fn(&SnapshotId) -> bool,
    ) -> Self {
        let (all, new) = (built.all.encoded_bytes, built.new.encoded_bytes);
        let known = greeted.live().count();
        let of_unknown = (known < greeted.standings.len()).then_some(all);
        let needs = greeted.live().map(|live| {
            let mut deltas = deltas.all.iter();
            match deltas.find(|it| it.reference.base == live) {
                _ if live == built.snapshot.id => 0,
                Some(delta) => delta.encoded_bytes + new.saturating_sub(delta.saves.encoded_bytes),
                None if has(&live) && new > 0 => new,
                None => all,
            }
        });
        Self::Expected(needs.chain(of_unknown).max().unwrap_or(0))
    }

    fn line(self) -> String {
        match self {
            Self::Expected(bytes) => format!("seed  sends about {}", human_bytes(bytes)),
            Self::Between(least, most) => format!(
                "seed  would send about {} where hosts run what was released from here last, and {} where they hold none of it",
                human_bytes(least),
                human_bytes(most)
            ),
        }
    }

    fn json(self) -> Value {
        match self {
            Self::Expected(bytes) => json!({ "least": bytes, "most": bytes }),
            Self::Between(least, most) => json!({ "least": least, "most": most }),
        }
    }
}

impl Planned<'_> {
    /// For people, but for the repo, the commit and the size, which are said before.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        lines.extend(
            self.release
                .as_ref()
                .map(|(id, sequence)| format!("release {id} #{sequence}")),
        );
        lines.push(match &self.from {
            Some(from) => format!("from  #{} {}", from.sequence, from.title()),
            None => "from  nothing: no release was finalized".to_owned(),
        });
        lines.push(self.seed_bytes.line());
        let hosts: usize = self
            .policy
            .waves
            .iter()
            .map(|wave| wave.hosts().count())
            .sum();
        lines.push(format!(
            "{hosts} hosts, fetching ahead: {}",
            self.policy.prefetch
        ));
        for wave in &self.policy.waves {
            lines.push(wave_line(wave));
            let names: Vec<&str> = wave.hosts().map(|host| host.as_str()).collect();
            lines.push(format!("  {}", some(&names)));
        }
        lines.extend(self.asked.and_then(stages::line));
        for (moment, stage, names) in self.checks() {
            let names: Vec<String> = names
                .iter()
                .map(|it| it.escape_debug().to_string())
                .collect();
            lines.push(format!(
                "  checked {} {}: {}",
                word(moment),
                stage.name(),
                names.join(", ")
            ));
        }
        lines.push(match &self.lock {
            Some(lock) => format!("lock  {lock}"),
            None => "lock  nobody's".to_owned(),
        });
        for (host, denial) in self.revoked {
            let reason = denial.reason.escape_debug();
            lines.push(format!("  left out: {host}: revoked: {reason} [revoked]"));
        }
        for (host, reason) in self.away.into_iter().flatten() {
            lines.push(format!(
                "  unreachable now: {host}: {}",
                reason.escape_debug()
            ));
        }
        lines
    }

    /// The same for programs, and all of it.
    pub(super) fn json(&self) -> Value {
        let (repo, environment) = self.about;
        let from = self.from.as_ref().map(|from| {
            json!({
                "sequence": from.sequence,
                "release": from.release.to_string(),
                "commit": from.commit.as_ref().map(ToString::to_string),
                "subject": from.subject,
            })
        });
        let to = self.to.map(
            |to| json!({ "commit": to.id.to_string(), "author": to.author, "subject": to.subject }),
        );
        let totals = self.built.descriptor.totals;
        let checks = self.checks().into_iter().map(|(moment, stage, names)| {
            json!({ "moment": word(moment), "stage": stage.name(), "checks": names })
        });
        let away = self.away.map(|away| {
            let away = away
                .iter()
                .map(|(host, reason)| (host.to_string(), json!(reason)));
            Value::Object(away.collect())
        });
        json!({
            "repo": repo.as_str(),
            "environment": environment.as_str(),
            "release": self.release.as_ref().map(|(id, _)| id),
            "sequence": self.release.as_ref().map(|(_, sequence)| sequence),
            "from": from,
            "to": to,
            "snapshot": self.built.snapshot.id.to_string(),
            "snapshot_bytes": totals.bytes,
            "snapshot_entries": totals.entries,
            "snapshot_encoded_bytes": self.built.all.encoded_bytes,
            "new_encoded_bytes": self.built.new.encoded_bytes,
            "seed_bytes": self.seed_bytes.json(),
            "prefetch": self.policy.prefetch.to_string(),
            "waves": self.policy.waves.iter().map(wave_json).collect::<Vec<_>>(),
            "asked": stages::json(self.asked),
            "checks": checks.collect::<Vec<_>>(),
            "lock": self.lock,
            "unreachable": away,
            "revoked": self.revoked.iter().map(|(host, denial)| (host.to_string(), json!(denial.reason))).collect::<serde_json::Map<_, _>>(),
        })
    }

    /// The checks around each stage that has some, in the order in which they are run.
    fn checks(&self) -> Vec<(Moment, HostStage, Vec<&str>)> {
        let all = || self.asked.into_iter().flat_map(|asked| &asked.checks);
        let moments = HostStage::ALL
            .into_iter()
            .flat_map(|stage| [Moment::Before, Moment::After].map(|moment| (moment, stage)));
        let around = moments.map(|(moment, stage)| {
            let here = all().filter(|it| (it.moment, it.stage) == (moment, stage));
            (
                moment,
                stage,
                here.map(|it| it.name.as_str()).collect::<Vec<_>>(),
            )
        });
        around.filter(|(_, _, names)| !names.is_empty()).collect()
    }
}

fn word(moment: Moment) -> &'static str {
    match moment {
        Moment::Before => "before",
        Moment::After => "after",
    }
}

/// What the state branch says here: what the environment is on, and whose the lock is, in words. Nobody is asked.
pub(super) fn as_recorded(
    args: &DeployArgs,
    tree: &Tree,
    state: &StateDirectory,
    about: &About,
) -> Result<(Option<Rollout>, Option<String>), CliError> {
    let repo = match tree.repo() {
        Some(repo) => repo.clone(),
        None if !state.state_repo().is_dir() => return Ok((None, None)),
        None => Repo::open(&state.state_repo()).map_err(|error| failed(&error.into()))?,
    };
    let history = args.record.branch.history(&repo, false)?;
    let present = history.as_ref().map(History::present).transpose();
    let present = present.map_err(|error| failed(&error))?;
    let here = present
        .into_iter()
        .flatten()
        .find(|(place, _)| place == about);
    let Some((_, here)) = here else {
        return Ok((None, None));
    };
    let folder = here.map_err(|error| failed(&error))?.folder;
    let stable = folder.record.and_then(|record| record.stable);
    Ok((stable, folder.lock.as_ref().map(held)))
}

fn held(lock: &Lock) -> String {
    let stale = lock.stale(now(), &ProcessMark::here(), ProcessMark::is_gone);
    let stale = stale.map_or(String::new(), |why| format!("; {}", why.as_str()));
    format!("{}{stale}", lock.describe(now()))
}

fn wave_line(wave: &Wave) -> String {
    // Names are checked where they are read, and shown so that they do nothing to a terminal all the same.
    let (name, hosts) = (wave.name.escape_debug(), wave.hosts().count());
    let mut line = format!("wave {name}  {hosts} hosts");
    if wave.groups.len() > 1 {
        line += &format!(" in {} groups", wave.groups.len());
    }
    for limit in &wave.limits {
        let of = limit.of.strip_suffix(&format!(" of wave {}", wave.name));
        let of = of.map(|of| format!(" in {}", of.escape_debug()));
        line += &format!("  may lose {}{}", limit.allowed, of.unwrap_or_default());
    }
    if !wave.soak.is_zero() {
        line += &format!("  soaks {} s", wave.soak.as_secs());
    }
    if wave.needs_approval {
        line += "  needs approval";
    }
    line
}

fn wave_json(wave: &Wave) -> Value {
    let limits = wave.limits.iter();
    let limits: Vec<Value> = limits
        .map(
            |limit| json!({ "of": limit.of, "hosts": limit.hosts.len(), "allowed": limit.allowed }),
        )
        .collect();
    let groups: Vec<Vec<&str>> = wave
        .groups
        .iter()
        .map(|group| group.iter().map(|host| host.as_str()).collect())
        .collect();
    json!({
        "name": wave.name,
        "groups": groups,
        "limits": limits,
        "soak_seconds": wave.soak.as_secs(),
        "approval": wave.needs_approval,
    })
}
