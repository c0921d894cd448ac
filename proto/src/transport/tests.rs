//! Over real UDP on loopback.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use quinn::crypto::rustls::QuicClientConfig;
use rustls::version::TLS13;
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::{
    id::NodeId,
    identity::{
        CertificateAuthority, Identity, RENEWAL_GRACE_DAYS, Refusal, RefusalKind, RefusedBy, Role,
        Validity, provider,
        verifier::{Expect, Verifier},
    },
    reason::Reason,
};

mod hostile;

const YEAR_MS: u64 = 365 * 24 * 3600 * 1000;

fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_millis().try_into().unwrap()
}

/// An authority that has been there for two years.
pub(super) fn authority(fleet: &str) -> CertificateAuthority {
    CertificateAuthority::create(&fleet.parse().unwrap(), now_unix_ms() - 2 * YEAR_MS).unwrap()
}

fn name(text: &str) -> NodeId {
    text.parse().unwrap()
}

fn identity_at(
    authority: &CertificateAuthority,
    role: Role,
    text: &str,
    issued_unix_ms: u64,
) -> (TempDir, Arc<Identity>) {
    let directory = tempfile::tempdir().unwrap();
    let node = authority.node(role, name(text));
    let validity = Validity::leaf(issued_unix_ms);
    let identity = Identity::create(directory.path(), authority, &node, validity).unwrap();
    (directory, Arc::new(identity))
}

pub(super) fn identity(authority: &CertificateAuthority, role: Role, text: &str) -> Arc<Identity> {
    identity_at(authority, role, text, now_unix_ms()).1
}

/// An identity that also trusts the nodes of another authority.
fn identity_trusting(ours: &CertificateAuthority, theirs: &CertificateAuthority) -> Arc<Identity> {
    let (directory, _) = identity_at(ours, Role::Agent, "web1", now_unix_ms());
    let both = format!("{}{}", ours.certificate().pem, theirs.certificate().pem);
    std::fs::write(directory.path().join("ca.crt"), both).unwrap();
    Arc::new(Identity::load(directory.path()).unwrap())
}

fn listen(identity: Arc<Identity>) -> (Endpoint, SocketAddr) {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let endpoint = Endpoint::listen(identity, any, &LinkSettings::default()).unwrap();
    let address = endpoint.local_address().unwrap();
    (endpoint, address)
}

fn dialler(identity: Arc<Identity>) -> Endpoint {
    Endpoint::dial_only(identity, &LinkSettings::default()).unwrap()
}

pub(super) async fn accept_one(endpoint: &Endpoint, expect: Expect) -> Result<Link, AcceptError> {
    let incoming = timeout(Duration::from_secs(20), endpoint.accept()).await;
    incoming
        .expect("somebody dials")
        .unwrap()
        .finish(expect)
        .await
}

/// One dialled handshake, as both sides see it: (the dialling side, the accepting side).
async fn meet(
    dialling: Arc<Identity>,
    dial_expect: Expect,
    accepting: Arc<Identity>,
    accept_expect: Expect,
) -> (Result<Link, HandshakeError>, Result<Link, HandshakeError>) {
    let (listener, address) = listen(accepting);
    let dialler = dialler(dialling);
    let addresses = [address];
    let (dialled, accepted) = tokio::join!(
        dialler.dial(&addresses, &dial_expect),
        accept_one(&listener, accept_expect)
    );
    let dialled = dialled.map_err(|mut error| error.failures.remove(0).1);
    (dialled, accepted.map_err(|error| error.source))
}

/// What both sides of a refused handshake say: who refuses has the whole reason, the other its
/// kind.
fn assert_refused(by: &HandshakeError, told: &HandshakeError, kind: RefusalKind, words: &str) {
    assert!(matches!(by, HandshakeError::RefusedPeer(_)), "{by:?}");
    assert_eq!(by.refusal_kind(), Some(kind), "{by}");
    assert!(
        by.to_string().contains(words),
        "`{by}` does not say `{words}`"
    );
    let HandshakeError::Refused(told) = told else {
        panic!("{told:?}")
    };
    assert_eq!((told.by, told.kind), (RefusedBy::Peer, kind), "{told}");
    assert!(
        told.to_string().starts_with("the peer refused us: "),
        "{told}"
    );
}

