//! Over real UDP on loopback.

use std::{net::Ipv4Addr, time::Duration};

use bytes::Bytes;

use super::*;
use crate::{
    enroll::{self, Answer, Claim, ExchangeError, Token},
    identity::{
        AnyNewcomer, CertificateAuthority, Role, newcomer_resolver, provider, verifier::Expect,
    },
    transport::{
        Endpoint, LinkSettings,
        tests::{authority, identity},
    },
};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const LIMIT: Duration = Duration::from_secs(20);

fn pin(authority: &CertificateAuthority) -> AuthorityPin {
    AuthorityPin::of(&authority.certificate().der)
}

fn newcomer(authority: &CertificateAuthority) -> Party {
    Party::Newcomer {
        fleet: authority.fleet().clone(),
        pin: pin(authority),
    }
}

fn coordinator(authority: &CertificateAuthority) -> Party {
    Party::Coordinator(identity(authority, Role::Coordinator, "deploy1"))
}

fn listen(party: Party) -> (EnrollEndpoint, SocketAddr) {
    let endpoint = EnrollEndpoint::listen(party, LOOPBACK).unwrap();
    let address = endpoint.local_address().unwrap();
    (endpoint, address)
}

async fn accept_one(endpoint: &EnrollEndpoint) -> Result<EnrollLink, EnrollLinkError> {
    let incoming = timeout(LIMIT, endpoint.accept()).await;
    incoming.unwrap().unwrap().finish().await
}

fn claim_of(token: &Token) -> Claim {
    Claim {
        secret: token.secret().clone(),
        request: "request".into(),
    }
}

/// Either dials; the claim goes to the coordinator, the answer back, and the coordinator hears that it is on disk.
#[tokio::test]
async fn a_claim_is_made_and_answered_whoever_dialled() {
    let fleet = authority("prod");
    let token = Token::generate(fleet.fleet().clone(), pin(&fleet));
    for newcomer_listens in [true, false] {
        let (listening, dialling) = match newcomer_listens {
            true => (newcomer(&fleet), coordinator(&fleet)),
            false => (coordinator(&fleet), newcomer(&fleet)),
        };
        let (endpoint, address) = listen(listening);
        let dialler = EnrollEndpoint::dial_only(dialling).unwrap();
        let (dialled, accepted) =
            tokio::join!(dialler.dial(address, pin(&fleet)), accept_one(&endpoint));
        let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
        let (host, enroller) = match newcomer_listens {
            true => (accepted, dialled),
            false => (dialled, accepted),
        };
        assert_eq!(
            host.peer().unwrap().to_uri(),
            "scap://prod/coordinator/deploy1"
        );
        assert_eq!(enroller.peer(), None);
        let asking = async {
            let (answer, installing) = enroll::claim(&host, claim_of(&token)).await.unwrap();
            installing.done().await;
            answer
        };
        let answering = async {
            let (claim, answering) = enroll::receive(&enroller).await.unwrap();
            let answer = Answer::Identity(Bytes::from(vec![7; 300_000]));
            answering.answer(answer).await.unwrap();
            claim
        };
        let (answer, claim) = tokio::join!(asking, answering);
        assert_eq!(answer, Answer::Identity(Bytes::from(vec![7; 300_000])));
        assert_eq!(claim, claim_of(&token));
    }
}

#[tokio::test]
async fn a_host_that_does_not_install_what_it_got_is_known_not_to_have_it() {
    let fleet = authority("prod");
    let token = Token::generate(fleet.fleet().clone(), pin(&fleet));
    let (endpoint, address) = listen(newcomer(&fleet));
    let dialler = EnrollEndpoint::dial_only(coordinator(&fleet)).unwrap();
    let (enroller, host) = tokio::join!(dialler.dial(address, pin(&fleet)), accept_one(&endpoint));
    let (enroller, host) = (enroller.unwrap(), host.unwrap());
    let asking = async { drop(enroll::claim(&host, claim_of(&token)).await.unwrap()) };
    let answering = async {
        let (_, answering) = enroll::receive(&enroller).await.unwrap();
        answering
            .answer(Answer::Identity(Bytes::from_static(b"x")))
            .await
    };
    let ((), answered) = tokio::join!(asking, answering);
    assert!(
        matches!(answered, Err(ExchangeError::Unconfirmed(_))),
        "{answered:?}"
    );
}

#[tokio::test]
async fn more_than_a_claim_is_not_read_from_a_stranger() {
    let fleet = authority("prod");
    let (endpoint, address) = listen(coordinator(&fleet));
    let dialler = EnrollEndpoint::dial_only(newcomer(&fleet)).unwrap();
    let (host, enroller) = tokio::join!(dialler.dial(address, pin(&fleet)), accept_one(&endpoint));
    let (host, enroller) = (host.unwrap(), enroller.unwrap());
    let long = Claim {
        request: "x".repeat(enroll::CLAIM_BYTES_MAX as usize),
        ..claim_of(&Token::generate(fleet.fleet().clone(), pin(&fleet)))
    };
    let asking = async {
        let refused = enroll::claim(&host, long).await;
        assert!(refused.is_err());
    };
    let answering = async {
        let refused = enroll::receive(&enroller).await;
        assert!(
            matches!(refused, Err(ExchangeError::Frame(_))),
            "{refused:?}"
        );
        enroller.close(0);
    };
    tokio::join!(asking, answering);
}

