//! Whose packets leave next, where there is a cap on what leaves.

use std::{collections::VecDeque, time::Instant};

use super::{Rate, bucket::Bucket};

/// What one side of a link hands to the socket at once: one packet, or several of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packets {
    /// Bytes on the wire, headers included.
    pub(super) wire_bytes: u64,
    /// Whether they go to another site.
    pub(super) is_border: bool,
    /// Whether it is one that its link had no more to put into: an acknowledgement, a request, a report.
    pub(super) is_short: bool,
}

/// What is saved up for when nobody sent, or timers were late: 32 KiB and what 10 ms carry.
pub(super) fn burst_bytes(rate: Rate) -> u64 {
    32 * 1024 + rate.bytes_per_sec() / 100
}

/// Short packets pass at once, until so many bytes are owed. With the burst that is less than the 64 KiB and 2 % by which a
/// second may exceed the cap.
const SHORT_OWED_BYTES_MAX: u64 = 8 * 1024;

/// The caps on what leaves, and who waits. Links take turns in the order in which they came, each with what it has ready, so
/// none waits longer than one turn of each other. Who waits for the border lets the others pass.
#[derive(Debug)]
pub(super) struct Uplink<T> {
    all: Option<Bucket>,
    border: Option<Bucket>,
    waiting: VecDeque<(Packets, T)>,
}

impl<T> Default for Uplink<T> {
    fn default() -> Self {
        Self {
            all: None,
            border: None,
            waiting: VecDeque::new(),
        }
    }
}

impl<T> Uplink<T> {
    pub(super) fn set_caps(&mut self, all: Option<Rate>, border: Option<Rate>, now: Instant) {
        for (bucket, rate) in [(&mut self.all, all), (&mut self.border, border)] {
            set_rate(bucket, rate, burst_bytes, now);
        }
    }

    /// Whether there is no cap.
    pub(super) fn is_free(&self) -> bool {
        self.all.is_none() && self.border.is_none()
    }

    /// Whether these may leave at once; if so, they count as sent.
    pub(super) fn admit(&mut self, packets: Packets, now: Instant) -> bool {
        let is_capped = self.buckets(packets).next().is_some();
        let is_admitted = if !is_capped {
            true
        } else if packets.is_short {
            self.buckets(packets)
                .all(|it| it.owes_less_than(SHORT_OWED_BYTES_MAX, now))
        } else {
            self.waiting.is_empty() && self.has(packets, now)
        };
        if is_admitted {
            self.take(packets, now);
        }
        is_admitted
    }

    /// `who` waits for its turn with these.
    pub(super) fn wait(&mut self, packets: Packets, who: T) {
        self.waiting.push_back((packets, who));
    }

    /// Lets go whoever is gone.
    pub(super) fn retain(&mut self, is_here: impl Fn(&T) -> bool) {
        self.waiting.retain(|(_, who)| is_here(who));
    }

    /// Whose turn it is, if anybody's. What it has ready counts as sent.
    pub(super) fn grant(&mut self, now: Instant) -> Option<T> {
        for index in 0..self.waiting.len() {
            let packets = self.waiting[index].0;
            if self.has(packets, now) {
                self.take(packets, now);
                return self.waiting.remove(index).map(|(_, who)| who);
            }
            if !self.waits_for_border(packets, now) {
                return None;
            }
        }
        None
    }

    /// When it is next somebody's turn; `None` where nobody waits.
    pub(super) fn next_at(&mut self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for index in 0..self.waiting.len() {
            let packets = self.waiting[index].0;
            let at = self
                .buckets(packets)
                .map(|it| it.has_at(packets.wire_bytes));
            let at = at.max().unwrap_or(now);
            next = Some(next.map_or(at, |next| next.min(at)));
            if !self.waits_for_border(packets, now) {
                break;
            }
        }
        next
    }

    fn has(&mut self, packets: Packets, now: Instant) -> bool {
        self.buckets(packets)
            .all(|it| it.has(packets.wire_bytes, now))
    }

    fn take(&mut self, packets: Packets, now: Instant) {
        self.buckets(packets)
            .for_each(|it| it.take(packets.wire_bytes, now));
    }

    fn waits_for_border(&mut self, packets: Packets, now: Instant) -> bool {
        let border = self.border.as_mut().filter(|_| packets.is_border);
        border.is_some_and(|it| !it.has(packets.wire_bytes, now))
    }

