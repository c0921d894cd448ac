//! The one thread that writes to standard error: nobody who has something to say waits for whoever reads.
//!
//! A terminal that is held with Ctrl-S, an ssh session that stalls and a pipe that is not read take nothing; a deployment goes on
//! meanwhile. Lines that stay are queued; of the lines that are drawn again and again the latest alone is of use.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Condvar, Mutex, MutexGuard, Once, PoisonError},
    thread::ThreadId,
    time::Duration,
};

use super::region::{Region, size};

/// Most bytes that are queued: some lines of each host of the largest fleet. What comes beyond is counted and left out.
const QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How long a process that ends waits for a reader that takes nothing; one that takes something is waited for.
const IDLE_MAX: Duration = Duration::from_secs(3);

/// Standard error is one for the process.
pub(super) static STDERR: Writer = Writer::new(QUEUE_BYTES_MAX);

/// Says that something was left out, as one more line.
type LeftOut = fn(u64) -> String;

/// What is to be written, and by whom.
pub(super) struct Writer {
    bytes_max: usize,
    state: Mutex<State>,
    changed: Condvar,
    start: Once,
}

struct State {
    lines: VecDeque<Vec<u8>>,
    /// The bytes of these.
    queued_bytes: usize,
    /// Lines that had no room.
    left_out: u64,
    say_left_out: LeftOut,
    /// What is drawn below all lines, once these are written.
    frame: Option<Vec<String>>,
    /// Whether something was taken that is not written yet.
    is_writing: bool,
    /// How often something was written.
    written: u64,
    /// Whether it was waited for in vain, and nothing was written since.
    is_stuck: bool,
    thread: Option<ThreadId>,
}

