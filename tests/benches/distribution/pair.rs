//! One host and the seed over the loopback device, against a bare quinn transfer of as much in the same place.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
};
use rustix::net::sockopt;
use scap_proto::transport::LinkSettings;
use scap_tests::fleet::{Fleet, Station};
use scap_tests::repo::write_incompressible;
use scap_tests::under_test;
use tokio::runtime::{Builder as RuntimeBuilder, Runtime};

use crate::MIB;
use crate::options::Options;
use crate::others::FILE;
use crate::ours::{Scene, in_place};
use crate::row::{Row, Target};
use crate::shape::Shape;

/// `None` where there can be no fleet.
pub(crate) fn measure(options: &Options, shape: &Shape) -> Option<Row> {
    let builder = shape
        .describe_to(Fleet::builder(under_test!()))
        .on_loopback();
    let fleet = in_place(options, builder).build()?;
    fleet.enrol();
    fleet.start_agents();
    let scene = Scene::with(options, shape, fleet);
    write_incompressible(&scene.repo.dir().join(FILE), shape.payload_bytes(), 1);
    let commit = scene.repo.commit("payload");
    let ours = scene.deploy(shape.payload_bytes() as u64);
    scene.assert_all_run(&commit);
    scene.clear();

    let station = scene.fleet.coordinator().station();
    let bare = |tuning: Tuning| {
        let rate = bare_rate(station, shape.payload_bytes(), tuning);
        rate.unwrap_or_else(|error| panic!("a bare transfer: {error:#}")) / MIB
    };
    let (plain, tuned) = (bare(Tuning::None), bare(Tuning::AsOurs));
    let fetched = ours.fetch_seconds.expect("the host fetched");
    let rate = shape.mib as f64 / fetched.most;

    let what = format!("{} MiB to one host over the loopback device", shape.mib);
    let mut row = Row::new("pair", what);
    row.tell("fetched, MiB/s", rate);
    row.tell("quinn as it comes, MiB/s", plain);
    row.tell("quinn with our packets and windows, MiB/s", tuned);
    row.judge(
        "fetched / the faster quinn",
        rate / plain.max(tuned),
        Target::AtLeast(0.9),
    );
    row.tell("deployment in all, s", ours.seconds);
    row.tell("CPU s/GiB delivered", ours.cpu_seconds_per_gib_delivered);
    row.idled(ours.machine_idle_share, false);
    row.agent_peak_rss_bytes = Some(ours.agent_peak_rss_bytes);
    row.notes.push(
        "quinn's bytes come from memory and go nowhere; ours are read, verified, and written to the store and the tree's file system"
            .to_owned(),
    );
    row.details = serde_json::json!({
        "shape": shape,
        "ours": ours,
        "bare_mib_per_second": plain,
        "bare_tuned_mib_per_second": tuned,
    });
    Some(row)
}

/// How a bare quinn is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tuning {
    /// As the crate has it.
    None,
    /// The packet size, the windows and the socket buffers of our links.
    AsOurs,
}

/// Bytes per second over one stream, from the connection on until the last byte is read.
///
/// # Errors
/// What a socket or quinn says.
fn bare_rate(station: &Station, bytes: usize, tuning: Tuning) -> Result<f64> {
    let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
    let sockets = station.inside(|| Ok::<_, std::io::Error>([bind()?, bind()?]));
    let [server_socket, client_socket] = sockets.context("bind two sockets")?;
    if tuning == Tuning::AsOurs {
        for socket in [&server_socket, &client_socket] {
            let buffer = LinkSettings::default().socket_buffer_bytes as usize;
            sockopt::set_socket_recv_buffer_size_force(socket, buffer)?;
            sockopt::set_socket_send_buffer_size_force(socket, buffer)?;
        }
    }
    let address = server_socket.local_addr()?;
    let key = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let certificate = CertificateDer::from(key.cert.der().to_vec());
    let private = PrivateKeyDer::try_from(key.signing_key.serialize_der());
    let private = private.map_err(anyhow::Error::msg)?;
    let mut server = ServerConfig::with_single_cert(vec![certificate.clone()], private)?;
    server.transport_config(transport(tuning));
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let mut client = ClientConfig::with_root_certificates(Arc::new(roots))?;
    client.transport_config(transport(tuning));

    let serving =
        thread::spawn(move || runtime()?.block_on(serve(server_socket, server, bytes, tuning)));
    let seconds = runtime()?.block_on(fetch(client_socket, client, address, bytes, tuning))?;
    serving.join().expect("it does not panic")?;
    Ok(bytes as f64 / seconds)
}

/// A runtime for each end, as for two processes.
fn runtime() -> std::io::Result<Runtime> {
    RuntimeBuilder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
}

fn transport(tuning: Tuning) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    if tuning == Tuning::AsOurs {
        let ours = LinkSettings::default();
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(ours.udp_payload_bytes_max);
        transport
            .mtu_discovery_config(Some(mtu))
            .stream_receive_window(VarInt::from_u32(ours.window_bytes))
            .send_window(ours.window_bytes.into());
    }
    Arc::new(transport)
}

fn endpoint(socket: UdpSocket, server: Option<ServerConfig>, tuning: Tuning) -> Result<Endpoint> {
    let mut config = EndpointConfig::default();
    if tuning == Tuning::AsOurs {
        config.max_udp_payload_size(LinkSettings::default().udp_payload_bytes_max)?;
    }
    socket.set_nonblocking(true)?;
    Ok(Endpoint::new(
        config,
        server,
        socket,
        Arc::new(TokioRuntime),
    )?)
}

/// Answers one connection with one stream.
async fn serve(
    socket: UdpSocket,
    config: ServerConfig,
    bytes: usize,
    tuning: Tuning,
) -> Result<()> {
    let endpoint = endpoint(socket, Some(config), tuning)?;
    let incoming = endpoint.accept().await.context("the endpoint is open")?;
    let connection = incoming.await?;
    let mut stream = connection.open_uni().await?;
    let piece = Bytes::from(vec![7; PIECE_BYTES]);
    let mut left = bytes;
    while left > 0 {
        let next = piece.slice(..left.min(PIECE_BYTES));
        left -= next.len();
        stream.write_chunk(next).await?;
    }
    stream.finish()?;
    // The other side closes when it has read all.
    connection.closed().await;
    Ok(())
}

async fn fetch(
    socket: UdpSocket,
    config: ClientConfig,
    address: SocketAddr,
    bytes: usize,
    tuning: Tuning,
) -> Result<f64> {
    let mut endpoint = endpoint(socket, None, tuning)?;
    endpoint.set_default_client_config(config);
    let connection = endpoint.connect(address, NAME)?.await?;
    let began = Instant::now();
    let mut stream = connection.accept_uni().await?;
    let mut received = 0;
    while let Some(chunk) = stream.read_chunk(usize::MAX, false).await? {
        received += chunk.bytes.len();
    }
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(received, bytes, "a stream is whole");
    connection.close(VarInt::from_u32(0), b"");
    endpoint.wait_idle().await;
    Ok(seconds)
}

/// In the certificate.
const NAME: &str = "bare";

/// Written at a time.
const PIECE_BYTES: usize = 1024 * 1024;