    fn buckets(&mut self, packets: Packets) -> impl Iterator<Item = &mut Bucket> {
        let border = self.border.as_mut().filter(|_| packets.is_border);
        self.all.iter_mut().chain(border)
    }
}

/// Makes, changes or removes a bucket.
pub(super) fn set_rate(
    bucket: &mut Option<Bucket>,
    rate: Option<Rate>,
    burst_bytes: fn(Rate) -> u64,
    now: Instant,
) {
    match (bucket.as_mut(), rate) {
        (Some(it), Some(rate)) => it.set_rate(rate, burst_bytes(rate), now),
        (None, Some(rate)) => *bucket = Some(Bucket::new(rate, burst_bytes(rate), now)),
        (_, None) => *bucket = None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Duration;

    use super::*;

    const FULL: Packets = Packets {
        wire_bytes: 1500,
        is_border: false,
        is_short: false,
    };
    const FAR: Packets = Packets {
        is_border: true,
        ..FULL
    };
    const SHORT: Packets = Packets {
        wire_bytes: 80,
        is_border: false,
        is_short: true,
    };

    fn uplink(all: Option<u32>, border: Option<u32>, now: Instant) -> Uplink<u32> {
        let mut uplink = Uplink::default();
        let rate = |mbit| Rate::from_mbit(mbit).unwrap();
        uplink.set_caps(all.map(rate), border.map(rate), now);
        // The burst goes first.
        for bucket in [&mut uplink.all, &mut uplink.border].into_iter().flatten() {
            while bucket.has(FULL.wire_bytes, now) {
                bucket.take(FULL.wire_bytes, now);
            }
        }
        uplink
    }

    #[test]
    fn links_take_turns_and_an_acknowledgement_takes_none() {
        let start = Instant::now();
        let mut uplink = uplink(Some(8), None, start);
        uplink.wait(FULL, 1);
        uplink.wait(FULL, 2);
        assert!(!uplink.admit(FULL, start + Duration::from_secs(1)));
        assert!(uplink.admit(SHORT, start));
        let mut order = Vec::new();
        let mut now = start;
        for next in 3..=20 {
            now = uplink.next_at(now).unwrap();
            order.push(uplink.grant(now).unwrap());
            assert_eq!(uplink.grant(now), None);
            uplink.wait(FULL, next);
        }
        assert_eq!(order, Vec::from_iter(1..=18));
        // 18 packets at 1 MB/s, less than one of which was saved up.
        assert!(now - start > Duration::from_micros(17 * 1500));
        assert!(now - start <= Duration::from_micros(18 * 1500 + 80));
    }

    #[test]
    fn short_packets_pass_at_once_but_not_without_end() {
        let start = Instant::now();
        let mut uplink = uplink(Some(8), None, start);
        let passed = (0..1000).take_while(|_| uplink.admit(SHORT, start)).count();
        let bytes = passed as u64 * SHORT.wire_bytes;
        assert!((8_000..8_192 + 1500 + 80).contains(&bytes), "{bytes}");
    }

    #[test]
    fn who_waits_for_the_border_lets_the_others_pass() {
        let start = Instant::now();
        let mut uplink = uplink(Some(80), Some(8), start);
        for who in [1, 2] {
            uplink.wait(FAR, who);
        }
        uplink.wait(FULL, 3);
        let soon = uplink.next_at(start).unwrap();
        assert_eq!(uplink.grant(soon), Some(3));
        let later = uplink.next_at(soon).unwrap();
        assert!(later > soon);
        assert_eq!(uplink.grant(later), Some(1));
        assert_eq!(uplink.grant(later), None);
        uplink.retain(|who| *who != 2);
        assert_eq!(uplink.next_at(later), None);
    }

    #[test]
    fn under_a_cap_on_the_border_alone_the_others_do_not_even_queue() {
        let start = Instant::now();
        let mut uplink = uplink(None, Some(8), start);
        uplink.wait(FAR, 1);
        assert!(uplink.admit(FULL, start));
        assert!(!uplink.admit(FAR, start));
    }

    #[test]
    fn without_a_cap_nobody_waits() {
        let start = Instant::now();
        let mut uplink = uplink(Some(8), None, start);
        uplink.wait(FULL, 1);
        uplink.set_caps(None, None, start);
        assert!(uplink.is_free());
        assert_eq!(uplink.next_at(start), Some(start));
        assert_eq!(uplink.grant(start), Some(1));
        assert!(uplink.admit(FAR, start));
    }
}
