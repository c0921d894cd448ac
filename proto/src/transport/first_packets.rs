//! First packets of handshakes: of each source so many a second are looked at, and the others are dropped unread.
//!
//! Anybody can send them, from forged addresses too, and each costs a key, a decryption and an answer before anything is known
//! of who sent it. So they are counted where they come in. Packets of links that there are go by uncounted: a flood
//! of the former costs these nothing but the time to look at a byte or five.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use quinn::udp::RecvMeta;

/// Most first packets of one source that are looked at in a second. A handshake has two to four of them on each side, so these
/// are some 100 links a second with one host: more than a whole fleet on one machine makes, and a flood of them
/// costs a tenth of a core.
pub const FIRST_PACKETS_PER_SEC_MAX: u64 = 256;

/// So many at once: what a host that was away for a while, or a fleet on one machine, makes when it comes.
pub const FIRST_PACKETS_BURST: u64 = 512;

/// Sources are told apart by so many places of a table, 8 KiB whatever comes. Those that share one share what it lets through; which ones
/// do is another thing at each start.
const PLACES: usize = 1024;

const NANOS_EACH: u64 = 1_000_000_000 / FIRST_PACKETS_PER_SEC_MAX;

/// How many of each source came of late.
#[derive(Debug)]
pub(super) struct FirstPackets {
    /// By source, until when what passed is paid for, in nanoseconds since the start (GCRA).
    paid_until: Mutex<Vec<u64>>,
    key: RandomState,
    start: Instant,
    dropped: AtomicU64,
}

impl FirstPackets {
    pub(super) fn new() -> Self {
        Self {
            paid_until: Mutex::new(vec![0; PLACES]),
            key: RandomState::new(),
            start: Instant::now(),
            dropped: AtomicU64::new(0),
        }
    }

    /// How many were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Takes those out of what came in one piece that are too many.
    pub(super) fn filter(&self, buffer: &mut [u8], meta: &mut RecvMeta, now: Instant) {
        // All of a piece have one length but the last, which may be shorter, so what is kept stays in step.
        let (mut kept, mut from) = (0, 0);
        while from < meta.len {
            let end = (from + meta.stride.max(1)).min(meta.len);
            if !is_first(&buffer[from..end]) || self.admits(meta.addr.ip(), now) {
                buffer.copy_within(from..end, kept);
                kept += end - from;
            } else {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            from = end;
        }
        meta.len = kept;
    }

    fn admits(&self, source: IpAddr, now: Instant) -> bool {
        let hash = self.key.hash_one(of_source(source));
        let place = usize::try_from(hash % PLACES as u64).expect("below PLACES");
        let now = u64::try_from((now - self.start).as_nanos()).unwrap_or(u64::MAX);
        let mut paid_until = self
            .paid_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let until = paid_until[place].max(now).saturating_add(NANOS_EACH);
        let admits = until - now <= FIRST_PACKETS_BURST * NANOS_EACH;
        if admits {
            paid_until[place] = until;
        }
        admits
    }
}

/// What counts as one source: an IPv4 address, or all of a subnet, of which a host has as many addresses as it likes.
pub(super) fn of_source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    }
}

/// Whether a datagram may begin something (RFC 9000, section 17.2): an Initial packet, or one of a version that is not ours,
/// which is answered too.
fn is_first(datagram: &[u8]) -> bool {
    const LONG: u8 = 0x80;
    const TYPE: u8 = 0x30;
    const VERSION_1: [u8; 4] = [0, 0, 0, 1];
    let Some(first) = datagram.first() else {
        return false;
    };
    let is_ours = datagram.get(1..5) == Some(&VERSION_1);
    first & LONG != 0 && (first & TYPE == 0 || !is_ours)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Duration;

    use super::*;

    const INITIAL: [u8; 6] = [0xc3, 0, 0, 0, 1, 8];
    const HANDSHAKE: [u8; 6] = [0xe3, 0, 0, 0, 1, 8];
    const SHORT: [u8; 6] = [0x43, 7, 7, 7, 7, 7];

    fn came(bytes: usize, stride: usize, from: &str) -> RecvMeta {
        RecvMeta {
            addr: from.parse().unwrap(),
            len: bytes,
            stride,
            ecn: None,
            dst_ip: None,
        }
    }

    #[test]
    fn packets_that_begin_something_are_told_from_those_of_links() {
        assert!(is_first(&INITIAL));
        assert!(is_first(&[0xc3, 9, 9, 9, 9]) && is_first(&[0xff]));
        assert!(!is_first(&HANDSHAKE) && !is_first(&SHORT) && !is_first(&[]));
    }

    #[test]
    fn of_each_source_so_many_pass_and_packets_of_links_always() {
        let guard = FirstPackets::new();
        let pass = |from: &str, at: Instant| {
            let mut meta = came(INITIAL.len(), INITIAL.len(), from);
            guard.filter(&mut INITIAL.clone(), &mut meta, at);
            meta.len > 0
        };
        let start = guard.start;
        let passed = (0..2000).filter(|_| pass("10.0.0.1:1", start)).count() as u64;
        assert_eq!(passed, FIRST_PACKETS_BURST);
        // Another port is the same source; two places of 1,024 are the same only by chance.
        assert!(!pass("10.0.0.1:2", start));
        let others = (2..12).filter(|it| pass(&format!("10.0.0.{it}:1"), start));
        assert!(others.count() >= 9);
        let later = start + Duration::from_secs(1);
        let passed = (0..2000).filter(|_| pass("10.0.0.1:3", later)).count() as u64;
        assert_eq!(passed, FIRST_PACKETS_PER_SEC_MAX);
        assert!(guard.dropped() > 3000);
    }

    #[test]
    fn what_comes_with_a_flood_in_one_piece_is_kept_whole() {
        let guard = FirstPackets::new();
        let start = guard.start;
        while guard.admits("10.0.0.1".parse().unwrap(), start) {}
        let mut piece = [SHORT, INITIAL, HANDSHAKE, INITIAL].concat();
        piece.extend_from_slice(&SHORT[..3]);
        let mut meta = came(piece.len(), SHORT.len(), "10.0.0.1:1");
        guard.filter(&mut piece, &mut meta, start);
        let kept = [&SHORT[..], &HANDSHAKE, &SHORT[..3]].concat();
        assert_eq!(piece[..meta.len], kept);
    }

    #[test]
    fn a_subnet_of_ipv6_is_one_source_and_an_ipv4_address_is_however_it_is_shown() {
        let of = |text: &str| of_source(text.parse().unwrap());
        assert_eq!(of("fd00:1:2:3::9"), of("fd00:1:2:3:8::"));
        assert_ne!(of("fd00:1:2:3::9"), of("fd00:1:2:4::9"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
