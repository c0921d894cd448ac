//! Reading content, which waits while more has arrived than may.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, ready},
    time::Duration,
};

use quinn::{Connection, ReadExactError, RecvStream};
use tokio::time::{Instant, sleep_until};

use super::{Pace, lock, windows::LinkNumber};

/// A link that counts, until it is dropped.
#[derive(Debug)]
pub(in super::super) struct Registered {
    pace: Arc<Pace>,
    number: LinkNumber,
    address: SocketAddr,
    is_border: AtomicBool,
}

impl Registered {
    /// `window` is what the link began with; `address` is where it leads.
    pub(in super::super) fn new(
        pace: Arc<Pace>,
        connection: &Connection,
        address: SocketAddr,
        window: u64,
    ) -> Self {
        let mut links = lock(&pace.links);
        let number = links.next;
        links.next += 1;
        links.connections.insert(number, connection.clone());
        let changes = links.windows.add(number, window);
        links.tell(changes);
        drop(links);
        Self {
            pace,
            number,
            address,
            is_border: AtomicBool::new(false),
        }
    }

    pub(in super::super) fn set_border(&self, is_border: bool) {
        if self.is_border.swap(is_border, Ordering::Relaxed) != is_border {
            self.pace.set_border(self.address, is_border);
            let mut links = lock(&self.pace.links);
            let changes = links.windows.set_border(self.number, is_border);
            links.tell(changes);
        }
    }

    pub(in super::super) fn is_border(&self) -> bool {
        self.is_border.load(Ordering::Relaxed)
    }

    fn count_streams(&self, begins: bool) {
        let mut links = lock(&self.pace.links);
        let windows = &mut links.windows;
        let changes = if begins {
            windows.begin(self.number)
        } else {
            windows.end(self.number)
        };
        links.tell(changes);
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.set_border(false);
        let mut links = lock(&self.pace.links);
        let connection = links.connections.remove(&self.number);
        let changes = links.windows.remove(self.number);
        links.tell(changes);
        drop(links);
        // The last one closes it.
        drop(connection);
    }
}

/// Content is expected from a link: as long as this exists it has a share of what all may send.
#[derive(Debug)]
pub struct Content(Arc<Registered>);

impl Content {
    pub(in super::super) fn new(link: Arc<Registered>) -> Self {
        link.count_streams(true);
        Self(link)
    }

    /// Reads until the buffer is full, no faster than the caps allow. Not cancel-safe: a dropped read loses what it had read.
    ///
    /// # Errors
    /// Where the stream ends before, or with the link.
    pub async fn read_exact(
        &self,
        stream: &mut RecvStream,
        buffer: &mut [u8],
    ) -> Result<(), ReadExactError> {
        let pace = &self.0.pace;
        let mut filled = 0;
        let mut closed = pin!(sleep_until(Instant::now()));
        while filled < buffer.len() {
            let read = poll_fn(|cx| {
                if !pace.is_download_capped.load(Ordering::Relaxed) {
                    return stream.poll_read(cx, &mut buffer[filled..]);
                }
                while let Some(opens) = pace.reads_at(self.0.is_border()) {
                    // The caps may be others by then.
                    let look_again = std::time::Instant::now() + LOOK_AGAIN;
                    closed.as_mut().reset(opens.min(look_again).into());
                    ready!(closed.as_mut().poll(cx));
                }
                let end = buffer.len().min(filled + PIECE_BYTES);
                let read = ready!(stream.poll_read(cx, &mut buffer[filled..end]))?;
                let mut links = lock(&pace.links);
                let changes = links.windows.read(self.0.number, read as u64);
                links.tell(changes);
                Poll::Ready(Ok(read))
            });
            match read.await? {
                0 => return Err(ReadExactError::FinishedEarly(filled)),
                read => filled += read,
            }
        }
        Ok(())
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        self.0.count_streams(false);
    }
}

/// How long it is waited at most before it is looked again whether more may be read.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What is read before it is looked again whether more may be.
const PIECE_BYTES: usize = 8 * 1024;
