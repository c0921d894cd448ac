//! TLS for one handshake of a newcomer and a coordinator: version 1.3, nothing is resumed.

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};

use super::{ENROLL_ALPN, Party};
use crate::identity::{AnyNewcomer, newcomer_resolver, provider, verifier::Verifier};

/// TLS of a side that dials. A newcomer has a `verifier`, a coordinator none.
pub(super) fn client(party: &Party, verifier: Option<Arc<Verifier>>) -> Arc<QuicClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous();
    let mut tls = match (party, verifier) {
        (Party::Coordinator(identity), _) => builder
            .with_custom_certificate_verifier(Arc::new(AnyNewcomer))
            .with_client_cert_resolver(identity.resolver_with_authorities()),
        (Party::Newcomer { .. }, verifier) => builder
            .with_custom_certificate_verifier(verifier.expect("newcomers check who is there"))
            .with_no_client_auth(),
    };
    tls.alpn_protocols = vec![ENROLL_ALPN.into()];
    tls.resumption = Resumption::disabled();
    Arc::new(
        QuicClientConfig::try_from(tls)
            .expect("the provider has the cipher of QUIC's first packets"),
    )
}

/// TLS of a side that accepts; without a `verifier` a newcomer lets nobody in.
pub(super) fn server(party: &Party, verifier: Option<Arc<Verifier>>) -> Arc<QuicServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3");
    let mut tls = match party {
        Party::Coordinator(identity) => {
            let names = identity.authority_pins();
            let names = names.iter().map(|pin| pin.server_name()).collect();
            let inner = identity.resolver_with_authorities();
            let resolver = Arc::new(Known { names, inner });
            builder.with_no_client_auth().with_cert_resolver(resolver)
        }
        Party::Newcomer { fleet, pin } => {
            let verifier = verifier.unwrap_or_else(|| Verifier::pinned(fleet.clone(), *pin));
            let names = vec![pin.server_name()];
            let inner = newcomer_resolver();
            let resolver = Arc::new(Known { names, inner });
            let builder = builder.with_client_cert_verifier(verifier);
            builder.with_cert_resolver(resolver)
        }
    };
    tls.alpn_protocols = vec![ENROLL_ALPN.into()];
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    Arc::new(
        QuicServerConfig::try_from(tls)
            .expect("the provider has the cipher of QUIC's first packets"),
    )
}

/// Shows a certificate to who knows the authority, and none to others.
#[derive(Debug)]
struct Known {
    names: Vec<String>,
    inner: Arc<SingleCertAndKey>,
}

impl ResolvesServerCert for Known {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?;
        let is_known = self.names.iter().any(|known| known == name);
        is_known.then(|| self.inner.resolve(hello)).flatten()
    }
}
