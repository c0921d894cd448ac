//! The counters of hosts' reports, over all deployments from this state directory.
//!
//! A host's counter rises with each report, also over its restarts. So a report with one that was seen before is an old one, which
//! somebody kept and says again; or the host lost its record, and counts anew.

use std::{collections::BTreeMap, fs, io};

use scap_agent::store::durable;
use scap_proto::{codec, id::NodeId};

use super::{StateDirectory, StateError};

/// The first bytes of the file: kind and version. One of another version is as if it were not there.
const MAGIC: &[u8] = b"scap-coordinator-counters/1\n";
const NAME: &str = "counters";

impl StateDirectory {
    /// The highest counter of each host that was heard. A damaged file is as none: it only says what is old.
    pub fn counters(&self) -> BTreeMap<NodeId, u64> {
        let Ok(bytes) = fs::read(self.records().join(NAME)) else {
            return BTreeMap::new();
        };
        let read = || {
            let rest = bytes.strip_prefix(MAGIC)?;
            let (checksum, body) = rest.split_at_checked(blake3::OUT_LEN)?;
            let is_whole = blake3::hash(body).as_bytes() == checksum;
            codec::decode(body).ok().filter(|_| is_whole)
        };
        read().unwrap_or_default()
    }

    /// Keeps what was heard in a deployment, beside those of other hosts. Another one at the same time may have heard more; then
    /// the higher counts, but for `lost`: hosts that count anew.
    ///
    /// # Errors
    /// [`StateError::Io`]; what was kept before is.
    pub fn keep_counters(
        &self,
        heard: &BTreeMap<NodeId, u64>,
        lost: impl Fn(&NodeId) -> bool,
    ) -> Result<(), StateError> {
        let mut counters = self.counters();
        for (host, counter) in heard {
            let kept = counters.entry(host.clone()).or_default();
            *kept = if lost(host) {
                *counter
            } else {
                *counter.max(kept)
            };
        }
        let body = codec::encode(&counters);
        let bytes = [MAGIC, blake3::hash(&body).as_bytes(), &body].concat();
        let path = self.records().join(NAME);
        fs::create_dir_all(self.records())
            .and_then(|()| durable::replace_file(&path, &bytes))
            .map_err(|source: io::Error| StateError::Io {
                doing: "write",
                path,
                source,
            })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use scap_proto::release::UnixMillis;

    use super::*;

    #[test]
    fn counters_only_rise_but_for_hosts_that_lost_theirs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        StateDirectory::init(&path, &"test".parse().unwrap(), UnixMillis(1)).unwrap();
        let state = StateDirectory::open(&path).unwrap();
        let [a, b]: [NodeId; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        assert_eq!(state.counters(), BTreeMap::new());
        let keep = |of: &[(&NodeId, u64)], lost: Option<&NodeId>| {
            let heard = of.iter().map(|(host, counter)| ((*host).clone(), *counter));
            let is_lost = |host: &NodeId| lost == Some(host);
            state.keep_counters(&heard.collect(), is_lost).unwrap();
            let kept = state.counters();
            [kept.get(&a).copied(), kept.get(&b).copied()]
        };
        assert_eq!(keep(&[(&a, 5)], None), [Some(5), None]);
        assert_eq!(keep(&[(&a, 4), (&b, 9)], None), [Some(5), Some(9)]);
        assert_eq!(keep(&[(&a, 6), (&b, 2)], Some(&b)), [Some(6), Some(2)]);
        let file = state.records().join(NAME);
        let mut bytes = fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&file, bytes).unwrap();
        assert_eq!(state.counters(), BTreeMap::new());
    }
}
