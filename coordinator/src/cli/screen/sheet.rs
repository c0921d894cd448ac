//! What does not change while a deployment goes on, and is shown all the same.

use std::{sync::Arc, time::Duration};

use scap_proto::id::GitOid;

use crate::{
    cli::About,
    fleet::{Inventory, places::Places},
};

/// All of it.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Sheet {
    pub(in crate::cli) about: About,
    /// What the environment was on.
    pub(in crate::cli) from: Option<GitOid>,
    /// What it is to be on.
    pub(in crate::cli) to: Option<GitOid>,
    /// Of the commit. Not escaped.
    pub(in crate::cli) subject: Option<String>,
    /// Of the commit, without the mail address. Not escaped.
    pub(in crate::cli) author: Option<String>,
    /// The id of this run, as the lock has it.
    pub(in crate::cli) rollout: String,
    /// Encoded bytes that no earlier snapshot has here, and all.
    pub(in crate::cli) new_bytes: u64,
    pub(in crate::cli) all_bytes: u64,
    /// How long it takes at least to bring a byte to all hosts, in seconds; none where it is not known how fast they are.
    pub(in crate::cli) seconds_per_byte: Option<f64>,
    /// How long somebody is waited for when too many hosts are not reached; none for as long as it takes.
    pub(in crate::cli) budget_hold: Option<Duration>,
    /// The same for an approval.
    pub(in crate::cli) approval_hold: Option<Duration>,
    /// Who is above whom.
    pub(in crate::cli) places: Arc<Places>,
}

impl Sheet {
    /// How long a byte takes at least. The bound is linear in the bytes.
    pub(in crate::cli) fn bound(inventory: &Inventory) -> Option<f64> {
        const BYTES: u32 = 1 << 30;
        let seconds = inventory.bound_seconds(u64::from(BYTES))?;
        Some(seconds / f64::from(BYTES))
    }
}