#[tokio::test]
async fn two_nodes_of_a_fleet_meet_and_exchange_a_stream_in_each_direction() {
    let fleet = authority("prod");
    let (dialled, accepted) = meet(
        identity(&fleet, Role::Coordinator, "deploy1"),
        Expect::agent(name("web1")),
        identity(&fleet, Role::Agent, "web1"),
        Expect::ANY,
    )
    .await;
    let (coordinator, agent) = (dialled.unwrap(), accepted.unwrap());
    assert_eq!(coordinator.peer().to_uri(), "scap://prod/agent/web1");
    assert_eq!(agent.peer().to_uri(), "scap://prod/coordinator/deploy1");
    assert!(agent.remote_address().is_ipv4());

    for (from, to) in [(&coordinator, &agent), (&agent, &coordinator)] {
        let (mut send, mut receive) = from.open_bi().await.unwrap();
        send.write_all(b"ping").await.unwrap();
        send.finish().unwrap();
        let (mut answer, mut question) = to.accept_bi().await.unwrap();
        assert_eq!(question.read_to_end(16).await.unwrap(), b"ping");
        answer.write_all(b"pong").await.unwrap();
        answer.finish().unwrap();
        assert_eq!(receive.read_to_end(16).await.unwrap(), b"pong");
    }
    agent.close(7, "done here");
    assert_eq!(coordinator.closed().await.close_code(), Some(7));
    assert_eq!(
        coordinator.open_bi().await.unwrap_err().close_code(),
        Some(7)
    );
}

#[tokio::test]
async fn a_link_to_ask_is_told_from_others_and_an_older_peer_refuses_it_for_its_version() {
    let fleet = authority("prod");
    let us = identity(&fleet, Role::Coordinator, "deploy1");
    let (listener, address) = listen(identity(&fleet, Role::Agent, "web1"));
    let dialler = dialler(Arc::clone(&us));
    let (addresses, expect) = ([address], Expect::agent(name("web1")));
    let (asking, asked) = tokio::join!(
        dialler.dial_to_ask(&addresses, &expect),
        accept_one(&listener, Expect::ANY)
    );
    let (asking, asked) = (asking.unwrap(), asked.unwrap());
    assert!(asking.is_question() && asked.is_question());
    assert_eq!(asked.peer_key().as_ref(), Some(us.public_key()));
    let (dialled, accepted) = tokio::join!(
        dialler.dial(&addresses, &expect),
        accept_one(&listener, Expect::ANY)
    );
    assert!(!dialled.unwrap().is_question() && !accepted.unwrap().is_question());
    // As it is to a peer of before there was such a protocol.
    let (refused, _) = tokio::join!(
        dialler.dial_for("scap-unheard-of/1", &addresses, &expect),
        accept_one(&listener, Expect::ANY)
    );
    assert!(refused.unwrap_err().is_version());
    // Who is not there speaks no version.
    drop(listener);
    let nobody = DialError {
        name: None,
        failures: vec![(address, HandshakeError::TimedOut)],
    };
    assert!(!nobody.is_version());
}

