//! How much each link may send us before we read, where there is a cap on what arrives.

use std::collections::BTreeMap;

use super::Rate;

/// What a link may send that nobody expects content from, in bytes: some messages. With the few that are usually in use, so
/// many are not in [`pool_bytes`].
pub(super) const IDLE_BYTES: u64 = 2 * 1024;

/// What all links that content is expected from may send together before we read, in bytes: 32 KiB and what 15 ms carry. What
/// is saved up in the meantime, [`burst_bytes`], may arrive on top; with headers, and some links that begin, that is
/// less than the 64 KiB and 2 % by which a second may exceed the cap. That is also all that is on its way at a time, so over
/// long round trips it carries less than the cap: at 40 ms, 14 of 20 Mbit/s.
pub(super) fn pool_bytes(rate: Rate) -> u64 {
    32 * 1024 + rate.bytes_per_sec() * 15 / 1000
}

/// What is saved up while less arrives than may: 8 KiB and what 2.5 ms carry.
pub(super) fn burst_bytes(rate: Rate) -> u64 {
    8 * 1024 + rate.bytes_per_sec() / 400
}

/// A link, by a number that is given once.
pub(super) type LinkNumber = u64;

/// The receive windows of all links. A window that shrinks does so as its link is read, so what it held before counts
/// until then, and others grow only by what has become free.
#[derive(Debug)]
pub(super) struct Windows {
    /// The window of a link without a cap.
    full: u64,
    all: Option<Rate>,
    border: Option<Rate>,
    links: BTreeMap<LinkNumber, Window>,
}

#[derive(Debug)]
struct Window {
    bytes: u64,
    /// What it may send beyond that, until so much was read.
    excess: u64,
    /// How many streams of content are expected.
    streams: u32,
    is_border: bool,
}

/// A link's window is to be another.
pub(super) type Change = (LinkNumber, u64);

impl Windows {
    pub(super) fn new(full: u64) -> Self {
        Self {
            full,
            all: None,
            border: None,
            links: BTreeMap::new(),
        }
    }

    /// Whether there is no cap.
    pub(super) fn is_free(&self) -> bool {
        self.all.is_none() && self.border.is_none()
    }

    /// The window of a link that is yet to be. Whether it will cross a border is not known.
    pub(super) fn first(&self) -> u64 {
        if self.is_free() {
            self.full
        } else {
            IDLE_BYTES
        }
    }

    pub(super) fn set_caps(&mut self, all: Option<Rate>, border: Option<Rate>) -> Vec<Change> {
        (self.all, self.border) = (all, border);
        self.share_out()
    }

    pub(super) fn add(&mut self, link: LinkNumber, bytes: u64) -> Vec<Change> {
        let window = Window {
            bytes,
            excess: 0,
            streams: 0,
            is_border: false,
        };
        self.links.insert(link, window);
        self.share_out()
    }

    pub(super) fn remove(&mut self, link: LinkNumber) -> Vec<Change> {
        self.links.remove(&link);
        self.share_out()
    }

    pub(super) fn set_border(&mut self, link: LinkNumber, is_border: bool) -> Vec<Change> {
        if let Some(window) = self.links.get_mut(&link) {
            window.is_border = is_border;
        }
        self.share_out()
    }

    /// A stream of content is expected from it.
    pub(super) fn begin(&mut self, link: LinkNumber) -> Vec<Change> {
        self.count(link, |streams| streams + 1)
    }

    /// One less is.
    pub(super) fn end(&mut self, link: LinkNumber) -> Vec<Change> {
        self.count(link, |streams| streams.saturating_sub(1))
    }

    /// So much content of it was read.
    pub(super) fn read(&mut self, link: LinkNumber, bytes: u64) -> Vec<Change> {
        match self.links.get_mut(&link) {
            Some(window) if window.excess > 0 => {
                window.excess = window.excess.saturating_sub(bytes);
                self.share_out()
            }
            _ => Vec::new(),
        }
    }

    fn count(&mut self, link: LinkNumber, change: impl Fn(u32) -> u32) -> Vec<Change> {
        let Some(window) = self.links.get_mut(&link) else {
            return Vec::new();
        };
        let before = window.streams;
        window.streams = change(before);
        if (before == 0) == (window.streams == 0) {
            return Vec::new();
        }
        self.share_out()
    }

    /// Gives each what it should have: first takes away, then gives what is free.
    fn share_out(&mut self) -> Vec<Change> {
        if self.is_free() && self.links.values().all(|it| it.bytes == self.full) {
            return Vec::new();
        }
        let before: Vec<u64> = self.links.values().map(|it| it.bytes).collect();
        let all = Pool::of(self.all, self.links.values());
        let border = Pool::of(self.border, self.links.values().filter(|it| it.is_border));
        let (mut all_free, mut border_free) = (all.pool, border.pool);
        let mut wanting = Vec::new();
        for (link, window) in &mut self.links {
            let share = match window.is_border {
                true => all.share.min(border.share),
                false => all.share,
            };
            let wanted = match window.streams {
                _ if share == u64::MAX => self.full,
                0 => IDLE_BYTES,
                _ => share.clamp(IDLE_BYTES, self.full),
            };
            if wanted < window.bytes {
                window.excess += window.bytes - wanted;
                window.bytes = wanted;
            }
            if window.streams > 0 {
                let held = (window.bytes + window.excess).saturating_sub(IDLE_BYTES);
                all_free = all_free.saturating_sub(held);
                if window.is_border {
                    border_free = border_free.saturating_sub(held);
                }
            }
            if share == u64::MAX {
                window.bytes = wanted;
                // What is read from now on is not told us, so what is left of it is not known.
                window.excess = 0;
            } else if wanted > window.bytes {
                wanting.push((*link, wanted));
            }
        }
        for (link, wanted) in wanting {
            let window = self.links.get_mut(&link).expect("it is one of them");
            let lacks = wanted.saturating_sub(window.bytes + window.excess);
            let mut given = lacks.min(all_free);
            if window.is_border {
                given = given.min(border_free);
                border_free = border_free.saturating_sub(given);
            }
            all_free = all_free.saturating_sub(given);
            window.bytes += given;
        }
        let changed = self.links.iter().zip(before);
        let changed = changed.filter(|((_, window), before)| window.bytes != *before);
        changed
            .map(|((link, window), _)| (*link, window.bytes))
            .collect()
    }
}

