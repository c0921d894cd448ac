//! How fast peers get on: by what they say they hold, at times.
//!
//! A host on a slow link, or one that is dead, holds up all that stand below it on a lane, and nobody there gets less than another. But
//! whatever it passes on it has first, and tells: so those right below see it. (That an uplink alone is slow is seen by what does not come.)

use std::{collections::VecDeque, time::Duration};

/// Over how long it is looked at: news of what somebody holds take up to a second.
pub(super) const GAIN_TIME: Duration = Duration::from_secs(2);

/// How often it is noted: a part of that.
const NOTED_EVERY: Duration = Duration::from_millis(250);

/// Who gets less than a part of what most do is slow. Far less, since links are unsteady, and who is a little slow is a better
/// upstream than a change of upstreams.
const SLOW_PART: u64 = 4;

/// In so few chunks, nothing is seen: they come in handfuls.
const SLOW_MIN: u32 = 16;

/// What one came to hold, at times up to [`GAIN_TIME`] ago.
#[derive(Default)]
pub(super) struct Gains {
    noted: VecDeque<(Duration, u32)>,
}

impl Gains {
    /// It holds `count` now. To be told now and then.
    pub(super) fn note(&mut self, now: Duration, count: u32) {
        if self
            .noted
            .back()
            .is_some_and(|(at, _)| now < *at + NOTED_EVERY)
        {
            return;
        }
        self.noted.push_back((now, count));
        // The last that is old enough stays at the front.
        while self.noted.len() > 1 && self.noted[1].0 + GAIN_TIME <= now {
            self.noted.pop_front();
        }
    }

    /// How much it gained in the last [`GAIN_TIME`]; `None` where that is not known.
    pub(super) fn lately(&self) -> Option<u32> {
        let (&(since, then), &(now, count)) = (self.noted.front()?, self.noted.back()?);
        (since + GAIN_TIME <= now).then(|| count.saturating_sub(then))
    }
}

/// Whether who gained so much is slow beside one that gained `usual`.
pub(super) fn is_slow(gained: u32, usual: u32) -> bool {
    usual >= SLOW_MIN && is_far_below(gained.into(), usual.into())
}

/// Whether a rate is that of one that is slow beside another.
pub(super) fn is_far_below(rate: u64, other: u64) -> bool {
    SLOW_PART.saturating_mul(rate) < other
}

/// What most gained, at least; `None` where there are too few of them to say.
pub(super) fn usual(gained: impl Iterator<Item = u32>) -> Option<u32> {
    const FEW: usize = 3;
    let mut gained: Vec<u32> = gained.collect();
    if gained.len() < FEW {
        return None;
    }
    let middle = gained.len() / 2;
    Some(*gained.select_nth_unstable(middle).1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_came_lately_is_known_once_it_was_looked_at_for_long_enough() {
        let mut gains = Gains::default();
        let at = |tenths: u32| tenths * Duration::from_millis(100);
        for tenth in 0..20 {
            gains.note(at(tenth), 10 * tenth);
            assert_eq!(gains.lately(), None);
        }
        for tenth in 20..60 {
            gains.note(at(tenth), 10 * tenth);
        }
        // It is noted each quarter of a second or so: over two seconds, and one such more.
        assert!((200..=230).contains(&gains.lately().unwrap()));
        for tenth in 60..90 {
            gains.note(at(tenth), 590);
        }
        assert_eq!(gains.lately(), Some(0));
    }

    #[test]
    fn who_gets_less_than_a_quarter_of_what_most_do_is_slow_where_these_are_not_few() {
        assert_eq!(usual([40, 100].into_iter()), None);
        let usual = usual([2, 100, 90, 110, 0].into_iter()).unwrap();
        assert_eq!(usual, 90);
        assert!(is_slow(22, usual) && !is_slow(23, usual));
        assert!(!is_slow(0, 15) && is_slow(3, 16) && !is_slow(4, 16));
    }
}
