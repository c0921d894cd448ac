//! What somebody sends who has no identity: datagrams, and what stands between two nodes.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::{Rng, RngCore, SeedableRng};
use rand_pcg::Pcg64Mcg;
use scap_proto::identity::{Identity, verifier::Expect};
use scap_proto::transport::{Endpoint, LinkSettings};

/// The first datagrams of handshakes, as a client sends them: of each all that it sends before it hears anything.
///
/// # Panics
/// Where none come.
pub async fn first_packets(identity: Arc<Identity>, handshakes: usize) -> Vec<Vec<Vec<u8>>> {
    let sink = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = sink.local_addr().expect("it is bound");
    sink.set_read_timeout(Some(Duration::from_millis(100)))
        .expect("a timeout can be set");
    let mut all = Vec::new();
    for _ in 0..handshakes {
        let endpoint = Endpoint::dial_only(identity.clone(), &LinkSettings::default());
        let endpoint = endpoint.unwrap_or_else(|error| panic!("{error}"));
        let dial = endpoint.clone();
        let dialling =
            tokio::spawn(async move { dial.dial(&[address], &Expect::ANY).await.map(drop) });
        let listening = sink.try_clone().expect("a socket can be cloned");
        let came = tokio::task::spawn_blocking(move || {
            let mut came = Vec::new();
            let mut buffer = [0; 2048];
            // Later ones are the same again.
            while let Ok(length) = listening.recv(&mut buffer) {
                came.push(buffer[..length].to_vec());
                if came.len() == 2 {
                    break;
                }
            }
            came
        });
        all.push(came.await.expect("reading does not panic"));
        dialling.abort();
        endpoint.close(0, "");
    }
    assert!(all.iter().all(|it| !it.is_empty()), "no first packet came");
    all
}

/// Sockets at other addresses of this machine than 127.0.0.1, each a source of its own.
///
/// # Panics
/// Where there are none.
#[must_use]
pub fn sources(count: u8) -> Vec<UdpSocket> {
    let bind = |host| {
        let address = Ipv4Addr::new(127, 7, 7, host);
        UdpSocket::bind((address, 0)).expect("all of 127/8 is of this machine")
    };
    (1..=count).map(bind).collect()
}

/// Something that is sent at a rate until it is dropped.
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    began: Instant,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Calls `send` with a number so many times a second.
    #[must_use]
    pub fn start(per_sec: u64, mut send: impl FnMut(u64) + Send + 'static) -> Self {
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::<AtomicU64>::default(),
        );
        let began = Instant::now();
        let thread = {
            let (stop, sent) = (stop.clone(), sent.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    let due = millis * per_sec / 1000;
                    let done = sent.load(Ordering::Relaxed);
                    for number in done..due.min(done + per_sec) {
                        send(number);
                    }
                    sent.fetch_max(due, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(2));
                }
            })
        };
        Self {
            stop,
            sent,
            began,
            thread: Some(thread),
        }
    }

    /// How many were sent in a second, so far.
    #[must_use]
    pub fn per_sec(&self) -> f64 {
        self.sent.load(Ordering::Relaxed) as f64 / self.began.elapsed().as_secs_f64()
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A packet of no link that looks as a stateless reset does (RFC 9000, section 10.3): nobody who does not know the token can tell it
/// from one.
pub fn reset_like(rng: &mut Pcg64Mcg) -> Vec<u8> {
    let mut packet = vec![0; rng.random_range(21..1200)];
    rng.fill_bytes(&mut packet);
    packet[0] = 0x40 | packet[0] & 0x3f;
    packet
}

/// A generator for what has to differ and not to surprise.
#[must_use]
pub fn seeded(seed: u64) -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(seed)
}

/// Stands between one client and a server, and passes on what they send each other. Who stands there can send what it likes from the
/// address of either, and can change the client's.
pub struct Between {
    address: SocketAddr,
    shared: Arc<Passing>,
    threads: Vec<JoinHandle<()>>,
}

struct Passing {
    down: UdpSocket,
    /// Towards the server, which takes its address for the client's.
    up: Mutex<Arc<UdpSocket>>,
    client: Mutex<Option<SocketAddr>>,
    server: SocketAddr,
    stop: AtomicBool,
}

impl Between {
    /// Stands before a server.
    ///
    /// # Panics
    /// Where there is no port.
    #[must_use]
    pub fn before(server: SocketAddr) -> Self {
        let down = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = down.local_addr().expect("it is bound");
        let up = new_socket();
        let shared = Arc::new(Passing {
            down,
            up: Mutex::new(Arc::new(up)),
            client: Mutex::default(),
            server,
            stop: AtomicBool::new(false),
        });
        shared
            .down
            .set_read_timeout(Some(TICK))
            .expect("a timeout can be set");
        let passes: [fn(&Passing); 2] = [Passing::pass_up, Passing::pass_down];
        let threads = passes.map(|pass| {
            let shared = shared.clone();
            std::thread::spawn(move || pass(&shared))
        });
        Self {
            address,
            shared,
            threads: threads.into(),
        }
    }

    /// Where the client is to dial.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The client comes from another port from now on.
    pub fn rebind(&self) {
        *lock(&self.shared.up) = Arc::new(new_socket());
    }

    /// What sends a datagram to the server as if the client did, and one to the client as if the server did.
    pub fn forger(&self) -> impl Fn(&[u8]) + Send + 'static {
        let shared = self.shared.clone();
        move |datagram: &[u8]| {
            let up = lock(&shared.up).clone();
            let _ = up.send_to(datagram, shared.server);
            if let Some(client) = *lock(&shared.client) {
                let _ = shared.down.send_to(datagram, client);
            }
        }
    }
}

impl Passing {
    fn pass_up(&self) {
        let mut buffer = vec![0; 65_536];
        while !self.stop.load(Ordering::Relaxed) {
            if let Ok((length, client)) = self.down.recv_from(&mut buffer) {
                *lock(&self.client) = Some(client);
                let up = lock(&self.up).clone();
                let _ = up.send_to(&buffer[..length], self.server);
            }
        }
    }

    fn pass_down(&self) {
        let mut buffer = vec![0; 65_536];
        while !self.stop.load(Ordering::Relaxed) {
            let up = lock(&self.up).clone();
            if let Ok((length, _)) = up.recv_from(&mut buffer)
                && let Some(client) = *lock(&self.client)
            {
                let _ = self.down.send_to(&buffer[..length], client);
            }
        }
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn new_socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    socket
        .set_read_timeout(Some(TICK))
        .expect("a timeout can be set");
    socket
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How soon what has changed is seen.
const TICK: Duration = Duration::from_millis(20);
