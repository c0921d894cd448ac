//! Log lines on standard error, of which nobody can make more than a disk has room for.
//!
//! Much of what the daemon logs others bring about: links that are refused, orders that have no authority. So of each place in
//! the code so many lines a second are written, the next one that is says how many were left out, and all that can be asked for with `RUST_LOG=debug`
//! is written without a bound.

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::{self, Write},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use tracing::{Level, Metadata, callsite::Identifier};
use tracing_subscriber::fmt::MakeWriter;

/// Lines of one place that are written at once: what a deployment, a restart or a lost rack brings about in one go.
const BURST: f64 = 200.0;

/// Lines of one place in a second, from then on. At 200 bytes each, one place that somebody makes speak all the time fills 17 MB
/// a day.
const LINES_PER_SEC: f64 = 1.0;

/// Writes through `inner`, where there is something left of what a place in the code may write.
pub struct Bounded<M> {
    inner: M,
    places: Mutex<HashMap<Identifier, Place>>,
}

struct Place {
    left: f64,
    at: Instant,
    left_out: u64,
}

impl<M> Bounded<M> {
    /// All places have all left.
    pub fn new(inner: M) -> Self {
        Self {
            inner,
            places: Mutex::default(),
        }
    }

    /// Whether a line of that place is written; and how many before it were not.
    fn admit(&self, meta: &Metadata<'_>, now: Instant) -> Option<u64> {
        if *meta.level() > Level::INFO {
            return Some(0);
        }
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.entry(meta.callsite()).or_insert(Place {
            left: BURST,
            at: now,
            left_out: 0,
        });
        let gained = now.saturating_duration_since(place.at).as_secs_f64() * LINES_PER_SEC;
        (place.left, place.at) = ((place.left + gained).min(BURST), now);
        if place.left < 1.0 {
            place.left_out += 1;
            return None;
        }
        place.left -= 1.0;
        Some(std::mem::take(&mut place.left_out))
    }
}

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Bounded<M> {
    type Writer = Line<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Line {
            writer: Some(self.inner.make_writer()),
            left_out: 0,
        }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        let admitted = self.admit(meta, Instant::now());
        Line {
            writer: admitted.map(|_| self.inner.make_writer_for(meta)),
            left_out: admitted.unwrap_or(0),
        }
    }
}

/// What writes one line, or nothing.
pub struct Line<W> {
    writer: Option<W>,
    left_out: u64,
}

impl<W: Write> Write for Line<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(writer) = &mut self.writer else {
            return Ok(bytes.len());
        };
        if self.left_out > 0 {
            let mut said = String::new();
            let count = std::mem::take(&mut self.left_out);
            let _ = writeln!(said, "({count} lines like the next one were left out)");
            writer.write_all(said.as_bytes())?;
        }
        // All of it: what counts as written twice would be written twice.
        writer.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.as_mut().map_or(Ok(()), Write::flush)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tracing::subscriber::with_default;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn d12_a_flood_of_one_line_is_cut_off_and_counted_and_other_lines_are_not() {
        let kept = Kept::default();
        let into = kept.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::DEBUG)
            .with_writer(Bounded::new(move || into.clone()))
            .finish();
        let flood = || tracing::warn!("link refused");
        with_default(subscriber, || {
            for number in 0..100_000 {
                flood();
                if number < 300 {
                    tracing::debug!("a detail");
                }
            }
            tracing::warn!("another thing");
            std::thread::sleep(Duration::from_millis(1100));
            flood();
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        // A second or several may have passed meanwhile.
        assert!((201..=400).contains(&count("link refused")), "{text}");
        assert_eq!(count("another thing"), 1);
        assert_eq!(count("a detail"), 300);
        assert!(
            count("lines like the next one were left out") >= 1,
            "{text}"
        );
        assert!(text.len() < 100_000, "{} bytes", text.len());
    }
}
