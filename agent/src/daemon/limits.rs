//! The caps that count, and how much of the network is in use.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use scap_proto::{
    release::UnixMillis,
    transport::{Rate, RateCaps, Traffic},
};

use super::Daemon;
use crate::{
    api::{LimitView, LimitsView},
    clock,
    limits::{Cap, Caps, Direction, Limits},
};

/// Over how long a rate is measured.
const RATE_SPAN: Duration = Duration::from_secs(1);

/// What limits the agent's traffic, from wherever it is said.
#[derive(Debug)]
pub(super) struct Limiter {
    configured: Limits,
    /// What a command said, until the next start.
    asked: Caps,
    /// Of the last second and a little more, the oldest first.
    samples: VecDeque<(Instant, Traffic)>,
}

impl Limiter {
    pub(super) fn new(configured: Limits) -> Self {
        Self {
            configured,
            asked: Caps::default(),
            samples: VecDeque::new(),
        }
    }

    /// The configuration says something else.
    pub(super) fn configure(&mut self, configured: Limits) {
        self.configured = configured;
    }

    /// A command says something; with `reset` it first takes back what commands said.
    pub(super) fn ask(&mut self, reset: bool, caps: Caps) {
        let below = if reset { Caps::default() } else { self.asked };
        self.asked = caps.over(below);
    }

    pub(super) fn caps(&self, now: UnixMillis) -> RateCaps {
        self.configured.caps_at(&self.asked, now)
    }

    /// So much has passed by now.
    pub(super) fn sample(&mut self, now: Instant, traffic: Traffic) {
        self.samples.push_back((now, traffic));
        // The one that is as old as the span stays, and none before it.
        while self
            .samples
            .get(1)
            .is_some_and(|(at, _)| *at + RATE_SPAN <= now)
        {
            self.samples.pop_front();
        }
    }

    pub(super) fn view(&self, now: UnixMillis) -> LimitsView {
        let view = |of, bytes: fn(&Traffic) -> u64| {
            let (rate, source) = self.configured.cap(of, &self.asked, now);
            LimitView {
                cap_mbit: rate.map(Rate::mbit),
                source,
                rate_mbit: self.rate_mbit(bytes),
            }
        };
        LimitsView {
            schema: "scap.limits/1",
            upload: view(Direction::Upload, |it| it.sent_bytes),
            download: view(Direction::Download, |it| it.received_bytes),
            border_upload: view(Direction::BorderUpload, |it| it.border_sent_bytes),
            border_download: view(Direction::BorderDownload, |it| it.border_received_bytes),
        }
    }

    fn rate_mbit(&self, bytes: fn(&Traffic) -> u64) -> f64 {
        let (Some((from, before)), Some((to, after))) = (self.samples.front(), self.samples.back())
        else {
            return 0.0;
        };
        let seconds = (*to - *from).as_secs_f64();
        if seconds == 0.0 {
            return 0.0;
        }
        let mbit = (bytes(after) - bytes(before)) as f64 * 8.0 / 1e6 / seconds;
        (mbit * 100.0).round() / 100.0
    }
}

impl Daemon {
    /// Has the node keep to the caps that count now.
    pub(super) fn apply_limits(&self) {
        let caps = self.limiter.caps(clock::now());
        let before = self.node.set_caps(caps);
        if before != caps {
            let text = |cap: Option<Rate>| Cap(cap).to_string();
            tracing::info!(
                upload = text(caps.upload),
                download = text(caps.download),
                border_upload = text(caps.border_upload),
                border_download = text(caps.border_download),
                "limits changed"
            );
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_second() {
        let mut limiter = Limiter::new(Limits::default());
        let start = Instant::now();
        assert!(limiter.view(UnixMillis(0)).upload.rate_mbit.abs() < 1e-9);
        let mut traffic = Traffic::default();
        for tick in 0..40_u32 {
            // 8 Mbit/s for five seconds, then 16.
            traffic.sent_bytes += if tick < 20 { 250_000 } else { 500_000 };
            limiter.sample(start + tick * Duration::from_millis(250), traffic);
            if tick == 19 {
                assert!((limiter.view(UnixMillis(0)).upload.rate_mbit - 8.0).abs() < 1e-9);
            }
        }
        let view = limiter.view(UnixMillis(0));
        assert!((view.upload.rate_mbit - 16.0).abs() < 1e-9);
        assert!(view.download.rate_mbit.abs() < 1e-9);
        assert_eq!(limiter.samples.len(), 5);
    }
}
