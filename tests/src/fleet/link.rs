//! What a station's link carries: its rates, and the bytes counted on it.

use std::process::Command;

use serde::Deserialize;

/// A link's speed limits, megabits per second; without one it is as fast as the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rate {
    /// From the station to the bridge.
    pub up_mbit: Option<u32>,
    /// From the bridge to the station.
    pub down_mbit: Option<u32>,
}

impl Rate {
    /// The same limit both ways; each way is limited by itself.
    #[must_use]
    pub fn symmetric(mbit: u32) -> Self {
        Self {
            up_mbit: Some(mbit),
            down_mbit: Some(mbit),
        }
    }
}

/// Bytes that passed the device of a station, or of a site at its border, since it was made; packets
/// that the sender handed over in one piece count their headers once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// What it received.
    pub received_bytes: u64,
    /// What it sent.
    pub sent_bytes: u64,
}

impl Counters {
    /// What has passed since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            received_bytes: self.received_bytes - earlier.received_bytes,
            sent_bytes: self.sent_bytes - earlier.sent_bytes,
        }
    }

    pub(crate) fn read(namespace: &str, device: &str) -> Self {
        let output = Command::new("ip")
            .args([
                "-n", namespace, "-json", "-stats", "link", "show", "dev", device,
            ])
            .output()
            .expect("`ip` made the fleet");
        let links: Vec<Link> = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!(
                "counters of {namespace}: {error}: {}",
                String::from_utf8_lossy(&output.stderr)
            )
        });
        let stats = &links.first().expect("the device exists").stats64;
        Self {
            received_bytes: stats.rx.bytes,
            sent_bytes: stats.tx.bytes,
        }
    }
}

/// What the queue of a device let through, every packet with its headers; `None` where it has no `tbf` queue.
pub(crate) fn passed_bytes(namespace: &str, device: &str) -> Option<u64> {
    let output = Command::new("tc")
        .args([
            "-n", namespace, "-json", "-stats", "qdisc", "show", "dev", device,
        ])
        .output()
        .expect("`tc` made the fleet");
    let queues: Vec<Queue> = serde_json::from_slice(&output.stdout).ok()?;
    let queue = queues.into_iter().find(|queue| queue.kind == "tbf")?;
    Some(queue.bytes)
}

#[derive(Deserialize)]
struct Queue {
    kind: String,
    bytes: u64,
}

#[derive(Deserialize)]
struct Link {
    stats64: Stats,
}

#[derive(Deserialize)]
struct Stats {
    rx: Direction,
    tx: Direction,
}

#[derive(Deserialize)]
struct Direction {
    bytes: u64,
}

/// The `tc` command that limits what leaves a device.
pub(crate) fn tbf(device: &str, mbit: u32) -> String {
    let bytes_per_sec = u64::from(mbit) * 1_000_000 / 8;
    let burst = (bytes_per_sec * BURST_MILLIS / 1000).max(BURST_BYTES_MIN);
    let limit = burst + (bytes_per_sec * QUEUE_MILLIS / 1000).max(QUEUE_BYTES_MIN);
    format!("qdisc replace dev {device} root tbf rate {mbit}mbit burst {burst} limit {limit}\n")
}

/// What may pass at once. A timer that fires 2 ms late, as on a busy machine, must not cost rate.
const BURST_MILLIS: u64 = 2;

/// Two packets of the longest that the kernel hands a veth in one piece (64 KiB).
const BURST_BYTES_MIN: u64 = 128 * 1024;

/// What waits when a link is full: a switch port's worth, and not so much that delays of it hide
/// what the software does.
const QUEUE_MILLIS: u64 = 20;

/// Room for a few of the longest packets on slow links.
const QUEUE_BYTES_MIN: u64 = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_link_still_takes_the_longest_packets() {
        assert_eq!(
            tbf("eth0", 10),
            "qdisc replace dev eth0 root tbf rate 10mbit burst 131072 limit 393216\n"
        );
    }

    #[test]
    fn a_fast_link_bursts_for_two_milliseconds() {
        assert_eq!(
            tbf("p1", 1000),
            "qdisc replace dev p1 root tbf rate 1000mbit burst 250000 limit 2750000\n"
        );
    }
}
