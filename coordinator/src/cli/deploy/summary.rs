//! What was done, for programs.

use std::time::Duration;

use scap_proto::reason::Because;
use serde_json::{Value, json};

use crate::{
    cli::{exit, progress::outcome, rollout_status, watch},
    fleet::Inventory,
    rollout::{self, Ended, HostState, Session, Verdict, WaitingOn},
    snapshot::Built,
};

/// What was done, as `--json` shows it.
pub(crate) struct Summary {
    pub(crate) json: Value,
    pub(crate) code: u8,
    pub(crate) verdict: Verdict,
}

/// How long each phase took.
pub(super) struct Seconds {
    pub(super) connect: Duration,
    pub(super) snapshot: Duration,
    pub(super) deltas: Duration,
    pub(super) rollout: Duration,
    pub(super) total: Duration,
}

/// What became of a host, in a word, and why.
pub(super) fn outcome_of(state: &HostState) -> (&'static str, Option<&Because>) {
    match state {
        // It was never told; who is skipped by a person has a reason.
        HostState::Waiting => ("skipped", None),
        HostState::Fetching | HostState::Promoting | HostState::Reverting => ("unfinished", None),
        state => (state.code(), state.because()),
    }
}

/// All of it.
pub(super) fn summarize(
    session: &Session,
    built: &Built,
    inventory: &Inventory,
    ended: &Ended,
    seed_bytes: u64,
    seconds: &Seconds,
) -> Summary {
    let hosts: Vec<Value> = ended
        .engine
        .hosts()
        .iter()
        .map(|(name, host)| {
            let (outcome, _) = outcome_of(&host.state);
            let because = rollout_status::reason(host);
            json!({
                "name": name.as_str(),
                "outcome": outcome,
                "bytes": {
                    "seed": host.bytes.seed, "peers": host.bytes.peers, "reuse": host.bytes.reuse,
                },
                "fetch_seconds": host.fetch.as_secs_f64(),
                "prepare_seconds": host.prepare.as_secs_f64(),
                "promote_seconds": host.promote.as_secs_f64(),
                "error": because.map(|because| &because.text),
                "code": because.map(|because| because.code),
                "touched": host.is_touched,
                "stale_since": host.stale_since.and_then(watch::time),
                "lost_count": host.has_lost_count,
                "saw": watch::saw(host),
            })
        })
        .collect();
    let total = seconds.total.as_secs_f64();
    let bound = inventory.bound_seconds(built.all.encoded_bytes);
    let code = match &ended.verdict {
        Verdict::Done => exit::DONE,
        Verdict::Partial => exit::PARTIAL,
        Verdict::Failed | Verdict::RollbackIncomplete(_) => exit::FAILED,
        Verdict::Stopped(_) | Verdict::TakenOver { .. } => exit::STOPPED,
        Verdict::RolledBack(_) => exit::ROLLED_BACK,
    };
    let waits = match &ended.verdict {
        Verdict::Stopped(on) => on.map(WaitingOn::code),
        _ => None,
    };
    let release = session.release.release();
    let slowest = |time: fn(&rollout::HostProgress) -> Duration| {
        let times = ended.engine.hosts().values().map(time);
        times.max().unwrap_or_default().as_secs_f64()
    };
    let json = json!({
        "schema": "scap.deploy/1",
        "repo": release.repo.as_str(),
        "environment": release.environment.as_str(),
        "release": session.release.id().to_string(),
        "sequence": release.sequence,
        "snapshot": built.snapshot.id.to_string(),
        "commit": release.commit.as_ref().map(ToString::to_string),
        "config_snapshot": release.config.map(|config| config.id.to_string()),
        "outcome": outcome(&ended.verdict),
        "code": ended.verdict.code(),
        "stopped_on": waits,
        "waves": rollout_status::waves(&ended.engine),
        "finalized": ended.is_finalized,
        "hosts": hosts,
        "shunned": rollout_status::shunned(&ended.engine),
        "seconds": {
            "connect": seconds.connect.as_secs_f64(),
            "snapshot": seconds.snapshot.as_secs_f64(),
            "deltas": seconds.deltas.as_secs_f64(),
            "fetch": slowest(|host| host.fetch),
            "prepare": slowest(|host| host.prepare),
            "promote": slowest(|host| host.promote),
            "rollout": seconds.rollout.as_secs_f64(),
            "total": total,
        },
        "spent_seconds": rollout_status::spent_json(&ended.engine.spent(Duration::ZERO)),
        "snapshot_bytes": built.descriptor.totals.bytes,
        "snapshot_encoded_bytes": built.all.encoded_bytes,
        "snapshot_entries": built.descriptor.totals.entries,
        "snapshot_entries_unchanged": built.kept_entries,
        "seed_bytes_sent": seed_bytes,
        "bound_ratio": bound.map(|bound| total / bound),
    });
    Summary {
        json,
        code,
        verdict: ended.verdict.clone(),
    }
}
