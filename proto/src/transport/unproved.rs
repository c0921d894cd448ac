//! Addresses that have not shown that they receive what is sent there: no more than three bytes go there for one that came.
//!
//! RFC 9000, section 8.1, says so, and quinn keeps to it but for the last datagram, which it sends whole where any room is left. Here that one is
//! held back too: to who is really there it is as one that was lost.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Bytes that may be sent for each that came.
const FACTOR: u64 = 3;

/// What came at least, in bytes, where a handshake is begun: first packets are filled up to this, or dropped.
const FIRST_BYTES_MIN: u64 = 1200;

/// All such addresses, with which there are handshakes: few at a time.
#[derive(Debug, Default)]
pub(super) struct Unproved {
    /// So that who has nothing to do with it need not lock.
    count: AtomicUsize,
    addresses: Mutex<HashMap<SocketAddr, Passed>>,
}

#[derive(Debug)]
struct Passed {
    handshakes: usize,
    came: u64,
    sent: u64,
}

/// A handshake with such an address, until it is dropped.
#[derive(Debug)]
pub(super) struct Watched {
    all: Arc<Unproved>,
    address: SocketAddr,
}

impl Unproved {
    /// A handshake begins with an address whose first packet came.
    pub(super) fn watch(self: &Arc<Self>, address: SocketAddr) -> Watched {
        let mut addresses = self.lock();
        let passed = addresses.entry(address).or_insert(Passed {
            handshakes: 0,
            came: 0,
            sent: 0,
        });
        passed.handshakes += 1;
        passed.came += FIRST_BYTES_MIN;
        self.count.store(addresses.len(), Ordering::Relaxed);
        Watched {
            all: Arc::clone(self),
            address,
        }
    }

    pub(super) fn came(&self, address: SocketAddr, bytes: usize) {
        if self.count.load(Ordering::Relaxed) != 0
            && let Some(passed) = self.lock().get_mut(&address)
        {
            passed.came += bytes as u64;
        }
    }

    /// Whether so many bytes may go there; if so, they count as sent.
    pub(super) fn may_send(&self, address: SocketAddr, bytes: usize) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return true;
        }
        let mut addresses = self.lock();
        let Some(passed) = addresses.get_mut(&address) else {
            return true;
        };
        let sent = passed.sent + bytes as u64;
        let may_send = sent <= FACTOR * passed.came;
        if may_send {
            passed.sent = sent;
        }
        may_send
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Passed>> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut addresses = self.all.lock();
        if let Some(passed) = addresses.get_mut(&self.address) {
            passed.handshakes -= 1;
            if passed.handshakes == 0 {
                addresses.remove(&self.address);
            }
        }
        self.all.count.store(addresses.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn three_bytes_go_for_one_that_came_and_to_others_as_many_as_there_are() {
        let all = Arc::<Unproved>::default();
        let [one, other]: [SocketAddr; 2] =
            ["10.0.0.1:1", "10.0.0.1:2"].map(|it| it.parse().unwrap());
        assert!(all.may_send(one, 1_000_000));
        let watched = all.watch(one);
        assert!(all.may_send(one, 3000) && !all.may_send(one, 601) && all.may_send(one, 600));
        assert!(!all.may_send(one, 1) && all.may_send(other, 1_000_000));
        all.came(one, 100);
        all.came(other, 100);
        assert!(all.may_send(one, 300) && !all.may_send(one, 1));
        let again = all.watch(one);
        drop(watched);
        assert!(all.may_send(one, 3600) && !all.may_send(one, 1));
        drop(again);
        assert!(all.may_send(one, 1_000_000));
        assert_eq!(all.lock().len(), 0);
    }
}