impl Writer {
    const fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            state: Mutex::new(State {
                lines: VecDeque::new(),
                queued_bytes: 0,
                left_out: 0,
                say_left_out: |count| format!("{count} lines were left out: nobody read them"),
                frame: None,
                is_writing: false,
                written: 0,
                is_stuck: false,
                thread: None,
            }),
            changed: Condvar::new(),
            start: Once::new(),
        }
    }

    /// Has this said of lines that are left out.
    pub(super) fn say_left_out(&self, say: LeftOut) {
        self.lock().say_left_out = say;
    }

    /// Writes what stays. What was to be drawn before is not any more: it would be below.
    pub(super) fn write(&'static self, bytes: &[u8]) {
        self.start();
        self.queue(bytes);
    }

    /// Draws these lines in place of those that are there.
    pub(super) fn draw(&'static self, lines: &[String]) {
        self.start();
        self.lock().frame = Some(lines.to_vec());
        self.changed.notify_all();
    }

    /// Waits until all is written, as long as something is.
    pub(super) fn drain(&self) {
        let mut state = self.lock();
        while state.has_work()
            && !state.is_stuck
            && state.thread != Some(std::thread::current().id())
        {
            let before = state.written;
            let is_at_it = |state: &mut State| state.has_work() && state.written == before;
            let waited = self.changed.wait_timeout_while(state, IDLE_MAX, is_at_it);
            let (after, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = after;
            state.is_stuck |= timeout.timed_out();
        }
    }

    /// Whether the caller is the thread that writes.
    pub(super) fn is_this_thread(&self) -> bool {
        self.lock().thread == Some(std::thread::current().id())
    }

    fn queue(&self, bytes: &[u8]) {
        let mut state = self.lock();
        state.frame = None;
        if state.queued_bytes + bytes.len() > self.bytes_max {
            state.left_out += 1;
        } else {
            state.queued_bytes += bytes.len();
            state.lines.push_back(bytes.to_vec());
        }
        self.changed.notify_all();
    }

    fn start(&'static self) {
        self.start.call_once(|| {
            let thread = std::thread::Builder::new().name("stderr".to_owned());
            let run = || self.run(&mut io::stderr(), || size().columns);
            // Without it nothing is read, and all else works.
            let _ = thread.spawn(run);
        });
    }

    fn run(&self, out: &mut impl Write, columns: impl Fn() -> usize) {
        let mut region = Region::default();
        let mut state = self.lock();
        state.thread = Some(std::thread::current().id());
        loop {
            let waited = self.changed.wait_while(state, |state| !state.has_work());
            state = waited.unwrap_or_else(PoisonError::into_inner);
            let bytes = state.take(&mut region, &columns);
            state.is_writing = true;
            drop(state);
            // Whoever reads may have left: that ends no deployment.
            let _ = out.write_all(&bytes).and_then(|()| out.flush());
            state = self.lock();
            state.is_writing = false;
            state.written += 1;
            state.is_stuck = false;
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nobody panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_work(&self) -> bool {
        self.is_writing || !self.lines.is_empty() || self.left_out > 0 || self.frame.is_some()
    }

    /// What is written next, in one piece, so that nothing of it is seen half-drawn.
    fn take(&mut self, region: &mut Region, columns: impl Fn() -> usize) -> Vec<u8> {
        if let Some(line) = self.lines.pop_front() {
            self.queued_bytes -= line.len();
            let mut bytes = region.clear(columns()).into_bytes();
            bytes.extend(line);
            return bytes;
        }
        if self.left_out > 0 {
            let text = (self.say_left_out)(std::mem::take(&mut self.left_out));
            return format!("{}{text}\n", region.clear(columns())).into_bytes();
        }
        match self.frame.take() {
            Some(lines) if lines.is_empty() => region.clear(columns()).into_bytes(),
            Some(lines) => region.redraw(&lines, columns()).into_bytes(),
            None => Vec::new(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A reader that takes each piece when it is asked to.
    struct Held {
        asked: mpsc::Receiver<()>,
        taken: mpsc::Sender<String>,
    }

    impl Write for Held {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8_lossy(bytes).into_owned();
            self.asked.recv().map_err(io::Error::other)?;
            self.taken.send(text).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn held(bytes_max: usize) -> (&'static Writer, mpsc::Sender<()>, mpsc::Receiver<String>) {
        let writer: &'static Writer = Box::leak(Box::new(Writer::new(bytes_max)));
        let (ask, asked) = mpsc::channel();
        let (taken, pieces) = mpsc::channel();
        writer.start.call_once(|| {
            std::thread::spawn(move || writer.run(&mut Held { asked, taken }, || 80));
        });
        (writer, ask, pieces)
    }

    #[test]
    fn who_writes_does_not_wait_and_of_what_is_drawn_the_latest_is_shown() {
        let (writer, ask, pieces) = held(1000);
        for number in 0..5 {
            writer.write(format!("line {number}\n").as_bytes());
        }
        for number in 0..5 {
            writer.draw(&[format!("frame {number}")]);
        }
        for number in 0..5 {
            ask.send(()).unwrap();
            assert_eq!(pieces.recv().unwrap(), format!("line {number}\n"));
        }
        ask.send(()).unwrap();
        assert_eq!(pieces.recv().unwrap(), "\rframe 4\x1b[K\r\n\x1b[J");
        writer.drain();
        writer.write(b"above\n");
        ask.send(()).unwrap();
        assert_eq!(pieces.recv().unwrap(), "\r\x1b[1A\x1b[Jabove\n");
    }

    #[test]
    fn lines_without_room_are_counted_and_that_is_said() {
        let (writer, ask, pieces) = held(12);
        writer.write(b"first\n");
        // One may be on its way, and has left room.
        for _ in 0..10 {
            writer.write(b"other\n");
        }
        let mut all = String::new();
        while !all.ends_with("nobody read them\n") {
            ask.send(()).unwrap();
            all += &pieces.recv().unwrap();
        }
        let written = all.matches("other\n").count();
        let left_out = 10 - written;
        assert!((1..=2).contains(&written), "{all}");
        assert!(all.contains(&format!("{left_out} lines were left out")));
    }

    #[test]
    fn a_reader_that_takes_nothing_is_not_waited_for() {
        let (writer, _ask, _pieces) = held(1000);
        writer.write(b"text\n");
        let began = std::time::Instant::now();
        writer.drain();
        assert!(began.elapsed() >= IDLE_MAX);
    }
}
