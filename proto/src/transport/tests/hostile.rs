//! Handshakes that are made to cost much.

use std::time::Instant;

use rustls::{
    client::ResolvesClientCert,
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::*;

/// Dials with a chain of so many certificates, of which each is the right one, and with these protocols; how it ends on the side that
/// accepts, and how long that takes.
async fn dial_with(
    certificates: usize,
    protocols: Vec<Vec<u8>>,
) -> (Result<Link, AcceptError>, Duration) {
    let fleet = authority("prod");
    let agent = identity(&fleet, Role::Agent, "web1");
    let (listener, address) = listen(Arc::clone(&agent));
    let own = agent.resolver().resolve(&[], &[]).unwrap();
    let chain = vec![own.cert[0].clone(); certificates];
    let resolver = SingleCertAndKey::from(CertifiedKey::new(chain, Arc::clone(&own.key)));
    let verifier = Verifier::new(agent.trust().clone(), Expect::ANY);
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(resolver));
    tls.alpn_protocols = protocols;
    let tls = QuicClientConfig::try_from(tls).unwrap();
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(tls));
    let dialling = endpoint.connect_with(config, address, "x").unwrap();
    // It keeps its side open, so that nobody is let off by its going away.
    let dialling = tokio::spawn(async move {
        if let Ok(connection) = dialling.await {
            connection.closed().await;
        }
    });
    let start = Instant::now();
    let accepted = accept_one(&listener, Expect::ANY).await;
    let took = start.elapsed();
    dialling.abort();
    (accepted, took)
}

#[tokio::test]
async fn d8_a_chain_of_500_certificates_is_refused_quickly() {
    let (accepted, took) = dial_with(500, vec![ALPN.into()]).await;
    let refused = accepted.unwrap_err();
    println!(
        "500 certificates: {:.2} s, {}",
        took.as_secs_f64(),
        refused.source
    );
    assert!(took < QUICK, "{took:?}");
    // What fits a message is looked at by the one certificate that counts.
    let (accepted, took) = dial_with(100, vec![ALPN.into()]).await;
    println!(
        "100 certificates: {:.2} s, {}",
        took.as_secs_f64(),
        accepted.is_ok()
    );
    assert!(took < QUICK, "{took:?}");
}

#[tokio::test]
async fn d8_a_list_of_thousands_of_protocols_is_refused_quickly() {
    let protocols = (0..4500).map(|number| format!("scap/{number:07}").into_bytes());
    let (accepted, took) = dial_with(1, protocols.collect()).await;
    let refused = accepted.unwrap_err();
    println!(
        "4,500 protocols: {:.2} s, {}",
        took.as_secs_f64(),
        refused.source
    );
    assert!(took < QUICK, "{took:?}");
    assert!(refused.source.to_string().len() < 400);
}

/// Below the time that a handshake may take at most, so that it is not this that ends it.
const QUICK: Duration = Duration::from_secs(5);
