//! How a link is tuned, for hosts in a data centre, and what it may cost in memory.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::{
    AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt,
    congestion::CubicConfig,
};

use super::route;

/// Most streams that one side of a link has open at a time, per side that opens: a session, a
/// control stream, and far more chunk requests than bandwidth × delay asks of one peer (1 MiB each
/// at most).
pub const STREAMS_MAX: u32 = 128;

/// What a smaller step than this finds in the search for a path's packet size, its upper end aside, is not worth a probe, in bytes. Where
/// 1,500 are all, as on most links, two probes are sent in place of four: 3 KB less, on links that carry hardly more for a
/// changed line.
const MTU_STEP_BYTES_MIN: u16 = 90;

/// Most pushes that one side of a link has under way at a time. Each fills a chunk in the receiver's memory, so few of
/// the largest; of the usual 128 KiB they are 2 MiB: 400 Mbit/s at 40 ms of round trip.
pub const PUSHES_MAX: u32 = 16;

/// After so many seconds without a packet a keep-alive is sent. Three fit [`IDLE_SECS_MAX`], so two
/// may be lost.
pub const KEEP_ALIVE_SECS: u64 = 5;

/// After so many seconds without hearing from the peer a link is lost.
pub const IDLE_SECS_MAX: u64 = 15;

/// What differs between hosts. The default suits an agent in a rack; a host that feeds another site
/// over one link wants a larger window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkSettings {
    /// Most bytes that a link holds in each direction: received and not yet read, and sent and not
    /// yet acknowledged; [`Self::WINDOW_BYTES_MIN`] to 1 GiB, and what is outside is brought
    /// inside.
    ///
    /// A link carries at most window / round trip. The default of 4 MiB fills 10 Gbit/s up to a
    /// round trip of 3 ms, which no data centre exceeds. Between sites at 40 ms it is 0.8 Gbit/s a
    /// link, and as many links as a swarm has fill the line together (12 for 10 Gbit/s, whose
    /// bandwidth × delay is 50 MB).
    ///
    /// What memory it costs: nothing in itself. A node receives only chunks it asked for, within
    /// its own budget of bytes in flight, and serves few peers at a time. The window bounds what
    /// one peer that breaks the rules can take: 8 MiB, until it is dropped.
    pub window_bytes: u32,
    /// Largest UDP payload that path discovery tries, and that is received, in bytes; 1,200 to
    /// [`Self::UDP_PAYLOAD_BYTES_MAX`], and what is outside is brought inside. Discovery starts
    /// from 1,200 and goes no further than this host's own interface carries: 4 probes where frames are
    /// of 1,500, none of them lost on a path of such links.
    pub udp_payload_bytes_max: u16,
    /// What is asked of the kernel for each of the socket's two buffers, in bytes. The default of 4
    /// MiB absorbs 3 ms of 10 Gbit/s while this process is not scheduled. It is kernel memory and
    /// used only in bursts.
    pub socket_buffer_bytes: u32,
}

impl LinkSettings {
    /// Least window, in bytes: one chunk of 1 MiB and its header must fit, or fetching it takes
    /// several round trips.
    pub const WINDOW_BYTES_MIN: u32 = STREAM_WINDOW_BYTES;

    /// Largest UDP payload that a link can be set to use, in bytes. quinn hands the kernel up to 10
    /// packets as one send of at most 65,507 bytes (IPv4); a longer send is dropped without an
    /// error. So jumbo frames of 9,000 are used to three quarters.
    pub const UDP_PAYLOAD_BYTES_MAX: u16 = 65_507 / 10;

    pub(super) fn udp_payload_bytes_max(&self) -> u16 {
        self.udp_payload_bytes_max
            .clamp(1200, Self::UDP_PAYLOAD_BYTES_MAX)
    }

    /// [`Self::window_bytes`], in its range.
    pub(super) fn window_bytes(&self) -> u32 {
        self.window_bytes.clamp(Self::WINDOW_BYTES_MIN, 1 << 30)
    }

    /// The settings for a link to `peer` that begins with the receive window `first`, as quinn takes them.
    pub(super) fn transport_config(&self, peer: SocketAddr, first: u64) -> Arc<TransportConfig> {
        let window = self.window_bytes();
        let idle = IdleTimeout::try_from(Duration::from_secs(IDLE_SECS_MAX)).expect("it is short");

        let mut mtu = MtuDiscoveryConfig::default();
        let local_max = route::udp_payload_bytes(peer).unwrap_or(u16::MAX);
        mtu.upper_bound(self.udp_payload_bytes_max().min(local_max.max(1200)))
            .minimum_change(MTU_STEP_BYTES_MIN);

        // An acknowledgement for every 30th packet instead of every 2nd, about one for three of the
        // bursts that quinn sends in one piece. Where many peers send a little each it is the delay
        // that counts: at 5 ms nearly every packet would be acknowledged by one of its own.
        let mut acknowledge = AckFrequencyConfig::default();
        acknowledge
            .ack_eliciting_threshold(VarInt::from_u32(29))
            .max_ack_delay(Some(Duration::from_millis(25)));

        let mut congestion = CubicConfig::default();
        congestion.initial_window(INITIAL_WINDOW_BYTES);

        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
            // The welcome, then pushes.
            .max_concurrent_uni_streams(VarInt::from_u32(PUSHES_MAX))
            .datagram_receive_buffer_size(None)
            .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
            .receive_window(VarInt::from_u64(first).expect("no window is longer than a full one"))
            .send_window(window.into())
            // Chunks finish one after the other, so that the receiver can pass on the first while
            // it gets the next.
            .send_fairness(false)
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(Some(Duration::from_secs(KEEP_ALIVE_SECS)))
            .initial_rtt(INITIAL_RTT)
            .mtu_discovery_config(Some(mtu))
            .ack_frequency_config(Some(acknowledge))
            .congestion_controller_factory(Arc::new(congestion))
            .enable_segmentation_offload(true);
        Arc::new(transport)
    }
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            window_bytes: 4 * 1024 * 1024,
            udp_payload_bytes_max: Self::UDP_PAYLOAD_BYTES_MAX,
            socket_buffer_bytes: 4 * 1024 * 1024,
        }
    }
}

/// Most bytes of one stream that are received and not yet read: the largest chunk (1 MiB) with its
/// header, and no more, so one stream nobody reads leaves the others room.
const STREAM_WINDOW_BYTES: u32 = 1280 * 1024;

/// The round trip assumed before the first is measured; lost handshake packets are sent again after
/// three of it. Above the 40 ms between sites, and far below the 333 ms meant for the internet, so
/// a lost packet costs 150 ms.
const INITIAL_RTT: Duration = Duration::from_millis(50);

/// Bytes sent before the first acknowledgement: 32 packets, so that a small deploy (a few chunks)
/// crosses to another site in one or two round trips. 16 peers that start at once send 0.6 MB,
/// which a switch buffers.
const INITIAL_WINDOW_BYTES: u64 = 32 * 1200;