/// What links have together, and each of them.
struct Pool {
    pool: u64,
    share: u64,
}

impl Pool {
    fn of<'a>(rate: Option<Rate>, links: impl Iterator<Item = &'a Window>) -> Self {
        let pool = rate.map_or(u64::MAX, pool_bytes);
        let active = links.filter(|it| it.streams > 0).count() as u64;
        let share = rate.map_or(u64::MAX, |_| pool / active.max(1) + IDLE_BYTES);
        Self { pool, share }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FULL: u64 = 4 * 1024 * 1024;

    fn rate(mbit: u32) -> Option<Rate> {
        Some(Rate::from_mbit(mbit).unwrap())
    }

    #[test]
    fn without_a_cap_every_window_is_full_and_nothing_changes() {
        let mut windows = Windows::new(FULL);
        assert_eq!(windows.first(), FULL);
        assert!(windows.add(1, FULL).is_empty());
        assert!(windows.begin(1).is_empty());
        assert!(windows.read(1, 1000).is_empty());
        assert!(windows.end(1).is_empty());
        assert!(windows.remove(1).is_empty());
    }

    #[test]
    fn the_only_sender_gets_all_and_a_second_what_the_first_gives_back() {
        let mut windows = Windows::new(FULL);
        windows.set_caps(rate(100), None);
        let pool = pool_bytes(rate(100).unwrap());
        for link in [1, 2] {
            assert!(windows.add(link, windows.first()).is_empty());
        }
        assert_eq!(windows.begin(1), [(1, pool + IDLE_BYTES)]);
        // What the first has been promised is not promised twice.
        assert_eq!(windows.begin(2), [(1, pool / 2 + IDLE_BYTES)]);
        let mut second = IDLE_BYTES;
        for _ in 0..pool / 1000 + 1 {
            for (link, bytes) in windows.read(1, 1000) {
                assert_eq!(link, 2);
                assert!((1..=1000).contains(&(bytes - second)));
                second = bytes;
            }
        }
        assert_eq!(second, pool / 2 + IDLE_BYTES);
        assert_eq!(windows.end(1), [(1, IDLE_BYTES), (2, pool + IDLE_BYTES)]);
    }

    #[test]
    fn a_cap_that_was_lifted_leaves_nothing_behind() {
        let mut windows = Windows::new(FULL);
        for link in [1, 2] {
            windows.add(link, windows.first());
        }
        for _ in 0..3 {
            windows.set_caps(rate(100), None);
            windows.set_caps(None, None);
        }
        windows.begin(1);
        windows.set_caps(rate(100), None);
        // Once the first has sent what it had been promised the pool is there for it.
        windows.read(1, FULL);
        assert_eq!(windows.links[&1].excess, 0);
        let pool = pool_bytes(rate(100).unwrap());
        assert_eq!(windows.links[&1].bytes, pool + IDLE_BYTES);
    }

    #[test]
    fn a_border_is_a_cap_of_its_own() {
        let mut windows = Windows::new(FULL);
        for link in [1, 2] {
            windows.add(link, windows.first());
            windows.begin(link);
        }
        windows.set_border(2, true);
        let changes = windows.set_caps(None, rate(8));
        assert_eq!(changes, [(2, pool_bytes(rate(8).unwrap()) + IDLE_BYTES)]);
        assert_eq!(windows.set_border(2, false), [(2, FULL)]);
    }

    proptest! {
        #[test]
        fn those_in_use_are_never_promised_more_than_there_is(
            steps in prop::collection::vec((0_u8..5, 0_u64..8, 1_u64..30_000), 1..300),
        ) {
            let mut windows = Windows::new(FULL);
            windows.set_caps(rate(50), rate(20));
            let (all, border) = (pool_bytes(rate(50).unwrap()), pool_bytes(rate(20).unwrap()));
            for link in 0..8 {
                windows.add(link, windows.first());
                windows.set_border(link, link < 3);
            }
            for (what, link, bytes) in steps {
                let held = |windows: &Windows, border: bool| -> u64 {
                    let links = windows.links.values().filter(|it| it.streams > 0 && (it.is_border || !border));
                    links.map(|it| it.bytes + it.excess - IDLE_BYTES).sum()
                };
                let before = (held(&windows, false), held(&windows, true));
                // What a link kept of before counts again when it is used again.
                let kept = windows.links[&link].bytes + windows.links[&link].excess - IDLE_BYTES;
                let kept = if what == 0 { kept } else { 0 };
                match what {
                    0 => windows.begin(link),
                    1 => windows.end(link),
                    _ => windows.read(link, bytes),
                };
                let after = (held(&windows, false), held(&windows, true));
                prop_assert!(after.0 <= all.max(before.0 + kept), "{before:?} {after:?}");
                prop_assert!(after.1 <= border.max(before.1 + kept), "{before:?} {after:?}");
            }
        }
    }
}
