//! `scap-agent metrics`: what `status` says in numbers, as OpenMetrics text for whatever collects it.

use std::{io::Write, path::PathBuf, sync::atomic::AtomicU64};

use clap::Args;
use jiff::Timestamp;
use prometheus_client::{
    encoding::text,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use serde_json::Value;

use super::{LocalArgs, exit};
use crate::config::DATA_DIRECTORY;

#[derive(Debug, Args)]
pub(super) struct MetricsArgs {
    /// The data directory of the daemon to ask
    #[arg(long, value_name = "DIR", default_value = DATA_DIRECTORY)]
    data: PathBuf,
}

impl MetricsArgs {
    pub(super) fn local(self) -> LocalArgs {
        LocalArgs {
            data: self.data,
            json: false,
        }
    }
}

/// Prints `scap.agent-status/1` as metrics.
pub(super) fn print(status: &Value, out: &mut dyn Write) -> u8 {
    let written = match exposed(status) {
        Ok(text) => out.write_all(text.as_bytes()),
        Err(error) => Err(std::io::Error::other(error)),
    };
    match written {
        Ok(()) => exit::DONE,
        Err(_) => exit::FAILED,
    }
}

type Labels = Vec<(&'static str, String)>;

/// Gauges of one name, with what tells them apart.
struct Gauges<'a>(&'a mut Registry);

impl Gauges<'_> {
    fn say(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, Option<f64>)>,
    ) {
        let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
        let mut is_any = false;
        for (labels, value) in values {
            if let Some(value) = value {
                family.get_or_create(&labels).set(value);
                is_any = true;
            }
        }
        if is_any {
            self.0.register(format!("scap_agent_{name}"), help, family);
        }
    }

    fn one(&mut self, name: &str, help: &str, value: Option<f64>) {
        if let Some(value) = value {
            let gauge = Gauge::<f64, AtomicU64>::default();
            gauge.set(value);
            self.0.register(format!("scap_agent_{name}"), help, gauge);
        }
    }
}

fn exposed(status: &Value) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::default();
    let mut gauges = Gauges(&mut registry);
    of_host(status, &mut gauges);
    for (name, help, key) in OF_RELEASES {
        let value = |release: &Value| (repo(release), number(&release[key]));
        gauges.say(name, help, releases(status).map(value));
    }
    let fetched = releases(status).flat_map(|release| {
        ["seed", "peers", "reuse"].map(|source| {
            let labels = [repo(release), vec![("source", source.to_owned())]].concat();
            (labels, number(&release["bytes"][source]))
        })
    });
    let help = "Bytes of the release by where they came from";
    gauges.say("release_bytes", help, fetched);
    let waiting = releases(status).filter_map(|release| {
        let code = release["code"].as_str()?;
        let labels = [repo(release), vec![("code", code.to_owned())]].concat();
        Some((labels, Some(1.0)))
    });
    let help = "1 for what a release failed with or waits for, by its reason code";
    gauges.say("release_reason", help, waiting);
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

fn of_host(status: &Value, gauges: &mut Gauges<'_>) {
    let (identity, freshness) = (&status["identity"], &status["freshness"]);
    let until = seconds(&identity["valid_until"]);
    let help = "When this host's certificate expires, in seconds since 1970";
    gauges.one("certificate_expiry_timestamp_seconds", help, until);
    let help = "For how long nothing new was heard beyond the lease; 0 while all is well";
    gauges.one("stale_seconds", help, number(&freshness["stale_secs"]));
    let help = "When something new was heard last, in seconds since 1970";
    gauges.one(
        "heard_timestamp_seconds",
        help,
        seconds(&freshness["heard"]),
    );
    let trust = &status["trust"];
    let help = "The number of the fleet trust that this host holds to";
    gauges.one("trust_number", help, number(&trust["number"]));
    let lost = f64::from(u8::from(!trust["lost"].is_null()));
    gauges.one("trust_lost", "1 where a later one was lost", Some(lost));
    let confined = status["confinement"]["level"].as_str();
    let confined = confined.map(|level| f64::from(u8::from(level == "full")));
    let help = "1 where the kernel confines the daemon in all respects";
    gauges.one("confined", help, confined);
    for (name, help, key) in OF_HOST {
        gauges.one(name, help, number(&status[key]));
    }
    let shunned = status["shunned"].as_array();
    let count = shunned.map(|peers| peers.len() as f64);
    gauges.one("peers_shunned", "Peers that are shunned now", count);
    let saw = status["saw"].as_array().into_iter().flatten();
    let saw = saw.filter_map(|seen| {
        let label = |key: &'static str| Some((key, seen[key].as_str()?.to_owned()));
        let labels = [label("code"), label("peer")].into_iter().flatten();
        Some((labels.collect(), Some(number(&seen["count"])?)))
    });
    let help = "What was seen of attacks in the last day, by its reason code and who it came by";
    gauges.say("seen", help, saw);
}

