//! Caps on what an endpoint sends and receives, held on the wire: Ethernet, IP and UDP headers, acknowledgements,
//! retransmissions and probes count.
//!
//! # What leaves
//! The socket lets packets through as a token bucket allows, so nothing leaves uncounted. Links take turns, and short packets
//! (acknowledgements, requests, reports) are let through before them.
//!
//! # What arrives
//! No socket can refuse what was sent. But a peer may send only as much as it has credit for, and credit comes with
//! reading: all that arrives is counted, content is read only while less has arrived than may, and the windows
//! of all links that content is expected from add up to a small pool. So over any span no more arrives than the rate allows
//! and that pool. Messages are always read.
//!
//! # Borders
//! Links to another site, which their user names with [`Link::set_border`](super::Link::set_border), can have caps of their
//! own; what crosses counts for both.

mod bucket;
mod content;
mod socket;
mod uplink;
mod windows;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::SocketAddr,
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use quinn::{Connection, VarInt};
use tokio::sync::Notify;

use self::{
    bucket::Bucket,
    socket::Turn,
    uplink::{Uplink, set_rate},
    windows::{Change, LinkNumber, Windows},
};
use super::link::canonical;

pub use self::content::Content;
pub(super) use self::{
    content::Registered,
    socket::{PacedRuntime, PacedSocket},
};

/// A rate of bytes on the wire, 1 to [`Self::MBIT_MAX`] Mbit/s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate {
    mbit: u32,
}

impl Rate {
    /// The fastest interfaces that there are. Who has one needs no cap near it.
    pub const MBIT_MAX: u32 = 800_000;

    /// From megabits (1,000,000 bits) per second; `None` where that is 0 or more than there is.
    pub fn from_mbit(mbit: u32) -> Option<Self> {
        (1..=Self::MBIT_MAX)
            .contains(&mbit)
            .then_some(Self { mbit })
    }

    /// In megabits per second.
    pub fn mbit(self) -> u32 {
        self.mbit
    }

    /// In bytes per second.
    pub fn bytes_per_sec(self) -> u64 {
        u64::from(self.mbit) * 1_000_000 / 8
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let mbit = text.parse().ok();
        mbit.and_then(Self::from_mbit).ok_or(RateError)
    }
}

/// Not a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a rate in Mbit/s: a whole number from 1 to {}", Rate::MBIT_MAX)]
pub struct RateError;

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} Mbit/s", self.mbit)
    }
}

/// The most that may pass, each way; `None` is no cap. In no second does more pass than the cap, 2 % of it and 64 KiB; but of
/// what arrives only peers keep to it, and only for what they were not allowed to send before the cap was set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateCaps {
    /// All that leaves.
    pub upload: Option<Rate>,
    /// All that arrives.
    pub download: Option<Rate>,
    /// Of that which leaves, what goes to other sites.
    pub border_upload: Option<Rate>,
    /// Of that which arrives, what comes from other sites.
    pub border_download: Option<Rate>,
}

/// Bytes on the wire since an endpoint was opened, headers included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// All that left.
    pub sent_bytes: u64,
    /// All that arrived.
    pub received_bytes: u64,
    /// Of that which left, what went to other sites.
    pub border_sent_bytes: u64,
    /// Of that which arrived, what came from other sites.
    pub border_received_bytes: u64,
}

/// What all links of an endpoint share about its caps.
#[derive(Debug)]
pub(super) struct Pace {
    caps: Mutex<RateCaps>,
    /// Whether [`Self::uplink`] has anything to say; without a cap nobody looks into it.
    is_upload_capped: AtomicBool,
    uplink: Mutex<Uplink<Weak<Turn>>>,
    /// Somebody began to wait, or the caps are others.
    uplink_changed: Notify,
    /// What one link hands to the socket at once, in bytes; over a border; 0 without a cap.
    turn_bytes: AtomicU64,
    border_turn_bytes: AtomicU64,
    /// The longest datagram that was sent, in bytes of payload.
    datagram_bytes: AtomicUsize,
    is_download_capped: AtomicBool,
    downlink: Mutex<Downlink>,
    links: Mutex<Links>,
    has_border: AtomicBool,
    /// Where links to other sites lead, and how many do.
    border: RwLock<HashMap<SocketAddr, usize>>,
    sent: Counter,
    received: Counter,
}

#[derive(Debug, Default)]
struct Counter {
    all: AtomicU64,
    border: AtomicU64,
}

#[derive(Debug, Default)]
struct Downlink {
    all: Option<Bucket>,
    border: Option<Bucket>,
}

#[derive(Debug)]
struct Links {
    next: LinkNumber,
    connections: BTreeMap<LinkNumber, Connection>,
    windows: Windows,
}

impl Links {
    fn tell(&self, changes: Vec<Change>) {
        for (link, bytes) in changes {
            let window = VarInt::from_u64(bytes).expect("no window is longer than a full one");
            self.connections[&link].set_receive_window(window);
        }
    }
}

impl Pace {
    pub(super) fn new(window_bytes: u32) -> Self {
        Self {
            caps: Mutex::default(),
            is_upload_capped: AtomicBool::new(false),
            uplink: Mutex::default(),
            uplink_changed: Notify::new(),
            turn_bytes: AtomicU64::new(0),
            border_turn_bytes: AtomicU64::new(0),
            datagram_bytes: AtomicUsize::new(ETHERNET_PAYLOAD_BYTES),
            is_download_capped: AtomicBool::new(false),
            downlink: Mutex::default(),
            links: Mutex::new(Links {
                next: 0,
                connections: BTreeMap::new(),
                windows: Windows::new(window_bytes.into()),
            }),
            has_border: AtomicBool::new(false),
            border: RwLock::default(),
            sent: Counter::default(),
            received: Counter::default(),
        }
    }

