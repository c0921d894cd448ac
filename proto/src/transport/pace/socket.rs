//! The socket between quinn and the kernel, which lets packets through as the caps allow.

use std::{
    future::Future,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Instant,
};

use quinn::{
    AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use tokio::task::JoinHandle;

use super::{Pace, lock, uplink::Packets, wire_bytes};
use crate::transport::{first_packets::FirstPackets, unproved::Unproved};

tokio::task_local! {
    /// Whose packets the running task sends: quinn has a task for each connection. It asks whether it may send without saying
    /// what, then sends, and if it is refused it asks again; here the one is found by the other.
    static TURN: Arc<Turn>;
}

/// Where one connection stands.
#[derive(Debug, Default)]
pub(super) struct Turn {
    state: Mutex<State>,
    /// Whether what it sent last went to another site.
    is_border: AtomicBool,
}

#[derive(Debug, Default)]
enum State {
    /// It may try.
    #[default]
    Free,
    /// These were refused.
    Refused(Packets),
    /// It waits for its turn with them.
    Waiting(Waker),
    /// It is its turn, and they count as sent.
    Come,
}

impl Turn {
    /// It is its turn; `counted` is whether its packets count as sent.
    pub(super) fn come(&self, counted: bool) {
        let state = if counted { State::Come } else { State::Free };
        if let State::Waiting(waker) = std::mem::replace(&mut *lock(&self.state), state) {
            waker.wake();
        }
    }
}

/// tokio, with a [`Turn`] for each task.
#[derive(Debug)]
pub(in super::super) struct PacedRuntime;

impl Runtime for PacedRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        TokioRuntime.spawn(Box::pin(TURN.scope(Arc::default(), future)));
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

/// A UDP socket with caps.
#[derive(Debug)]
pub(in super::super) struct PacedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    pace: Arc<Pace>,
    /// Of an endpoint that is dialled.
    first: Option<Arc<FirstPackets>>,
    unproved: Arc<Unproved>,
    turns: JoinHandle<()>,
}

impl PacedSocket {
    /// Needs a tokio runtime.
    ///
    /// # Errors
    /// What the system says.
    pub(in super::super) fn new(
        socket: std::net::UdpSocket,
        pace: Arc<Pace>,
        first: Option<Arc<FirstPackets>>,
        unproved: Arc<Unproved>,
    ) -> io::Result<Self> {
        Ok(Self {
            inner: TokioRuntime.wrap_udp_socket(socket)?,
            first,
            unproved,
            turns: tokio::spawn(Arc::clone(&pace).give_turns()),
            pace,
        })
    }
}

impl Drop for PacedSocket {
    fn drop(&mut self) {
        self.turns.abort();
    }
}

impl AsyncUdpSocket for PacedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(PacedPoller {
            inner: Arc::clone(&self.inner).create_io_poller(),
            pace: Arc::clone(&self.pace),
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if !self
            .unproved
            .may_send(transmit.destination, transmit.contents.len())
        {
            // As if it were lost on its way.
            return Ok(());
        }
        let packets = self.pace.packets(transmit);
        let is_capped = self.pace.is_upload_capped();
        if is_capped && !self.pace.may_send(packets, transmit) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let sent = self.inner.try_send(transmit);
        match &sent {
            Ok(()) => {
                let border = if packets.is_border {
                    packets.wire_bytes
                } else {
                    0
                };
                self.pace.sent.add(packets.wire_bytes, border);
            }
            // The kernel has no room: they are sent again, and were counted.
            Err(error) if is_capped && error.kind() == io::ErrorKind::WouldBlock => {
                let _ = TURN.try_with(|turn| *lock(&turn.state) = State::Come);
            }
            Err(_) => {}
        }
        sent
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        received: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.inner.poll_recv(cx, buffers, received))?;
        let (mut all, mut border) = (0, 0);
        for meta in &received[..count] {
            let bytes = wire_bytes(meta.len, meta.len.div_ceil(meta.stride.max(1)), meta.addr);
            all += bytes;
            self.unproved.came(meta.addr, meta.len);
            if self.pace.is_border(meta.addr) {
                border += bytes;
            }
        }
        self.pace.arrived(all, border);
        if let Some(first) = &self.first {
            let now = Instant::now();
            for (buffer, meta) in buffers.iter_mut().zip(received).take(count) {
                first.filter(buffer, meta, now);
            }
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        let most = self.inner.max_transmit_segments();
        if !self.pace.is_upload_capped() {
            return most;
        }
        let is_border = TURN.try_with(|turn| turn.is_border.load(Ordering::Relaxed));
        let turn = match is_border {
            Ok(true) => self.pace.border_turn_bytes.load(Ordering::Relaxed),
            _ => self.pace.turn_bytes.load(Ordering::Relaxed),
        };
        if turn == 0 {
            most
        } else {
            let datagram = self.pace.datagram_bytes.load(Ordering::Relaxed) as u64;
            usize::try_from(turn / datagram).map_or(most, |turn| turn.clamp(1, most))
        }
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[derive(Debug)]
struct PacedPoller {
    inner: Pin<Box<dyn UdpPoller>>,
    pace: Arc<Pace>,
}

impl UdpPoller for PacedPoller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.pace.is_upload_capped() {
            let turn = TURN.try_with(|turn| self.pace.poll_turn(turn, cx));
            // A task that is no connection's waits for nobody.
            ready!(turn.unwrap_or(Poll::Ready(())));
        }
        self.inner.as_mut().poll_writable(cx)
    }
}

impl Pace {
    fn is_upload_capped(&self) -> bool {
        self.is_upload_capped.load(Ordering::Relaxed)
    }

    fn packets(&self, transmit: &Transmit<'_>) -> Packets {
        let length = transmit.contents.len();
        let datagram = transmit.segment_size.unwrap_or(length).max(1);
        let datagrams = length.div_ceil(datagram);
        Packets {
            wire_bytes: wire_bytes(length, datagrams, transmit.destination),
            is_border: self.is_border(transmit.destination),
            is_short: datagrams == 1 && length <= SHORT_BYTES_MAX,
        }
    }

    /// Whether the connection that this task is for may send these now; if so, they count as sent. If not, it waits for its
    /// turn from when it asks next.
    fn may_send(&self, packets: Packets, transmit: &Transmit<'_>) -> bool {
        let datagram = transmit.segment_size.unwrap_or(transmit.contents.len());
        self.datagram_bytes.fetch_max(datagram, Ordering::Relaxed);
        let try_now = || lock(&self.uplink).admit(packets, Instant::now());
        TURN.try_with(|turn| {
            turn.is_border.store(packets.is_border, Ordering::Relaxed);
            // Not locked beyond this: who gives turns has the uplink locked and then a turn.
            let has_come = matches!(std::mem::take(&mut *lock(&turn.state)), State::Come);
            let may_send = has_come || try_now();
            if !may_send {
                *lock(&turn.state) = State::Refused(packets);
            }
            may_send
        })
        .unwrap_or_else(|_| try_now())
    }

    fn poll_turn(&self, turn: &Arc<Turn>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&turn.state);
        let refused = match &*state {
            State::Free | State::Come => return Poll::Ready(()),
            State::Refused(packets) => Some(*packets),
            State::Waiting(_) => None,
        };
        *state = State::Waiting(cx.waker().clone());
        drop(state);
        if let Some(packets) = refused {
            lock(&self.uplink).wait(packets, Arc::downgrade(turn));
            self.uplink_changed.notify_one();
        }
        Poll::Pending
    }
}

/// Longest payload of a short packet, in bytes: shorter than any datagram that a link fills.
const SHORT_BYTES_MAX: usize = 1000;