/// Numbers of the host by the field that has them.
const OF_HOST: [(&str, &str, &str); 3] = [
    ("store_chunks", "Chunks in the store", "store_chunks"),
    ("store_bytes", "Bytes of chunks in the store", "store_bytes"),
    (
        "first_packets_dropped",
        "First packets of handshakes that were dropped unread since the start",
        "first_packets_dropped",
    ),
];

/// Numbers of releases by the field that has them.
const OF_RELEASES: [(&str, &str, &str); 5] = [
    (
        "release_sequence",
        "The sequence that was ordered last",
        "sequence",
    ),
    (
        "release_finalized_sequence",
        "The sequence that was finalized last",
        "finalized_sequence",
    ),
    ("release_live", "1 where that is live", "live"),
    ("release_chunks_held", "Chunks of it here", "chunks_held"),
    ("release_chunks", "Chunks that it has", "chunks_total"),
];

fn releases(status: &Value) -> impl Iterator<Item = &Value> {
    status["releases"].as_array().into_iter().flatten()
}

fn repo(release: &Value) -> Labels {
    let label = |key: &'static str| (key, release[key].as_str().unwrap_or_default().to_owned());
    vec![label("repo"), label("environment")]
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(is) => Some(f64::from(u8::from(*is))),
        value => value.as_f64(),
    }
}

fn seconds(value: &Value) -> Option<f64> {
    let time: Timestamp = value.as_str()?.parse().ok()?;
    Some(time.as_second() as f64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_is_text_that_collectors_read_and_what_is_not_known_is_left_out() {
        let status = json!({
            "identity": { "valid_until": "2027-01-01T00:00:00Z" },
            "freshness": { "stale_secs": 61, "heard": null },
            "trust": { "number": 7, "lost": null },
            "confinement": { "level": "partial" },
            "store_chunks": 3, "store_bytes": null, "first_packets_dropped": 0,
            "shunned": [{}],
            "saw": [{ "code": "wrong-bytes", "peer": "web5", "count": 2 }],
            "releases": [{
                "repo": "web/site", "environment": "production", "sequence": 4, "finalized_sequence": 3,
                "live": true, "chunks_held": 5, "chunks_total": 9, "code": "no-peers",
                "bytes": { "seed": 1, "peers": 2, "reuse": 3 },
            }],
        });
        let text = exposed(&status).unwrap();
        let of = r#"repo="web/site",environment="production""#;
        for line in [
            "scap_agent_certificate_expiry_timestamp_seconds 1798761600.0",
            "scap_agent_stale_seconds 61.0",
            "scap_agent_confined 0.0",
            "scap_agent_trust_lost 0.0",
            "scap_agent_peers_shunned 1.0",
            r#"scap_agent_seen{code="wrong-bytes",peer="web5"} 2.0"#,
            &format!("scap_agent_release_live{{{of}}} 1.0"),
            &format!("scap_agent_release_bytes{{{of},source=\"peers\"}} 2.0"),
            &format!("scap_agent_release_reason{{{of},code=\"no-peers\"}} 1.0"),
        ] {
            assert!(text.lines().any(|it| it == line), "no {line} in\n{text}");
        }
        for unknown in ["heard_timestamp", "store_bytes"] {
            assert!(!text.contains(unknown), "{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