/// A newcomer that waits gives nothing to who is no coordinator of its fleet.
#[tokio::test]
async fn e1_only_a_coordinator_of_the_pinned_authority_reaches_a_host_that_waits() {
    let (ours, theirs) = (authority("prod"), authority("prod"));
    let (endpoint, address) = listen(newcomer(&ours));
    let agent = Party::Coordinator(identity(&ours, Role::Agent, "web1"));
    for (who, what) in [
        (
            agent,
            "the peer is agent web1 of fleet prod, expected coordinator",
        ),
        (coordinator(&theirs), "no authority we trust certified it"),
    ] {
        let dialler = EnrollEndpoint::dial_only(who).unwrap();
        // It knows the fingerprint, as who has seen the authority's certificate does.
        let dialling = async {
            let link = dialler.dial(address, pin(&ours)).await.unwrap();
            // Who dials is done with the handshake first.
            timeout(LIMIT, link.closed()).await.unwrap();
            assert!(enroll::receive(&link).await.is_err());
        };
        let ((), accepted) = tokio::join!(dialling, accept_one(&endpoint));
        let refused = accepted.unwrap_err().to_string();
        assert!(refused.contains(what), "{refused}");
    }
    let self_signed = newcomer_resolver();
    for (certificate, what) in [
        (None, "showed no certificate"),
        (
            Some(self_signed),
            "is not a node's certificate: it does not name one node",
        ),
    ] {
        let builder = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyNewcomer));
        let mut config = match certificate {
            Some(certificate) => builder.with_client_cert_resolver(certificate),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ENROLL_ALPN.into()];
        let config = quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap();
        let dialler = quinn::Endpoint::client(LOOPBACK).unwrap();
        let config = ClientConfig::new(Arc::new(config));
        let connecting = dialler.connect_with(config, address, &pin(&ours).server_name());
        let dialling = async {
            let link = connecting.unwrap().await.unwrap();
            // It hears nothing but that it is refused.
            assert!(link.accept_bi().await.is_err());
        };
        let ((), accepted) = tokio::join!(dialling, accept_one(&endpoint));
        let refused = accepted.unwrap_err().to_string();
        assert!(refused.contains(what), "{refused}");
    }
}

/// Who does not know the authority sees no certificate, of either side.
#[tokio::test]
async fn e1_who_does_not_know_the_authority_is_shown_no_certificate() {
    let (ours, theirs) = (authority("prod"), authority("prod"));
    for party in [newcomer(&ours), coordinator(&ours)] {
        let (endpoint, address) = listen(party);
        for who in [newcomer(&theirs), coordinator(&theirs)] {
            let dialler = EnrollEndpoint::dial_only(who).unwrap();
            let (dialled, accepted) =
                tokio::join!(dialler.dial(address, pin(&theirs)), accept_one(&endpoint));
            let refused = dialled.unwrap_err();
            assert!(
                matches!(refused, EnrollLinkError::Refused(_)),
                "{refused:?}"
            );
            assert!(accepted.is_err());
        }
    }
}

/// What waits to be enrolled, or to enrol, is no node, and a node is neither.
#[tokio::test]
async fn nodes_and_those_that_wait_to_be_enrolled_do_not_talk_to_each_other() {
    let fleet = authority("prod");
    let node = Endpoint::listen(
        identity(&fleet, Role::Agent, "web1"),
        LOOPBACK,
        &LinkSettings::default(),
    )
    .unwrap();
    let dialler = EnrollEndpoint::dial_only(coordinator(&fleet)).unwrap();
    let address = node.local_address().unwrap();
    let answering = async {
        let incoming = timeout(LIMIT, node.accept()).await.unwrap().unwrap();
        incoming.finish(Expect::ANY).await.map(|_| ())
    };
    let (dialled, accepted) = tokio::join!(dialler.dial(address, pin(&fleet)), answering);
    assert_eq!(dialled.unwrap_err(), EnrollLinkError::OtherProtocol);
    assert!(accepted.is_err());

    let (endpoint, address) = listen(newcomer(&fleet));
    let identity = identity(&fleet, Role::Coordinator, "deploy1");
    let node = Endpoint::dial_only(identity, &LinkSettings::default()).unwrap();
    let dialling = node.dial(std::slice::from_ref(&address), &Expect::AGENT);
    let (dialled, accepted) = tokio::join!(dialling, accept_one(&endpoint));
    assert!(dialled.is_err() && accepted.is_err());
}
