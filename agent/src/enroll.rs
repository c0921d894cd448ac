//! How this host becomes a member of a fleet by a token: it makes its key, waits for a coordinator or dials one, and installs what it gets.

mod handshakes;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use scap_proto::{
    enroll::{self, Answer, Claim, ExchangeError, Token},
    identity::{
        Enrolment, EnrolmentError, IdentityRequest, PeerIdentity,
        install::{self, Expected, InstallError},
        key_fingerprint,
    },
    reason::Reason,
    transport::enroll::{BindError, EnrollEndpoint, EnrollLink, EnrollLinkError, Party},
    wire::close,
};
use tokio::time::{Instant, sleep};

use self::handshakes::Handshakes;
use crate::{
    clock,
    enrolment::{self, BecomeError},
    error_chain,
    relay::resolve,
};

/// How long after the coordinator was not reached it is dialled again: a rack that boots at once does not flood it.
const AGAIN: Duration = Duration::from_secs(5);

/// Of what strangers do a line is logged this often at most.
const QUIET: Duration = Duration::from_secs(10);

/// A host that is to become a member of a fleet.
#[derive(Debug)]
pub struct Newcomer {
    directory: PathBuf,
    token: Token,
    request: String,
}

/// How it and a coordinator come together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// A coordinator dials this host here.
    Listen(SocketAddr),
    /// This host dials a coordinator there: `host:port`.
    Dial(String),
}

/// Why a host was not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// Its key.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// No port to wait at.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The coordinator does not take the token. Why, it does not say.
    #[error(
        "the coordinator at {address} does not take this host's token [{}]",
        Reason::TokenRefused
    )]
    Refused {
        /// Where it is.
        address: SocketAddr,
    },
    /// What came back is none.
    #[error("read the identity that the coordinator gave")]
    Given(#[from] EnrolmentError),
    /// It is not this host's, or the daemon could not use it.
    #[error("install the identity that the coordinator gave")]
    Become(#[from] BecomeError),
}

impl EnrollError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Refused { .. } => Some(
                "the coordinator's log says why; `scap-coordinator token create` makes another one",
            ),
            Self::Become(error) if error.is_strangers() => Some(
                "whoever gave it has a coordinator's certificate, and has heard the token: revoke both (`token revoke`, `revoke --coordinator`)",
            ),
            Self::Bind(_) => {
                Some("an agent that runs has the port: is this host enrolled already?")
            }
            _ => None,
        }
    }
}

/// One try that may be made again.
#[derive(Debug, thiserror::Error)]
enum TryError {
    #[error("find the coordinator")]
    Resolve(#[source] std::io::Error),
    #[error("link with {address}")]
    Link {
        address: SocketAddr,
        source: EnrollLinkError,
    },
    #[error("ask the coordinator at {address}")]
    Exchange {
        address: SocketAddr,
        source: ExchangeError,
    },
}

impl TryError {
    fn code(&self) -> Reason {
        match self {
            Self::Link {
                source: EnrollLinkError::RefusedPeer(_) | EnrollLinkError::Refused(_),
                ..
            } => Reason::EnrollStranger,
            Self::Resolve(_) | Self::Link { .. } => Reason::Unreachable,
            Self::Exchange { .. } => Reason::EnrollBroken,
        }
    }
}

impl Newcomer {
    /// Makes the key where there is none. A crash leaves the key, which is taken again.
    ///
    /// # Errors
    /// [`EnrollError::Install`].
    pub fn new(directory: &Path, token: Token) -> Result<Self, EnrollError> {
        let request = install::request(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            token,
            request,
        })
    }

    /// Waits until a coordinator of the fleet has given this host its identity, and installs it. The token leaves this host only on a
    /// link on which the coordinator was checked against the authority in it.
    ///
    /// Cancel-safe: a later call asks again with the same key.
    ///
    /// # Errors
    /// [`EnrollError`]; what may get better by itself is logged, and tried again.
    pub async fn enroll(&self, way: &Way) -> Result<PeerIdentity, EnrollError> {
        let request = IdentityRequest::parse(self.request.as_bytes());
        let request = request.expect("it was just made");
        let key = key_fingerprint(request.public_key());
        tracing::info!(fleet = %self.token.fleet(), %key, ?way, "waiting to be enrolled");
        match way {
            Way::Listen(address) => self.listen(*address).await,
            Way::Dial(coordinator) => self.dial(coordinator).await,
        }
    }

    fn party(&self) -> Party {
        Party::Newcomer {
            fleet: self.token.fleet().clone(),
            pin: self.token.pin(),
        }
    }

    async fn listen(&self, address: SocketAddr) -> Result<PeerIdentity, EnrollError> {
        let endpoint = EnrollEndpoint::listen(self.party(), address)?;
        if let Ok(address) = endpoint.local_address() {
            tracing::info!(%address, "listening for a coordinator");
        }
        let mut handshakes = Handshakes::default();
        let mut strangers = Strangers::default();
        loop {
            tokio::select! {
                Some((address, ended)) = handshakes.next() => {
                    let tried = match ended {
                        Ok(link) => self.ask(link).await?,
                        Err(source) => Err(TryError::Link { address, source }),
                    };
                    match tried {
                        Ok(own) => {
                            endpoint.close(close::DONE).await;
                            return Ok(own);
                        }
                        Err(error) => strangers.tell(&error),
                    }
                }
                Some(incoming) = endpoint.accept() => {
                    let address = incoming.remote_address();
                    match handshakes.has_room(address) {
                        true => handshakes.begin(address, incoming.finish()),
                        false => incoming.refuse(),
                    }
                }
            }
        }
    }

