//! The clock; nothing else reads it.

use std::time::{SystemTime, UNIX_EPOCH};

use scap_proto::release::UnixMillis;

/// The wall clock, for what is signed, shown or compared with another host's time. Durations are
/// measured with [`std::time::Instant`].
pub fn now() -> UnixMillis {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMillis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