#[tokio::test]
async fn a_stranger_without_a_certificate_is_refused_in_the_handshake() {
    let fleet = authority("prod");
    let agent = identity(&fleet, Role::Agent, "web1");
    let (listener, address) = listen(Arc::clone(&agent));
    let stranger = async {
        let verifier = Verifier::new(agent.trust().clone(), Expect::ANY);
        let mut tls = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        tls.alpn_protocols = vec![ALPN.into()];
        let tls = QuicClientConfig::try_from(tls).unwrap();
        let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(tls));
        let connection = endpoint.connect_with(config, address, "x").unwrap().await;
        connection.unwrap().closed().await
    };
    let (error, accepted) = tokio::join!(stranger, accept_one(&listener, Expect::ANY));
    let told = crate::identity::handshake_refusal(&error).unwrap();
    assert_eq!(
        (told.by, told.kind),
        (RefusedBy::Peer, RefusalKind::NoCertificate)
    );
    let refused = accepted.unwrap_err();
    assert_eq!(
        refused.source.refusal_kind(),
        Some(RefusalKind::NoCertificate)
    );
    assert_eq!(refused.source.to_string(), "the peer showed no certificate");
}

#[tokio::test]
async fn a_node_of_an_authority_with_the_same_name_is_refused_as_a_stranger() {
    let ours = authority("prod");
    let theirs = authority("prod");
    // Our node is shown a stranger that dials it.
    let (directory, _) = identity_at(&theirs, Role::Agent, "web2", now_unix_ms());
    let both = format!("{}{}", ours.certificate().pem, theirs.certificate().pem);
    std::fs::write(directory.path().join("ca.crt"), both).unwrap();
    let trusting_stranger = Arc::new(Identity::load(directory.path()).unwrap());
    let (dialled, accepted) = meet(
        trusting_stranger,
        Expect::ANY,
        identity(&ours, Role::Agent, "web1"),
        Expect::ANY,
    )
    .await;
    assert_refused(
        &accepted.unwrap_err(),
        &dialled.unwrap_err(),
        RefusalKind::UnknownIssuer,
        "claims to be agent web2 of fleet prod, but no authority we trust certified it",
    );
    // Our node dials a stranger.
    let (dialled, accepted) = meet(
        identity(&ours, Role::Agent, "web1"),
        Expect::ANY,
        identity(&theirs, Role::Agent, "web2"),
        Expect::ANY,
    )
    .await;
    assert_refused(
        &dialled.unwrap_err(),
        &accepted.unwrap_err(),
        RefusalKind::UnknownIssuer,
        "no authority we trust",
    );
}

#[tokio::test]
async fn a_wrong_role_is_refused_by_either_side() {
    let fleet = authority("prod");
    let coordinators = Expect {
        roles: &[Role::Coordinator],
        ..Expect::ANY
    };
    let (dialled, accepted) = meet(
        identity(&fleet, Role::Agent, "web1"),
        Expect::ANY,
        identity(&fleet, Role::Agent, "web2"),
        coordinators.clone(),
    )
    .await;
    let words = "the peer is agent web1 of fleet prod, expected coordinator";
    assert_refused(
        &accepted.unwrap_err(),
        &dialled.unwrap_err(),
        RefusalKind::WrongRole,
        words,
    );
    let (dialled, accepted) = meet(
        identity(&fleet, Role::Agent, "web1"),
        coordinators,
        identity(&fleet, Role::Agent, "web2"),
        Expect::ANY,
    )
    .await;
    let words = "the peer is agent web2 of fleet prod, expected coordinator";
    assert_refused(
        &dialled.unwrap_err(),
        &accepted.unwrap_err(),
        RefusalKind::WrongRole,
        words,
    );
}

#[tokio::test]
async fn another_host_at_the_address_that_was_dialled_is_refused() {
    let fleet = authority("prod");
    let (dialled, accepted) = meet(
        identity(&fleet, Role::Coordinator, "deploy1"),
        Expect::agent(name("web1")),
        identity(&fleet, Role::Agent, "web2"),
        Expect::ANY,
    )
    .await;
    let words = "the peer is agent web2 of fleet prod, expected web1";
    assert_refused(
        &dialled.unwrap_err(),
        &accepted.unwrap_err(),
        RefusalKind::WrongName,
        words,
    );
}

