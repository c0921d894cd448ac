//! The daemon's part of the fleet trust: kept over restarts, told to those above and to peers, shown.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use scap_proto::{
    identity::{Identity, KeepError, install},
    reason::Reason,
    release::{TrustStanding, UnixMillis},
};

use super::{Daemon, RepoKey, control::ControlId};
use crate::{api::TrustView, relay::resolve, trust::FLEET_TRUST_FILE};

/// What it gets of it with its identity, when it is enrolled.
pub const ENROLLED_FILE: &str = install::TRUST_FILE;

/// Longest that a peer's address is looked up.
const RESOLVE_TIME_MAX: Duration = Duration::from_secs(5);

/// Why what is believed cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("keep whose certificates count in {path}")]
pub struct TrustKeptError {
    path: PathBuf,
    source: KeepError,
}

/// Believes what was kept, and what came with the identity, and keeps what is believed from now on.
pub(super) fn keep(identity: &Identity, from: &Path, data: &Path) -> Result<(), TrustKeptError> {
    let trust = identity.trust();
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| TrustKeptError { path, source }
    };
    let path = data.join(FLEET_TRUST_FILE);
    trust.keep_in(&path).map_err(failed(&path))?;
    let enrolled = from.join(ENROLLED_FILE);
    trust.learn_from(&enrolled).map_err(failed(&enrolled))?;
    if let Some(number) = trust.lost() {
        let code = Reason::TrustLost;
        tracing::error!(%code, path = %path.display(), number, "the fleet trust that was kept here is lost; until a peer or a coordinator hands it over again, who is revoked is let in");
    }
    tell_own(identity);
    Ok(())
}

/// Says so where this host itself is cut off: nobody else can tell its operator there.
fn tell_own(identity: &Identity) {
    if let Some(refusal) = identity.trust().cut_off(&identity.certificate()) {
        let code = refusal.code().map(|code| code.as_str().to_owned());
        let code = code.unwrap_or_default();
        let reason = crate::error_chain(&refusal);
        tracing::error!(code, reason, "this host is cut off: the others refuse it");
    }
}

impl Daemon {
    /// Another fleet trust counts: those above hear that it is here, and peers without a link to us what it is.
    pub(super) async fn trust_changed(&mut self) {
        tell_own(&self.trust.identity);
        let asked: Vec<(ControlId, RepoKey)> = self
            .controls
            .iter()
            .flat_map(|(id, above)| above.asked.iter().map(|key| (*id, key.clone())))
            .collect();
        for (id, key) in asked {
            if let Some(report) = self.report(&key).await {
                self.send(Some(id), &key, report);
            }
        }
        let us = &self.trust.addressee.host;
        let peers = self.config.catch_up.peers.iter();
        for peer in peers.filter(|peer| peer.name != *us) {
            let (node, peer) = (self.node.clone(), peer.clone());
            self.cleaning.spawn(async move {
                let addresses = [peer.address];
                let resolving = tokio::time::timeout(RESOLVE_TIME_MAX, resolve(&addresses));
                let Ok(Ok(addresses)) = resolving.await else {
                    return;
                };
                if let Err(error) = node.exchange_trust(&peer.name, &addresses).await {
                    let error = crate::error_chain(&error);
                    tracing::info!(peer = %peer.name, error, "a peer was not told which fleet trust counts");
                }
            });
        }
    }

    /// How this host stands in the fleet.
    pub(super) fn trust_standing(&self) -> TrustStanding {
        let identity = &self.trust.identity;
        let trust = identity.trust();
        let issuer = trust.issuer_of(&identity.certificate());
        let issuer = issuer.and_then(|key| key.first_chunk().copied());
        TrustStanding {
            mark: trust.mark(),
            issuer: issuer.unwrap_or_default(),
            expires: UnixMillis(identity.validity().not_after_unix_ms),
        }
    }

    pub(super) fn trust_view(&self) -> TrustView {
        let identity = &self.trust.identity;
        let trust = identity.trust();
        let own = trust.cut_off(&identity.certificate());
        TrustView::new(trust, own)
    }
}
