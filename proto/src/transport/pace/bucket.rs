//! A token bucket: how much may pass by when.

use std::time::{Duration, Instant};

use super::Rate;

/// What may pass at a rate. Over any span of time no more than rate × span + burst is let through, where whoever takes asks
/// first; who does not ask puts it into debt, which is paid off before anything else passes. No clock: the time goes in.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    rate: Rate,
    burst_bytes: u64,
    /// In billionths of a byte, so that no time is lost between two looks.
    balance: i128,
    at: Instant,
}

/// Parts of the balance in a byte.
const BYTE: i128 = 1_000_000_000;

impl Bucket {
    /// A full one.
    pub(super) fn new(rate: Rate, burst_bytes: u64, now: Instant) -> Self {
        Self {
            rate,
            burst_bytes,
            balance: i128::from(burst_bytes) * BYTE,
            at: now,
        }
    }

    /// Another rate from now on. What was saved up by now stays, as far as it fits.
    pub(super) fn set_rate(&mut self, rate: Rate, burst_bytes: u64, now: Instant) {
        self.settle(now);
        self.rate = rate;
        self.burst_bytes = burst_bytes;
        self.balance = self.balance.min(i128::from(burst_bytes) * BYTE);
    }

    /// Whether so many bytes may pass. More than the burst may once that is saved up.
    pub(super) fn has(&mut self, bytes: u64, now: Instant) -> bool {
        self.settle(now);
        self.balance >= self.needed(bytes)
    }

    /// Whether it is less than so many bytes in debt.
    pub(super) fn owes_less_than(&mut self, bytes: u64, now: Instant) -> bool {
        self.settle(now);
        -self.balance < i128::from(bytes) * BYTE
    }

    /// So many bytes pass, whether there is enough or not.
    pub(super) fn take(&mut self, bytes: u64, now: Instant) {
        self.settle(now);
        self.balance -= i128::from(bytes) * BYTE;
    }

    /// Remits what it owes beyond what its rate pays off in `span`.
    pub(super) fn remit(&mut self, span: Duration) {
        let nanos = i128::try_from(span.as_nanos()).unwrap_or(i128::MAX >> 64);
        self.balance = self.balance.max(-nanos * self.bytes_per_sec());
    }

    /// From when on [`Self::has`] says yes, if nothing is taken meanwhile.
    pub(super) fn has_at(&self, bytes: u64) -> Instant {
        let lacks = (self.needed(bytes) - self.balance).max(0);
        let nanos = lacks.div_euclid(self.bytes_per_sec())
            + i128::from(lacks.rem_euclid(self.bytes_per_sec()) != 0);
        self.at + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn needed(&self, bytes: u64) -> i128 {
        i128::from(bytes.min(self.burst_bytes)) * BYTE
    }

    fn settle(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at);
        // A second has as many nanoseconds as a byte has parts.
        let nanos = i128::try_from(elapsed.as_nanos()).unwrap_or(i128::MAX >> 64);
        let gained = nanos * self.bytes_per_sec();
        self.balance = (self.balance + gained).min(i128::from(self.burst_bytes) * BYTE);
        self.at = self.at.max(now);
    }

    fn bytes_per_sec(&self) -> i128 {
        self.rate.bytes_per_sec().into()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(mbit: u32) -> Rate {
        Rate::from_mbit(mbit).unwrap()
    }

    #[test]
    fn a_debt_beyond_a_span_is_remitted_and_a_smaller_one_is_not() {
        let start = Instant::now();
        let span = Duration::from_secs(2);
        let mut bucket = Bucket::new(rate(8), 1000, start);
        for (owed, millis) in [(1_001_000, 1000), (9_000_000, 2000)] {
            let mut bucket = bucket.clone();
            bucket.take(owed, start);
            bucket.remit(span);
            let opens = bucket.has_at(1) - start;
            assert!(opens >= Duration::from_millis(millis), "{opens:?}");
            assert!(opens <= Duration::from_millis(millis + 1), "{opens:?}");
        }
        bucket.remit(span);
        assert!(bucket.has(1000, start));
    }

    proptest! {
        #[test]
        fn no_span_lets_more_through_than_the_rate_and_the_burst(
            mbit in 1_u32..2_000,
            burst in 1_u64..200_000,
            steps in prop::collection::vec((0_u64..50_000_000, 1_u64..20_000), 1..200),
        ) {
            let start = Instant::now();
            let mut bucket = Bucket::new(rate(mbit), burst, start);
            let mut now = start;
            let mut passed: Vec<(Instant, u64)> = Vec::new();
            for (nanos, bytes) in steps {
                now += Duration::from_nanos(nanos);
                let bytes = bytes.min(burst);
                while bucket.has(bytes, now) {
                    bucket.take(bytes, now);
                    passed.push((now, bytes));
                    prop_assert!(passed.len() < 1_000_000);
                    if passed.len().is_multiple_of(64) { break; }
                }
            }
            let per_sec = u128::from(rate(mbit).bytes_per_sec());
            for from in 0..passed.len() {
                let mut sum = 0_u128;
                for (at, bytes) in &passed[from..] {
                    sum += u128::from(*bytes);
                    let nanos = (*at - passed[from].0).as_nanos();
                    prop_assert!(sum <= u128::from(burst) + nanos * per_sec / 1_000_000_000 + 1);
                }
            }
        }

        #[test]
        fn who_always_has_more_to_send_gets_the_whole_rate(
            mbit in 1_u32..10_000,
            bytes in 100_u64..15_000,
            late_nanos in 0_u64..2_000_000,
        ) {
            let start = Instant::now();
            // Late by as much as a timer may be.
            let burst = 32_768 + rate(mbit).bytes_per_sec() / 100;
            let mut bucket = Bucket::new(rate(mbit), burst, start);
            let (mut now, mut sum) = (start, 0_u64);
            while now - start < Duration::from_secs(2) {
                while bucket.has(bytes, now) {
                    bucket.take(bytes, now);
                    sum += bytes;
                }
                now = bucket.has_at(bytes).max(now) + Duration::from_nanos(late_nanos);
            }
            let share = sum as f64 / (rate(mbit).bytes_per_sec() as f64 * (now - start).as_secs_f64());
            prop_assert!(share > 0.97, "{share}");
        }
    }

    #[test]
    fn a_debt_is_paid_off_before_anything_passes() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(8), 1000, start);
        bucket.take(51_000, start);
        assert!(!bucket.has(1, start + Duration::from_millis(50)));
        assert!(bucket.has_at(1) - start <= Duration::from_micros(50_001));
        assert!(bucket.has(1, bucket.has_at(1)));
        assert!(bucket.owes_less_than(1, bucket.has_at(1)));
    }

    #[test]
    fn another_rate_counts_from_then_on() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(8), 1000, start);
        bucket.take(1000, start);
        let later = start + Duration::from_millis(1);
        bucket.set_rate(rate(80), 500, later);
        // One millisecond at 1 MB/s would have been 1,000 bytes, and no more than 500 are saved up.
        assert!(bucket.has(500, later));
        bucket.take(500, later);
        assert!(!bucket.has(500, later + Duration::from_micros(49)));
        assert!(bucket.has(500, later + Duration::from_micros(50)));
    }
}
