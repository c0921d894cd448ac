//! The handshakes of whoever dials a host that waits to be enrolled: so shared out that strangers cannot hold them all.
//!
//! Who dials has proved its address, and nothing else. One of them is the coordinator; the others are to cost little, and not to
//! keep it out.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use scap_proto::transport::enroll::{EnrollLink, EnrollLinkError};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::timeout,
};

/// Handshakes at a time. Each is a connection of some tens of KiB.
const ALL_MAX: usize = 16;

/// Those of one network at a time, so that one stranger never has more than a quarter.
const NETWORK_MAX: usize = 4;

/// How long one may take: several round trips around the world on two busy cores. A coordinator that is slower dials again.
const TIME_MAX: Duration = Duration::from_secs(3);

/// What became of a handshake.
type Ended<T> = (SocketAddr, Result<T, EnrollLinkError>);

/// The handshakes that go on. Those that are dropped refuse their peers.
#[derive(Debug)]
pub(super) struct Handshakes<T = EnrollLink> {
    tasks: JoinSet<Ended<T>>,
    /// The earliest first.
    open: Vec<Open>,
    time_max: Duration,
}

#[derive(Debug)]
struct Open {
    network: IpAddr,
    task: AbortHandle,
}

impl<T: 'static> Default for Handshakes<T> {
    fn default() -> Self {
        Self {
            tasks: JoinSet::new(),
            open: Vec::new(),
            time_max: TIME_MAX,
        }
    }
}

impl<T: Send + 'static> Handshakes<T> {
    /// Whether one from this address may begin. One from elsewhere may have to end for it: the earliest of the network that has most.
    pub(super) fn has_room(&mut self, from: SocketAddr) -> bool {
        if self.of(network(from.ip())) >= NETWORK_MAX {
            return false;
        }
        if self.open.len() >= ALL_MAX {
            let most = self.open.iter().map(|it| self.of(it.network)).max();
            let first = self
                .open
                .iter()
                .position(|it| Some(self.of(it.network)) == most);
            self.open.remove(first.unwrap_or(0)).task.abort();
        }
        true
    }

    /// Begins one from this address.
    pub(super) fn begin(
        &mut self,
        from: SocketAddr,
        handshake: impl Future<Output = Result<T, EnrollLinkError>> + Send + 'static,
    ) {
        let time_max = self.time_max;
        let task = self.tasks.spawn(async move {
            let ended = timeout(time_max, handshake).await;
            (from, ended.unwrap_or(Err(EnrollLinkError::TimedOut)))
        });
        self.open.push(Open {
            network: network(from.ip()),
            task,
        });
    }

    /// The next that ends; none while there are none. One that panics is over, and nothing else is. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Ended<T>> {
        loop {
            let ended = self.tasks.join_next_with_id().await?;
            let id = match &ended {
                Ok((id, _)) => *id,
                Err(error) => error.id(),
            };
            self.open.retain(|it| it.task.id() != id);
            match ended {
                Ok((_, ended)) => return Some(ended),
                Err(error) if error.is_panic() => {
                    tracing::error!(%error, "a handshake panicked; the host goes on waiting");
                }
                Err(_) => {}
            }
        }
    }

    fn of(&self, network: IpAddr) -> usize {
        self.open.iter().filter(|it| it.network == network).count()
    }
}

/// What is counted as one: an IPv4 address, or the /64 that a site gives out as one IPv6 network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let prefix = u128::from(address) & !u128::from(u64::MAX);
            Ipv6Addr::from(prefix).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::future::pending;

    use super::*;

    fn from(text: &str) -> SocketAddr {
        format!("{text}:7").parse().unwrap()
    }

    /// Whether one that never ends was begun.
    fn hold(handshakes: &mut Handshakes<u32>, at: SocketAddr) -> bool {
        let has_room = handshakes.has_room(at);
        if has_room {
            handshakes.begin(at, pending());
        }
        has_room
    }

    #[tokio::test]
    async fn one_stranger_holds_a_quarter_of_the_handshakes_and_each_for_a_short_time() {
        let mut handshakes = Handshakes {
            time_max: Duration::from_millis(200),
            ..Handshakes::default()
        };
        let held = (0..20)
            .filter(|_| hold(&mut handshakes, from("10.0.0.1")))
            .count();
        assert_eq!(held, NETWORK_MAX);
        let one_network = (0..20).filter(|at| {
            let address = from(&format!("[2001:db8:0:1::{at:x}]"));
            hold(&mut handshakes, address)
        });
        assert_eq!(one_network.count(), NETWORK_MAX);
        let coordinator = from("10.0.0.2");
        assert!(handshakes.has_room(coordinator));
        handshakes.begin(coordinator, async { Ok(1) });
        let (address, ended) = handshakes.next().await.unwrap();
        assert_eq!((address, ended), (coordinator, Ok(1)));
        // The others are given up by themselves.
        for _ in 0..2 * NETWORK_MAX {
            let (_, ended) = handshakes.next().await.unwrap();
            assert_eq!(ended, Err(EnrollLinkError::TimedOut));
        }
        assert!(handshakes.next().await.is_none());
        assert!(handshakes.open.is_empty());
    }

    #[tokio::test]
    async fn where_many_strangers_hold_all_the_earliest_of_who_has_most_ends_for_the_coordinator() {
        let mut handshakes = Handshakes::default();
        assert!(hold(&mut handshakes, from("10.0.1.1")));
        for _ in 0..NETWORK_MAX {
            assert!(hold(&mut handshakes, from("10.0.2.1")));
        }
        for at in 0..ALL_MAX - NETWORK_MAX - 1 {
            assert!(hold(&mut handshakes, from(&format!("10.0.3.{at}"))));
        }
        for at in 0..2 {
            assert_eq!(handshakes.open.len(), ALL_MAX);
            let before: Vec<_> = handshakes.open.iter().map(|it| it.task.clone()).collect();
            let coordinator = from(&format!("10.0.4.{at}"));
            assert!(handshakes.has_room(coordinator));
            handshakes.begin(coordinator, async move { Ok(at) });
            let (address, _) = handshakes.next().await.unwrap();
            assert_eq!(address, coordinator);
            // Of the second network, not the first one.
            assert_eq!(handshakes.of(from("10.0.1.1").ip()), 1);
            assert_eq!(handshakes.of(from("10.0.2.1").ip()), NETWORK_MAX - 1);
            assert!(before[1].is_finished());
            assert!(hold(&mut handshakes, from("10.0.2.1")));
        }
    }

    #[tokio::test]
    async fn a_panic_in_one_handshake_ends_no_other() {
        let mut handshakes = Handshakes::default();
        let (bad, good) = (from("10.0.0.1"), from("10.0.0.2"));
        handshakes.begin(bad, async { panic!("a bug in a dependency") });
        handshakes.begin(good, async { Ok(3) });
        assert_eq!(handshakes.next().await, Some((good, Ok(3))));
        assert!(handshakes.next().await.is_none());
        assert!(handshakes.open.is_empty());
    }
}