#[tokio::test]
async fn a_node_of_another_fleet_is_refused_even_where_its_authority_is_trusted() {
    let ours = authority("prod");
    let theirs = authority("staging");
    let (directory, _) = identity_at(&theirs, Role::Agent, "web9", now_unix_ms());
    let both = format!("{}{}", ours.certificate().pem, theirs.certificate().pem);
    std::fs::write(directory.path().join("ca.crt"), both).unwrap();
    let other = Arc::new(Identity::load(directory.path()).unwrap());
    let (dialled, accepted) = meet(
        identity_trusting(&ours, &theirs),
        Expect::ANY,
        other,
        Expect::ANY,
    )
    .await;
    let words = "the peer is agent web9 of fleet staging, this node is of fleet prod";
    assert_refused(
        &dialled.unwrap_err(),
        &accepted.unwrap_err(),
        RefusalKind::WrongFleet,
        words,
    );
}

#[tokio::test]
async fn an_expired_certificate_is_refused_with_both_dates_and_the_clock() {
    let fleet = authority("prod");
    let issued = now_unix_ms() - YEAR_MS - 3_600_000;
    let (_kept, expired) = identity_at(&fleet, Role::Agent, "old1", issued);
    let accepting = identity(&fleet, Role::Agent, "web1");
    let (dialled, accepted) = meet(Arc::clone(&expired), Expect::ANY, accepting, Expect::ANY).await;
    let (by, told) = (accepted.unwrap_err(), dialled.unwrap_err());
    let by_both = "our certificate is out of its time by both clocks: its clock says 20";
    assert!(told.to_string().contains(by_both), "{told}");
    assert_eq!(told.code(), Some(Reason::CertificateExpired));
    let HandshakeError::RefusedPeer(Refusal::Expired { validity, .. }) = &by else {
        panic!("{by:?}")
    };
    assert_eq!(*validity, expired.validity());
    let words = "certificate of agent old1 of fleet prod has expired: valid from 20";
    assert_refused(&by, &told, RefusalKind::NotValidNow, words);
    assert!(by.to_string().contains("Z, this clock says 20"), "{by}");
    let own = expired.check_time(now_unix_ms()).unwrap_err();
    assert!(matches!(own, Refusal::Expired { .. }), "{own}");
}

#[tokio::test]
async fn e3_an_expired_certificate_opens_a_renewal_for_ninety_days_and_nothing_else() {
    let fleet = authority("prod");
    let day = 24 * 3_600_000;
    let grace = RENEWAL_GRACE_DAYS * day;
    for (ended_before, is_renewed) in [(day, true), (grace - day, true), (grace + day, false)] {
        let issued = now_unix_ms() - YEAR_MS - ended_before;
        let (_kept, expired) = identity_at(&fleet, Role::Agent, "old1", issued);
        let (_trusted, dialling) = identity_at(&fleet, Role::Coordinator, "deploy1", now_unix_ms());
        let (listener, address) = listen(Arc::clone(&expired));
        let (dialler, addresses) = (dialler(dialling), [address]);
        let (dialled, accepted) = tokio::join!(
            dialler.dial_to_renew(&addresses, name("old1")),
            accept_one(&listener, Expect::ANY)
        );
        match is_renewed {
            true => {
                let (ours, theirs) = (dialled.unwrap(), accepted.unwrap());
                assert!(ours.is_renewal() && theirs.is_renewal() && !theirs.is_question());
                assert_eq!(ours.peer_validity(), Some(expired.validity()));
                assert_eq!(ours.peer_key().as_ref(), Some(expired.public_key()));
            }
            false => {
                let refused = dialled.unwrap_err();
                assert_eq!(refused.code(), Reason::CertificateExpired, "{refused}");
                assert!(refused.to_string().contains("has expired"), "{refused}");
            }
        }
        for question in [false, true] {
            let expect = Expect::agent(name("old1"));
            let accept = accept_one(&listener, Expect::ANY);
            let dial = async {
                match question {
                    true => dialler.dial_to_ask(&addresses, &expect).await,
                    false => dialler.dial(&addresses, &expect).await,
                }
            };
            let (dialled, accepted) = tokio::join!(dial, accept);
            assert_eq!(dialled.unwrap_err().code(), Reason::CertificateExpired);
            assert_eq!(
                accepted.unwrap_err().source.code(),
                Some(Reason::CertificateExpired)
            );
        }
    }
}

