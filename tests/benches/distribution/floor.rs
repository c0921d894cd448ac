//! What QUIC adds to content on the wire at best, where packets are of 1,500 bytes: no transport over it does better.

use serde_json::json;

use crate::row::Row;

/// What an interface carries in one packet, IP header included.
const PACKET_BYTES: f64 = 1500.0;
/// What a `tbf` queue counts of the frame around it: the Ethernet header, and not its check sum, preamble or gap.
const ETHERNET_BYTES: f64 = 14.0;
const IPV4_BYTES: f64 = 20.0;
const UDP_BYTES: f64 = 8.0;
/// RFC 9000, 17.3: one byte, the connection id as long as quinn makes it, and the packet's number, of which it sends two bytes where fewer
/// than 32,768 are on their way.
const QUIC_HEADER_BYTES: f64 = 1.0 + 8.0 + 2.0;
/// RFC 9001, 5.3: the tag of AES-GCM.
const TAG_BYTES: f64 = 16.0;
/// RFC 9000, 19.8: its type, its stream (two bytes from the 16th of a link on) and its offset in the stream, four bytes from 16 KiB on; the
/// length is left out where it fills the packet.
const STREAM_HEADER_BYTES: f64 = 1.0 + 2.0 + 4.0;
/// RFC 9000, 19.3: type, largest number (four bytes), delay (two), count of ranges, and the first range (two).
const ACK_BYTES: f64 = 1.0 + 4.0 + 2.0 + 1.0 + 2.0;
/// An agent acknowledges every so many packets (`proto/src/transport/settings.rs`).
const PACKETS_PER_ACK: f64 = 30.0;

/// Computed, not measured.
pub(crate) fn compute() -> Row {
    let headers = ETHERNET_BYTES + IPV4_BYTES + UDP_BYTES;
    let sealed = QUIC_HEADER_BYTES + TAG_BYTES;
    let content = PACKET_BYTES - IPV4_BYTES - UDP_BYTES - sealed - STREAM_HEADER_BYTES;
    let data = (ETHERNET_BYTES + PACKET_BYTES) / content;
    // A link that carries content both ways, as a host's does that passes on what it gets, has these beside it.
    let acknowledgement = (headers + sealed + ACK_BYTES) / (PACKETS_PER_ACK * content);
    let tcp = (ETHERNET_BYTES + PACKET_BYTES) / (PACKET_BYTES - IPV4_BYTES - TCP_BYTES);
    let what = "QUIC's own share at 1,500 bytes, as a multiple of the content; computed".to_owned();
    let mut row = Row::new("floor", what);
    row.tell("content in a packet, bytes", content);
    row.tell("headers, tag and framing, x", data);
    row.tell("acknowledgements the other way, x", acknowledgement);
    row.tell("both, on links full both ways, x", data + acknowledgement);
    row.tell("TCP with time stamps, for comparison, x", tcp);
    row.details = json!({
        "packet_bytes": PACKET_BYTES,
        "ethernet_bytes": ETHERNET_BYTES,
        "ip_udp_bytes": IPV4_BYTES + UDP_BYTES,
        "quic_header_bytes": QUIC_HEADER_BYTES,
        "tag_bytes": TAG_BYTES,
        "stream_header_bytes": STREAM_HEADER_BYTES,
        "acknowledgement_bytes": headers + sealed + ACK_BYTES,
        "packets_per_acknowledgement": PACKETS_PER_ACK,
    });
    row
}

/// With the option for time stamps, which Linux sends.
const TCP_BYTES: f64 = 32.0;
