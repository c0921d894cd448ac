//! When a certificate is renewed, and how long after its end it still can be.

use super::authority::Validity;

/// A node's certificate is renewed once one part in so many of its life is left, or less: a third, four months of a year.
/// A fleet that is deployed to or renewed once a week then has sixteen tries, and people two months of warnings after half
/// of these failed.
const RENEWED_PART: u64 = 3;

/// How long after its end a certificate may still be renewed, in days: a host that was switched off or away for repair over a
/// season comes back by itself. Whoever was away for longer is enrolled again, by somebody who knows why.
pub const RENEWAL_GRACE_DAYS: u64 = 90;

/// The same in milliseconds.
pub const RENEWAL_GRACE_MS: u64 = RENEWAL_GRACE_DAYS * 24 * 3600 * 1000;

/// Where in its life a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Life {
    /// It is not valid yet: a clock is wrong.
    Early,
    /// More than a third is left.
    Good,
    /// A third or less is left: it is to be renewed.
    Due,
    /// It is over, and opens nothing but a renewal.
    Expired,
    /// It is over for so long that it does not even open that.
    Over,
}

impl Validity {
    /// Where in it `now_unix_ms` is.
    pub fn life(&self, now_unix_ms: u64) -> Life {
        let (from, to) = (self.not_before_unix_ms, self.not_after_unix_ms);
        if now_unix_ms < from {
            Life::Early
        } else if now_unix_ms > to.saturating_add(RENEWAL_GRACE_MS) {
            Life::Over
        } else if now_unix_ms > to {
            Life::Expired
        } else if to - now_unix_ms <= to.saturating_sub(from) / RENEWED_PART {
            Life::Due
        } else {
            Life::Good
        }
    }

    /// How much of it is left at `now_unix_ms`, in milliseconds.
    pub fn left_ms(&self, now_unix_ms: u64) -> u64 {
        self.not_after_unix_ms.saturating_sub(now_unix_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;

    #[test]
    fn a_certificate_is_due_from_the_last_third_of_its_life_to_its_end() {
        let validity = Validity {
            not_before_unix_ms: 1000 * DAY,
            not_after_unix_ms: 1300 * DAY,
        };
        for (at, life) in [
            (0, Life::Early),
            (1000 * DAY - 1, Life::Early),
            (1000 * DAY, Life::Good),
            (1200 * DAY - 1, Life::Good),
            (1200 * DAY, Life::Due),
            (1300 * DAY, Life::Due),
            (1300 * DAY + 1, Life::Expired),
            ((1300 + RENEWAL_GRACE_DAYS) * DAY, Life::Expired),
            ((1300 + RENEWAL_GRACE_DAYS) * DAY + 1, Life::Over),
            (u64::MAX, Life::Over),
        ] {
            assert_eq!(validity.life(at), life, "{at}");
        }
        assert_eq!(validity.left_ms(1299 * DAY), DAY);
        assert_eq!(validity.left_ms(1301 * DAY), 0);
    }

    #[test]
    fn a_leaf_is_renewed_after_eight_months_and_a_period_without_end_does_not_overflow() {
        let leaf = Validity::leaf(1000 * DAY);
        assert_eq!(leaf.life(1240 * DAY), Life::Good);
        assert_eq!(leaf.life(1244 * DAY), Life::Due);
        let for_ever = Validity {
            not_before_unix_ms: 0,
            not_after_unix_ms: u64::MAX,
        };
        assert_eq!(for_ever.life(0), Life::Good);
        assert_eq!(for_ever.life(u64::MAX), Life::Due);
    }
}