#[tokio::test]
async fn e3_a_coordinator_whose_certificate_has_expired_renews_nobody() {
    let fleet = authority("prod");
    let issued = now_unix_ms() - YEAR_MS - 3_600_000;
    let (_kept, expired) = identity_at(&fleet, Role::Coordinator, "deploy1", issued);
    let (listener, address) = listen(identity(&fleet, Role::Agent, "web1"));
    let (dialler, addresses) = (dialler(expired), [address]);
    let (dialled, accepted) = tokio::join!(
        dialler.dial_to_renew(&addresses, name("web1")),
        accept_one(&listener, Expect::ANY)
    );
    assert_eq!(dialled.unwrap_err().code(), Reason::CertificateExpired);
    assert!(matches!(
        accepted.unwrap_err().source,
        HandshakeError::RefusedPeer(Refusal::Expired { .. })
    ));
}

#[tokio::test]
async fn a_certificate_from_the_future_is_refused_as_such() {
    let fleet = authority("prod");
    let (_kept, early) = identity_at(&fleet, Role::Agent, "new1", now_unix_ms() + 7_200_000);
    let dialling = identity(&fleet, Role::Coordinator, "deploy1");
    let (dialled, accepted) = meet(dialling, Expect::AGENT, early, Expect::ANY).await;
    let by = dialled.unwrap_err();
    let words = "certificate of agent new1 of fleet prod is not valid yet: valid from 20";
    assert_refused(&by, &accepted.unwrap_err(), RefusalKind::NotValidNow, words);
}

#[tokio::test]
async fn a_peer_of_another_protocol_version_is_refused_and_both_versions_are_named() {
    let fleet = authority("prod");
    let agent = identity(&fleet, Role::Agent, "web1");
    let (listener, address) = listen(Arc::clone(&agent));
    let newer = async {
        let verifier = Verifier::new(agent.trust().clone(), Expect::ANY);
        let mut tls = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
            .with_client_cert_resolver(agent.resolver());
        tls.alpn_protocols = vec![b"scap/3".into(), b"scap/\n2".into()];
        let tls = QuicClientConfig::try_from(tls).unwrap();
        let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(tls));
        let error = endpoint.connect_with(config, address, "x").unwrap().await;
        HandshakeError::explain(error.unwrap_err(), &verifier, None)
    };
    let (told, accepted) = tokio::join!(newer, accept_one(&listener, Expect::ANY));
    let refused = accepted.unwrap_err().source.to_string();
    let both = "this side speaks scap/1, the peer scap/3, scap/\\n2";
    assert!(refused.contains(both), "{refused}");
    assert_eq!(told, HandshakeError::Version { theirs: None });
    assert!(
        told.to_string().contains("this side speaks scap/1"),
        "{told}"
    );
}

#[tokio::test]
async fn a_dial_goes_on_to_the_next_address_and_names_all_that_failed() {
    let fleet = authority("prod");
    let (web1, address1) = listen(identity(&fleet, Role::Agent, "web1"));
    let (web2, address2) = listen(identity(&fleet, Role::Agent, "web2"));
    let silent = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let silent_address = silent.local_addr().unwrap();
    let dialler = dialler(identity(&fleet, Role::Coordinator, "deploy1"));

    let addresses = [silent_address, address2, address1];
    let expect = Expect::agent(name("web1"));
    let (dialled, accepted, refused) = tokio::join!(
        dialler.dial(&addresses, &expect),
        accept_one(&web1, Expect::ANY),
        accept_one(&web2, Expect::ANY),
    );
    assert_eq!(dialled.unwrap().remote_address(), address1);
    accepted.unwrap();
    assert_eq!(
        refused.unwrap_err().source.refusal_kind(),
        Some(RefusalKind::WrongName)
    );

    let only = [address2];
    let (failed, _) = tokio::join!(dialler.dial(&only, &expect), accept_one(&web2, Expect::ANY));
    let failed = failed.unwrap_err().to_string();
    assert!(
        failed.starts_with(&format!("dial web1 at {address2}: refused the peer: ")),
        "{failed}"
    );
    let nowhere = dialler.dial(&[], &expect).await.unwrap_err();
    assert_eq!(nowhere.to_string(), "dial web1: it has no address");
}

