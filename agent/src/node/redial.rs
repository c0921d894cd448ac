//! Dialling a peer until it answers.

use std::{net::SocketAddr, time::Duration};

use scap_proto::{id::NodeId, transport::Link};

use super::Shared;

/// First and longest pause before a peer is dialled again, in seconds. A peer that restarts is back in a
/// few; one that is down costs little.
const REDIAL_SECS: (u64, u64) = (1, 15);

impl Shared {
    /// Dials until there is a link, with growing pauses. Cancel-safe.
    pub(super) async fn dial_until_linked(&self, name: &NodeId, addresses: &[SocketAddr]) -> Link {
        let (mut pause, pause_max) = REDIAL_SECS;
        loop {
            match self.dial(name, addresses).await {
                Ok(link) => return link,
                Err(error) => {
                    let error = crate::error_chain(&error);
                    tracing::debug!(peer = %name, error, "peer was not reached; trying again");
                }
            }
            tokio::time::sleep(Duration::from_secs(pause)).await;
            pause = (2 * pause).min(pause_max);
        }
    }
}
