//! The daemon's own certificate: it takes the next one, and warns before there is none.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use scap_proto::{
    identity::Life,
    release::{SignedRenewal, report::bounded_reason},
    wire::renewal::RenewalAnswer,
};

use tokio::sync::Semaphore;

use super::Daemon;
use crate::{
    api::IdentityView,
    clock, error_chain,
    node::RenewalAsked,
    trust::{HostTrust, NotRenewed},
};

/// How often the log says that the certificate is to be renewed: once a day is seen, and is not noise.
const WARNING_PERIOD: Duration = Duration::from_secs(24 * 3600);

/// What the daemon is at with its certificate.
#[derive(Debug)]
pub(super) struct Renewing {
    /// When it warned last, and of what.
    warned: Option<(Instant, Life)>,
    /// Held by the renewal that is being looked at of those that came down: whoever is enrolled can send more of them than
    /// can be looked at, and what is dropped comes again.
    turn: Arc<Semaphore>,
}

impl Default for Renewing {
    fn default() -> Self {
        Self {
            warned: None,
            turn: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Renewing {
    /// Whether to warn: at once when it has come to something worse, and then once in a while.
    fn is_due(&mut self, life: Life, now: Instant) -> bool {
        let is_new = match self.warned {
            Some((at, told)) => told != life || now.duration_since(at) >= WARNING_PERIOD,
            None => true,
        };
        if is_new {
            self.warned = Some((now, life));
        }
        is_new && life != Life::Good
    }
}

impl Daemon {
    /// A coordinator gives us the next certificate, on a link for that.
    pub(super) fn renewal_asked(&mut self, asked: RenewalAsked) {
        let trust = self.trust.clone();
        self.cleaning.spawn(async move {
            let from = asked.coordinator.clone();
            let answer = match take(trust, asked.request.clone()).await {
                Ok(until_unix_ms) => RenewalAnswer::Installed { until_unix_ms },
                Err(error) => {
                    let reason = bounded_reason(error_chain(&error));
                    tracing::warn!(%from, reason, "the next certificate is not taken");
                    match error.is_ours() {
                        true => RenewalAnswer::Failed(reason),
                        false => RenewalAnswer::Refused(reason),
                    }
                }
            };
            asked.answer(answer).await;
        });
    }

    /// A renewal came down a control tree, where it is for us.
    pub(super) fn renewal(&mut self, signed: SignedRenewal) {
        if signed.host_unverified().as_ref() != Some(&self.trust.addressee.host) {
            return;
        }
        let Ok(turn) = self.renewing.turn.clone().try_acquire_owned() else {
            return;
        };
        let trust = self.trust.clone();
        self.cleaning.spawn(async move {
            let _turn = turn;
            match take(trust, signed).await {
                Err(error) if error.is_repeat() => {}
                Err(error) => {
                    let reason = error_chain(&error);
                    tracing::warn!(reason, "the next certificate is not taken");
                }
                Ok(_) => {}
            }
        });
    }

    /// Says in the log, once a day, that the certificate is to be renewed.
    pub(super) fn warn_of_the_end(&mut self) {
        let identity = &self.trust.identity;
        let life = identity.validity().life(clock::now().0);
        if !self.renewing.is_due(life, Instant::now()) {
            return;
        }
        let view = IdentityView::new(identity, clock::now());
        let (until, days_left) = (view.valid_until, view.valid_seconds_left / (24 * 3600));
        match life {
            Life::Good => {}
            Life::Due => tracing::warn!(
                %until, days_left,
                "this host's certificate is to be renewed: the next deployment does, or `scap-coordinator renew`"
            ),
            Life::Expired => tracing::error!(
                %until,
                "this host's certificate has expired: nobody talks to this host until `scap-coordinator renew` renews it"
            ),
            Life::Over => tracing::error!(
                %until,
                "this host's certificate has expired for too long to be renewed: enroll the host again"
            ),
            Life::Early => tracing::error!(
                from = %view.valid_from,
                "this host's certificate is not valid yet: clock skew; set the clock of this host"
            ),
        }
    }
}

/// Takes a renewal on the blocking pool, and says so in the log.
async fn take(trust: Arc<HostTrust>, signed: SignedRenewal) -> Result<u64, NotRenewed> {
    let renew = move || trust.renew(&signed, clock::now());
    let renewed = tokio::task::spawn_blocking(renew).await;
    let valid = renewed.expect("renewing does not panic")?;
    tracing::info!(
        until = %clock::timestamp(valid.not_after_unix_ms),
        "this host's certificate is renewed"
    );
    Ok(valid.not_after_unix_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_warns_at_once_and_then_once_a_day_and_not_of_what_is_good() {
        let (mut renewing, start) = (Renewing::default(), Instant::now());
        let hour = Duration::from_secs(3600);
        assert!(!renewing.is_due(Life::Good, start));
        assert!(renewing.is_due(Life::Due, start));
        assert!(!renewing.is_due(Life::Due, start + 23 * hour));
        assert!(renewing.is_due(Life::Due, start + 24 * hour));
        assert!(renewing.is_due(Life::Expired, start + 25 * hour));
        assert!(!renewing.is_due(Life::Good, start + 26 * hour));
        assert!(renewing.is_due(Life::Due, start + 27 * hour));
    }
}