    pub(super) fn caps(&self) -> RateCaps {
        *lock(&self.caps)
    }

    /// Other caps from now on; returns those before.
    pub(super) fn set_caps(&self, caps: RateCaps) -> RateCaps {
        // Held to the end, so that of two changes one is whole before the other begins.
        let mut current = lock(&self.caps);
        let before = std::mem::replace(&mut *current, caps);
        if before == caps {
            return before;
        }
        let now = Instant::now();

        let lowest = caps.upload.into_iter().chain(caps.border_upload).min();
        for (bytes, rate) in [
            (&self.turn_bytes, caps.upload),
            (&self.border_turn_bytes, lowest),
        ] {
            let turn = rate.map_or(0, |rate| rate.bytes_per_sec() * TURN_MILLIS / 1000);
            bytes.store(turn, Ordering::Relaxed);
        }
        let mut uplink = lock(&self.uplink);
        uplink.set_caps(caps.upload, caps.border_upload, now);
        self.is_upload_capped
            .store(!uplink.is_free(), Ordering::Relaxed);
        drop(uplink);
        self.uplink_changed.notify_one();

        let mut downlink = lock(&self.downlink);
        let Downlink { all, border } = &mut *downlink;
        set_rate(all, caps.download, windows::burst_bytes, now);
        set_rate(border, caps.border_download, windows::burst_bytes, now);
        drop(downlink);
        let mut links = lock(&self.links);
        let changes = links.windows.set_caps(caps.download, caps.border_download);
        self.is_download_capped
            .store(!links.windows.is_free(), Ordering::Relaxed);
        links.tell(changes);
        before
    }

    pub(super) fn traffic(&self) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            sent_bytes: read(&self.sent.all),
            received_bytes: read(&self.received.all),
            border_sent_bytes: read(&self.sent.border),
            border_received_bytes: read(&self.received.border),
        }
    }

    /// The window that a link begins with.
    pub(super) fn first_window(&self) -> u64 {
        lock(&self.links).windows.first()
    }

    fn is_border(&self, address: SocketAddr) -> bool {
        self.has_border.load(Ordering::Relaxed)
            && self
                .border
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .contains_key(&canonical(address))
    }

    fn set_border(&self, address: SocketAddr, is_border: bool) {
        let mut border = self.border.write().unwrap_or_else(PoisonError::into_inner);
        if is_border {
            *border.entry(address).or_default() += 1;
        } else if let Some(count) = border.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                border.remove(&address);
            }
        }
        self.has_border.store(!border.is_empty(), Ordering::Relaxed);
    }

    /// Runs for as long as the endpoint: gives links their turns.
    async fn give_turns(self: Arc<Self>) {
        loop {
            let next = {
                let mut uplink = lock(&self.uplink);
                uplink.retain(|turn| turn.strong_count() > 0);
                let now = Instant::now();
                let is_free = uplink.is_free();
                while let Some(turn) = uplink.grant(now) {
                    if let Some(turn) = turn.upgrade() {
                        turn.come(!is_free);
                    }
                }
                uplink.next_at(now)
            };
            match next {
                Some(next) => tokio::select! {
                    () = self.uplink_changed.notified() => {}
                    () = tokio::time::sleep_until(next.into()) => {}
                },
                None => self.uplink_changed.notified().await,
            }
        }
    }

    /// So much has arrived.
    fn arrived(&self, all_bytes: u64, border_bytes: u64) {
        self.received.add(all_bytes, border_bytes);
        if self.is_download_capped.load(Ordering::Relaxed) {
            let now = Instant::now();
            let mut downlink = lock(&self.downlink);
            let Downlink { all, border } = &mut *downlink;
            for (bucket, bytes) in [(all, all_bytes), (border, border_bytes)] {
                if let Some(bucket) = bucket {
                    bucket.take(bytes, now);
                    bucket.remit(DEBT_MAX);
                }
            }
        }
    }

    /// When content may be read; `None` is now.
    fn reads_at(&self, is_border: bool) -> Option<Instant> {
        let now = Instant::now();
        let mut downlink = lock(&self.downlink);
        let Downlink { all, border } = &mut *downlink;
        let border = border.as_mut().filter(|_| is_border);
        let closed = all.iter_mut().chain(border).filter_map(|bucket| {
            let is_closed = !bucket.has(1, now);
            is_closed.then(|| bucket.has_at(1))
        });
        closed.max()
    }
}

impl Counter {
    fn add(&self, all_bytes: u64, border_bytes: u64) {
        self.all.fetch_add(all_bytes, Ordering::Relaxed);
        if border_bytes > 0 {
            self.border.fetch_add(border_bytes, Ordering::Relaxed);
        }
    }
}

/// What so many bytes of payload in so many datagrams are on the wire, as interfaces count: with the headers of Ethernet
/// (14 bytes), IP without options, and UDP (8).
fn wire_bytes(payload_bytes: usize, datagrams: usize, peer: SocketAddr) -> u64 {
    let headers = match peer.ip().to_canonical() {
        std::net::IpAddr::V4(_) => 14 + 20 + 8,
        std::net::IpAddr::V6(_) => 14 + 40 + 8,
    };
    (payload_bytes + datagrams * headers) as u64
}

/// The longest time for which what has arrived already keeps content from being read. Anybody may send us packets, and what
/// was on its way when a cap was set comes all the same.
const DEBT_MAX: Duration = Duration::from_secs(2);

/// How long one link sends before the next one's turn: a message of one link waits so long for each other link.
const TURN_MILLIS: u64 = 1;

/// The payload of a datagram on plain Ethernet, to begin with.
const ETHERNET_PAYLOAD_BYTES: usize = 1472;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is changed under these locks is counters and flags, whole at each step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