    async fn dial(&self, coordinator: &str) -> Result<PeerIdentity, EnrollError> {
        let endpoint = EnrollEndpoint::dial_only(self.party())?;
        let mut told = String::new();
        loop {
            let error = match self.dial_once(&endpoint, coordinator).await? {
                Ok(own) => {
                    endpoint.close(close::DONE).await;
                    return Ok(own);
                }
                Err(error) => error,
            };
            let (code, reason) = (error.code(), error_chain(&error));
            if reason != told {
                tracing::warn!(%code, reason, "not enrolled yet");
                told = reason;
            }
            sleep(AGAIN).await;
        }
    }

    async fn dial_once(
        &self,
        endpoint: &EnrollEndpoint,
        coordinator: &str,
    ) -> Result<Result<PeerIdentity, TryError>, EnrollError> {
        let addresses = match resolve(&[coordinator.to_owned()]).await {
            Ok(addresses) => addresses,
            Err(error) => return Ok(Err(TryError::Resolve(error))),
        };
        let none = std::io::Error::other("its name has no address");
        let mut last = TryError::Resolve(none);
        for address in addresses {
            match endpoint.dial(address, self.token.pin()).await {
                Ok(link) => match self.ask(link).await? {
                    Ok(own) => return Ok(Ok(own)),
                    Err(error) => last = error,
                },
                Err(source) => last = TryError::Link { address, source },
            }
        }
        Ok(Err(last))
    }

    /// Makes the claim, and has what comes back hold.
    async fn ask(&self, link: EnrollLink) -> Result<Result<PeerIdentity, TryError>, EnrollError> {
        let address = link.remote_address();
        let claim = Claim {
            secret: self.token.secret().clone(),
            request: self.request.clone(),
        };
        let (answer, installing) = match enroll::claim(&link, claim).await {
            Ok(answered) => answered,
            Err(source) => return Ok(Err(TryError::Exchange { address, source })),
        };
        let Answer::Identity(given) = answer else {
            return Err(EnrollError::Refused { address });
        };
        let directory = self.directory.clone();
        // Who showed a coordinator's certificate need not hold the authority's key.
        let expected = Expected {
            fleet: self.token.fleet().clone(),
            pin: self.token.pin(),
        };
        let install = move || -> Result<PeerIdentity, EnrollError> {
            let given = Enrolment::decode(&given)?;
            let installed = enrolment::install(&directory, &given, Some(&expected), clock::now())?;
            if !installed.kept.is_empty() {
                tracing::info!(
                    kept = installed.kept.join(", "),
                    "kept of this host's own host.toml"
                );
            }
            Ok(installed.identity.own().clone())
        };
        let installed = tokio::task::spawn_blocking(install).await;
        let own =
            installed.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        installing.done().await;
        Ok(Ok(own))
    }
}

/// What strangers did since it was last told.
#[derive(Debug, Default)]
struct Strangers {
    told: Option<Instant>,
    untold: u64,
}

impl Strangers {
    fn tell(&mut self, error: &TryError) {
        let now = Instant::now();
        if self.told.is_some_and(|told| now < told + QUIET) {
            self.untold += 1;
            return;
        }
        let (code, reason) = (error.code(), error_chain(error));
        let untold = std::mem::take(&mut self.untold);
        tracing::warn!(%code, reason, not_told_before = untold, "who dialled does not enrol this host");
        self.told = Some(now);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use scap_proto::{
        extensions::Extensions,
        identity::{AuthorityPin, CertificateAuthority, Identity, Role, Validity},
    };

    use super::*;

    #[tokio::test]
    async fn e1_who_stole_a_coordinators_certificate_cannot_hand_over_another_authority() {
        let now = clock::now().0;
        let authority = || CertificateAuthority::create(&"prod".parse().unwrap(), now).unwrap();
        let (ours, evil) = (authority(), authority());
        let pin = AuthorityPin::of(&ours.certificate().der);
        let token = Token::generate(ours.fleet().clone(), pin);
        let folder = tempfile::tempdir().unwrap();
        let node = ours.node(Role::Coordinator, "deploy1".parse().unwrap());
        let stolen = folder.path().join("stolen");
        let stolen = Identity::create(&stolen, &ours, &node, Validity::leaf(now)).unwrap();
        let party = Party::Coordinator(Arc::new(stolen));
        let thief = EnrollEndpoint::listen(party, "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = thief.local_address().unwrap();

        let host = folder.path().join("host");
        let newcomer = Newcomer::new(&host, token).unwrap();
        let hands_over = async {
            let link = thief.accept().await.unwrap().finish().await.unwrap();
            let (claim, answering) = enroll::receive(&link).await.unwrap();
            let asked = IdentityRequest::parse(claim.request.as_bytes()).unwrap();
            let node = evil.node(Role::Agent, "web1".parse().unwrap());
            let issued = evil.issue(&node, asked.public_key(), Validity::leaf(now));
            let given = Enrolment {
                certificate: issued.unwrap().pem,
                authorities: [evil.certificate(), ours.certificate()]
                    .map(|it| it.pem.as_str())
                    .concat(),
                allowed_signers: Some(Bytes::new()),
                host: None,
                membership: None,
                extensions: Extensions::default(),
            };
            answering
                .answer(Answer::Identity(given.encode().into()))
                .await
        };
        let way = Way::Dial(address.to_string());
        let (refused, heard) = tokio::join!(newcomer.enroll(&way), hands_over);
        let refused = refused.unwrap_err();
        assert!(heard.is_err(), "the thief heard that it is installed");
        assert!(
            matches!(&refused, EnrollError::Become(error) if error.is_strangers()),
            "{refused}"
        );
        assert!(refused.hint().unwrap().contains("revoke"));
        assert!(!host.join("node.crt").exists());
    }
}
