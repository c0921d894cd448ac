//! TLS for one handshake: version 1.3, both sides show a certificate, nothing is resumed.

use std::sync::{Arc, OnceLock};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};

use crate::identity::{Identity, provider, verifier::Verifier};

/// The protocol and its major version, as agreed in the handshake.
pub const ALPN: &str = "scap/1";

/// The same, for a link on which nothing but a question is asked. It is none of the links that nodes keep with each other.
pub const QUESTION_ALPN: &str = "scap-question/1";

/// The same, for a link on which a coordinator renews a host's certificate, and nothing else is done. On it alone that
/// certificate may have expired.
pub const RENEWAL_ALPN: &str = "scap-renew/1";

/// TLS of a side that dials.
pub(super) fn client(
    identity: &Identity,
    verifier: Arc<Verifier>,
    alpn: &str,
) -> Arc<QuicClientConfig> {
    let mut tls = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(identity.resolver());
    tls.alpn_protocols = vec![alpn.into()];
    tls.resumption = Resumption::disabled();
    // Names are in the certificates, which travel encrypted.
    tls.enable_sni = false;
    Arc::new(
        QuicClientConfig::try_from(tls)
            .expect("the provider has the cipher of QUIC's first packets"),
    )
}

/// TLS of a side that accepts.
pub(super) fn server(
    identity: &Identity,
    verifier: Arc<Verifier>,
    offered: Arc<OfferedVersions>,
) -> Arc<QuicServerConfig> {
    let resolver = Resolver {
        inner: identity.resolver(),
        offered,
    };
    let mut tls = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(resolver));
    tls.alpn_protocols = vec![ALPN.into(), QUESTION_ALPN.into(), RENEWAL_ALPN.into()];
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    Arc::new(
        QuicServerConfig::try_from(tls)
            .expect("the provider has the cipher of QUIC's first packets"),
    )
}

/// The versions that a dialling peer offered: printable ASCII, at most 64 bytes.
#[derive(Debug, Default)]
pub(super) struct OfferedVersions(OnceLock<String>);

impl OfferedVersions {
    pub(super) fn get(&self) -> Option<String> {
        self.0.get().cloned()
    }
}

/// Gives our certificate, and notes what the peer offered.
#[derive(Debug)]
struct Resolver {
    inner: Arc<SingleCertAndKey>,
    offered: Arc<OfferedVersions>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.offered.0.get_or_init(|| {
            let names = hello.alpn().into_iter().flatten();
            let names: Vec<String> = names.map(|name| name.escape_ascii().to_string()).collect();
            names.join(", ").chars().take(64).collect()
        });
        self.inner.resolve(hello)
    }
}
