//! Since when this host has heard nothing that is surely of today.
//!
//! An attacker on the path can hold back whatever is said to a host, and what is signed can be said again later: so only what is new
//! counts. That is an order or a finalization that was not followed before, and the answers of enough peers, which are asked over
//! links of their own. A host that hears nothing such for longer than its lease says so; it changes nothing of what it runs.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use scap_proto::{codec, release::UnixMillis};

use super::saved::SavedState;
use crate::{catchup::Settings, clock::Moment, store::durable};

/// The first bytes of the file: kind and version. One of another version is as if it were not there.
const MAGIC: &[u8] = b"scap-agent-fresh/1\n";
const NAME: &str = "fresh";

/// How often it is written at most. A lease is longer, and after a crash the host is taken for staler than it is by no more.
const SAVE_PERIOD: Duration = Duration::from_secs(30);

/// When something new was heard.
#[derive(Debug)]
pub(super) struct Freshness {
    /// How long it may hear nothing; without one it is never stale.
    lease: Option<Duration>,
    heard: Moment,
    path: PathBuf,
    saved: Option<Instant>,
}

impl Freshness {
    /// As it was kept; a host that never heard anything counts from now.
    pub(super) fn open(state: &SavedState, settings: &Settings) -> Self {
        let path = state.file_named(NAME);
        let kept = std::fs::read(&path).ok().and_then(|bytes| {
            let rest = bytes.strip_prefix(MAGIC)?;
            let (checksum, body) = rest.split_at_checked(blake3::OUT_LEN)?;
            let is_whole = blake3::hash(body).as_bytes() == checksum;
            codec::decode(body).ok().filter(|_| is_whole)
        });
        let mut freshness = Self {
            lease: settings.lease(),
            heard: kept.clone().unwrap_or_else(Moment::now),
            path,
            saved: None,
        };
        if kept.is_none() {
            freshness.save();
        }
        freshness
    }

    /// Something new was heard.
    pub(super) fn heard(&mut self) {
        self.heard = Moment::now();
        let is_due = self.saved.is_none_or(|at| at.elapsed() >= SAVE_PERIOD);
        if is_due {
            self.save();
        }
    }

    /// How long it may hear nothing.
    pub(super) fn lease(&self) -> Option<Duration> {
        self.lease
    }

    /// When it heard something new last.
    pub(super) fn heard_at(&self) -> UnixMillis {
        self.heard.wall
    }

    /// Since when it has heard nothing new, and how long that is, where its lease is over.
    pub(super) fn stale(&self, now: &Moment) -> Option<(UnixMillis, Duration)> {
        let silent = now.since(&self.heard);
        let lease = self.lease?;
        (silent > lease).then_some((self.heard.wall, silent))
    }

    fn save(&mut self) {
        self.saved = Some(Instant::now());
        let body = codec::encode(&self.heard);
        let bytes = [MAGIC, blake3::hash(&body).as_bytes(), &body].concat();
        if let Err(error) = durable::replace_file(&self.path, &bytes) {
            let path = self.path.display();
            tracing::warn!(%path, %error, "when news were heard is not kept");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn after(moment: &Moment, seconds: u64) -> Moment {
        Moment {
            up: moment.up + Duration::from_secs(seconds),
            ..moment.clone()
        }
    }

    #[test]
    fn b3_a_host_that_hears_nothing_new_for_longer_than_its_lease_is_stale_also_after_a_restart() {
        let data = tempfile::tempdir().unwrap();
        let (state, _) = SavedState::open(data.path()).unwrap();
        let settings = Settings {
            lease: Some(Duration::from_secs(60)),
            ..Settings::default()
        };
        let mut freshness = Freshness::open(&state, &settings);
        freshness.heard();
        let heard = freshness.heard.clone();
        assert_eq!(freshness.stale(&after(&heard, 60)), None);
        let stale = Some((heard.wall, Duration::from_secs(61)));
        assert_eq!(freshness.stale(&after(&heard, 61)), stale);

        freshness.save();
        let again = Freshness::open(&state, &settings);
        assert_eq!(again.heard, heard);
        assert_eq!(again.stale(&after(&heard, 61)), stale);
        let without = Freshness::open(&state, &Settings::default());
        assert_eq!(without.stale(&after(&heard, 1_000_000)), None);
        // What is damaged counts for nothing.
        let path = data.path().join("state/fresh");
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let damaged = Freshness::open(&state, &settings);
        assert_ne!(damaged.heard, heard);
    }
}
