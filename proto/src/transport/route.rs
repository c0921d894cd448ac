//! What this host's own routes say about a peer.

use std::{io, net::SocketAddr};

use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

/// The largest UDP payload, in bytes, that fits one packet of the interface towards `peer`: its MTU without the IP and
/// UDP headers. The path may carry less. `None` where there is no route, or the system does not say.
pub(super) fn udp_payload_bytes(peer: SocketAddr) -> Option<u16> {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let headers = if peer.is_ipv4() { 20 + 8 } else { 40 + 8 };
    let bytes = mtu(peer).ok()?.saturating_sub(headers);
    Some(u16::try_from(bytes).unwrap_or(u16::MAX))
}

/// Asks with a socket of its own: connecting a UDP socket looks the route up and sends nothing.
fn mtu(peer: SocketAddr) -> io::Result<u32> {
    let family = match peer {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &peer)?;
    let mtu = match peer {
        SocketAddr::V4(_) => sockopt::ip_mtu(&socket)?,
        SocketAddr::V6(_) => sockopt::ipv6_mtu(&socket)?,
    };
    Ok(mtu)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_carries_what_its_interface_says() {
        let mtu: u32 = std::fs::read_to_string("/sys/class/net/lo/mtu")
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        // No IPv4 packet is longer than this.
        let fits = u16::try_from(mtu.min(65_535) - 28).unwrap();
        let v4 = SocketAddr::from(([127, 0, 0, 1], 7227));
        let mapped = SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), 7227);
        assert_eq!(udp_payload_bytes(v4), Some(fits));
        assert_eq!(udp_payload_bytes(mapped), Some(fits));
    }
}
