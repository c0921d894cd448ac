//! What passes devices, watched closely enough to judge every second.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use super::Counters;
use super::netns;

/// A device whose counters can be read from any thread, at the cost of one read.
#[derive(Debug)]
pub struct Device {
    /// The devices of its namespace and their counters, as the kernel writes them.
    table: File,
    name: String,
}

impl Device {
    pub(crate) fn open(namespace: &str, name: &str) -> Self {
        // The file shows the namespace that it was opened in.
        let table = netns::inside(namespace, || File::open("/proc/thread-self/net/dev"));
        Self {
            table: table.expect("/proc is mounted"),
            name: format!("{name}:"),
        }
    }

    /// What has passed it so far.
    ///
    /// # Panics
    /// When it is gone.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut text = vec![0; TABLE_BYTES_MAX];
        let length = self.table.read_at(&mut text, 0).expect("it is open");
        let text = String::from_utf8_lossy(&text[..length]);
        let line = text
            .lines()
            .find_map(|line| line.trim_start().strip_prefix(&self.name));
        let fields = line
            .expect("the fleet keeps its devices")
            .split_whitespace();
        let fields: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
        Counters {
            received_bytes: fields[0],
            sent_bytes: fields[8],
        }
    }
}

/// Devices that are being watched.
pub struct Watch {
    done: Arc<AtomicBool>,
    watcher: JoinHandle<Vec<Series>>,
}

impl Watch {
    /// Looks at all of them every [`WATCH_EVERY`] from now on.
    #[must_use]
    pub fn start(devices: impl IntoIterator<Item = Device>) -> Self {
        let devices: Vec<Device> = devices.into_iter().collect();
        let done = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&done);
        let watcher = std::thread::spawn(move || {
            let mut all = vec![Series::default(); devices.len()];
            while !until.load(Ordering::Relaxed) {
                for (device, series) in devices.iter().zip(&mut all) {
                    // The earlier of the times around a look, so that no span looks longer than it was.
                    series.samples.push((Instant::now(), device.counters()));
                }
                sleep(WATCH_EVERY);
            }
            all
        });
        Self { done, watcher }
    }

    /// What was seen of each, in order.
    ///
    /// # Panics
    /// When a device is gone.
    #[must_use]
    pub fn stop(self) -> Vec<Series> {
        self.done.store(true, Ordering::Relaxed);
        self.watcher.join().expect("the devices are there")
    }
}

/// What passed one device by when.
#[derive(Debug, Clone, Default)]
pub struct Series {
    samples: Vec<(Instant, Counters)>,
}

impl Series {
    /// What was seen from then on.
    #[must_use]
    pub fn from(&self, from: Instant) -> Self {
        let later = self.samples.iter().filter(|(at, _)| *at >= from);
        Self {
            samples: later.copied().collect(),
        }
    }

    /// What was seen up to then.
    #[must_use]
    pub fn until(&self, until: Instant) -> Self {
        let earlier = self.samples.iter().filter(|(at, _)| *at <= until);
        Self {
            samples: earlier.copied().collect(),
        }
    }

    /// The most by which one second, between any two looks, went over a cap of so many megabits per second and
    /// 2 %, in bytes; below 0 where none did.
    ///
    /// # Panics
    /// When it was watched for less than a second.
    #[must_use]
    pub fn excess_bytes(&self, cap_mbit: u32, of: fn(&Counters) -> u64) -> i64 {
        let (Some(first), Some(last)) = (self.samples.first(), self.samples.last()) else {
            panic!("nothing was watched")
        };
        let watched = last.0 - first.0;
        assert!(watched > Duration::from_secs(1), "watched for {watched:?}");
        let passed = i64::try_from(self.most_bytes(of)).expect("far from that");
        passed - i64::from(cap_mbit) * 1_020_000 / 8
    }

    /// The most that passed in one second, in bytes.
    #[must_use]
    pub fn most_bytes(&self, of: fn(&Counters) -> u64) -> u64 {
        let mut most = 0;
        for (index, (from, before)) in self.samples.iter().enumerate() {
            let later = self.samples[index..].iter();
            let second = later.take_while(|(to, _)| *to - *from <= Duration::from_secs(1));
            let passed = second.map(|(_, after)| of(after) - of(before));
            most = most.max(passed.last().unwrap_or(0));
        }
        most
    }
}

/// How often [`Watch`] looks.
pub const WATCH_EVERY: Duration = Duration::from_millis(50);

/// Some 120 bytes a device.
const TABLE_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_that_goes_over_is_found() {
        let start = Instant::now();
        let mut series = Series::default();
        let mut sent_bytes = 0;
        for tick in 0..100_u32 {
            // 8 Mbit/s, and 50 kB at once in the middle.
            sent_bytes += 50_000 * u64::from(tick != 0) + 50_000 * u64::from(tick == 50);
            let counters = Counters {
                received_bytes: 0,
                sent_bytes,
            };
            let at = start + tick * Duration::from_millis(50);
            series.samples.push((at, counters));
        }
        let sent = |it: &Counters| it.sent_bytes;
        assert_eq!(series.excess_bytes(8, sent), 30_000);
        assert_eq!(series.most_bytes(sent), 1_050_000);
        let later = series.from(start + Duration::from_millis(2500));
        assert_eq!(later.excess_bytes(8, sent), -20_000);
    }
}