#[tokio::test]
async fn under_load_a_peer_proves_its_address_first_and_still_comes_in() {
    let fleet = authority("prod");
    let (listener, address) = listen(identity(&fleet, Role::Agent, "web1"));
    let dialler = dialler(identity(&fleet, Role::Coordinator, "deploy1"));
    let busy = Arc::clone(&listener.handshakes)
        .acquire_many_owned(40)
        .await
        .unwrap();
    let addresses = [address];
    let (dialled, incoming) = tokio::join!(dialler.dial(&addresses, &Expect::AGENT), async {
        let incoming = listener.accept().await.unwrap();
        let proved = incoming.proved_its_address();
        incoming
            .finish(Expect::ANY)
            .await
            .map(|link| (link, proved))
    });
    dialled.unwrap();
    assert!(incoming.unwrap().1);
    drop(busy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_mebibytes_arrive_as_they_were_sent() {
    const CHUNKS: usize = 64;
    const CHUNK_BYTES: usize = 1024 * 1024;
    let fleet = authority("prod");
    let (dialled, accepted) = meet(
        identity(&fleet, Role::Agent, "web1"),
        Expect::AGENT,
        identity(&fleet, Role::Agent, "web2"),
        Expect::AGENT,
    )
    .await;
    let (receiver, sender) = (dialled.unwrap(), accepted.unwrap());
    let chunk = |index: usize| -> Vec<u8> {
        let mut bytes = vec![0; CHUNK_BYTES];
        blake3::Hasher::new()
            .update(&index.to_le_bytes())
            .finalize_xof()
            .fill(&mut bytes);
        bytes
    };
    let serve = tokio::spawn(async move {
        for _ in 0..CHUNKS {
            let (mut send, mut receive) = sender.accept_bi().await.unwrap();
            tokio::spawn(async move {
                let index = receive.read_to_end(8).await.unwrap().try_into().unwrap();
                send.write_all(&chunk(usize::from_le_bytes(index)))
                    .await
                    .unwrap();
                send.finish().unwrap();
                send.stopped().await.unwrap();
            });
        }
        sender
    });
    let mut fetches = tokio::task::JoinSet::new();
    for index in 0..CHUNKS {
        let link = receiver.clone();
        fetches.spawn(async move {
            let (mut send, mut receive) = link.open_bi().await.unwrap();
            send.write_all(&index.to_le_bytes()).await.unwrap();
            send.finish().unwrap();
            let bytes = receive.read_to_end(CHUNK_BYTES).await.unwrap();
            assert!(bytes == chunk(index), "chunk {index} differs");
        });
    }
    while let Some(fetched) = fetches.join_next().await {
        fetched.unwrap();
    }
    let sender = serve.await.unwrap();
    let total = (CHUNKS * CHUNK_BYTES) as u64;
    assert!(receiver.stats().bytes_received >= total);
    assert!(sender.stats().bytes_sent >= total);
    // The path takes it, and no send was too long for the kernel.
    let udp_payload_bytes = sender.stats().udp_payload_bytes;
    assert!(udp_payload_bytes > 6500, "{udp_payload_bytes}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_a_hint() {
    let fleet = authority("prod");
    let agent = identity(&fleet, Role::Agent, "web1");
    let (_first, address) = listen(Arc::clone(&agent));
    let error = Endpoint::listen(agent, address, &LinkSettings::default()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&address.port().to_string()), "{text}");
    assert!(text.contains("another process has that port"), "{text}");
}
