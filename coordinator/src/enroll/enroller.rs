//! One claim, answered.

use std::{cell::Cell, collections::BTreeSet, net::SocketAddr, sync::Arc};

use scap_agent::{clock, error_chain};
use scap_proto::{
    enroll::{self, Answer, Claim, ExchangeError, TokenId},
    id::NodeId,
    identity::{IdentityRequest, Role, key_fingerprint},
    reason::Reason,
    transport::enroll::{EnrollLink, EnrollLinkError},
    wire::close,
};

use super::tokens::{DeniedHost, Redeemed, TokenError, TokenRecord, Tokens, Untaken};
use crate::{
    contained::Panicked,
    state::{Enrolled, How, StateDirectory, StateError},
};

/// Answers claims from one state directory.
#[derive(Debug)]
pub struct Enroller {
    state: StateDirectory,
    tokens: Tokens,
}

/// A host that has its identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Success {
    /// Which.
    pub host: NodeId,
    /// By which token.
    pub token: TokenId,
    /// Its key, as people compare it.
    pub fingerprint: String,
    /// Where it is, or dialled from.
    pub address: SocketAddr,
    /// Whether it was given one before for the same key.
    pub is_again: bool,
    /// Whether it was revoked until now.
    pub is_readmitted: bool,
}

/// A claim of which nothing came, or no link for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub code: Reason,
    /// The same in words, as a chain of causes.
    pub text: String,
    /// The host that the token is for, where it is known.
    pub host: Option<NodeId>,
    /// Where the other side is, where there is one.
    pub address: Option<SocketAddr>,
}

impl Failure {
    /// Of a link that did not come about.
    pub fn of_link(address: SocketAddr, error: &EnrollLinkError) -> Self {
        let code = match error {
            EnrollLinkError::RefusedPeer(_) | EnrollLinkError::Refused(_) => Reason::EnrollStranger,
            EnrollLinkError::OtherProtocol => Reason::EnrollBroken,
            EnrollLinkError::TimedOut
            | EnrollLinkError::Start(_)
            | EnrollLinkError::Connection(_) => Reason::Unreachable,
        };
        Self {
            code,
            text: error.to_string(),
            host: None,
            address: Some(address),
        }
    }

    /// Of a bug of ours, or of what we use, that ended one link: the others go on.
    pub(super) fn of_panic(panicked: Panicked, host: Option<NodeId>) -> Self {
        Self {
            code: Reason::EnrollBroken,
            text: panicked.to_string(),
            host,
            address: None,
        }
    }

    /// Says it in the log: the trail of who tried what.
    pub fn audit(&self) {
        let host = self.host.as_ref().map(ToString::to_string);
        let address = self.address.map(|address| address.to_string());
        tracing::warn!(
            code = %self.code,
            address = address.as_deref().unwrap_or("-"),
            token_of = host.as_deref().unwrap_or("-"),
            reason = %self.text.escape_debug(),
            "a host was not enrolled"
        );
    }
}

impl Enroller {
    /// For the tokens of `state`.
    pub fn new(state: StateDirectory, tokens: Tokens) -> Arc<Self> {
        Arc::new(Self { state, tokens })
    }

    /// Hears the claim that comes over a link and answers it. `awaited` are the hosts whose tokens are taken; any, where
    /// there is no list. Every refusal is the same to the other side.
    ///
    /// Takes at most 40 s and what the disk takes. Cancelling it leaves a token used or not used, and the host asks again.
    ///
    /// # Errors
    /// [`Failure`], which is in the log by then: a refusal before the other side hears it, so it cannot hold that back.
    pub async fn serve(
        self: &Arc<Self>,
        link: EnrollLink,
        awaited: Option<Arc<BTreeSet<NodeId>>>,
    ) -> Result<Success, Failure> {
        let address = link.remote_address();
        let failed = |code, text, host| {
            let failure = Failure {
                code,
                text,
                host,
                address: Some(address),
            };
            failure.audit();
            failure
        };
        let broken =
            |error: &ExchangeError, host| failed(Reason::EnrollBroken, error_chain(error), host);
        let received = enroll::receive(&link).await;
        let (claim, answering) = received.map_err(|error| broken(&error, None))?;
        let request = IdentityRequest::parse(claim.request.as_bytes());
        let redeemed = match request {
            Ok(request) => self
                .redeem(claim, request, awaited)
                .await
                .map_err(|error| {
                    link.close(close::INTERNAL);
                    failed(error.code(), error_chain(&error), None)
                })?,
            Err(error) => Err((Reason::BadRequest, error.to_string(), None)),
        };
        match redeemed {
            Ok((redeemed, fingerprint)) => {
                let host = redeemed.record.host.clone();
                let answer = Answer::Identity(redeemed.enrolment.encode().into());
                let answered = answering.answer(answer).await;
                answered.map_err(|error| broken(&error, Some(host.clone())))?;
                let id = redeemed.record.id();
                self.confirm(id).await;
                Ok(Success {
                    host,
                    token: id,
                    fingerprint,
                    address,
                    is_again: redeemed.is_again,
                    is_readmitted: redeemed.is_readmitted,
                })
            }
            Err((code, text, host)) => {
                let failure = failed(code, text, host);
                // Whether it hears that changes nothing.
                let _ = answering.answer(Answer::Refused).await;
                Err(failure)
            }
        }
    }

    async fn redeem(
        self: &Arc<Self>,
        claim: Claim,
        request: IdentityRequest,
        awaited: Option<Arc<BTreeSet<NodeId>>>,
    ) -> Result<Result<(Redeemed, String), (Reason, String, Option<NodeId>)>, RedeemError> {
        let this = Arc::clone(self);
        let redeem = move || {
            let (key, now) = (request.public_key(), clock::now());
            let awaited = awaited.as_deref();
            // A revocation that comes while the token is looked at is not lifted by it.
            let seen = Cell::new(None);
            let denied = |host: &NodeId| {
                let until = this.state.denied_until(Role::Agent, host)?;
                seen.set(until);
                Ok(DeniedHost {
                    until,
                    has_key: this.state.is_key_cut_off(host, key)?,
                })
            };
            let certify = |token: &TokenRecord| {
                let enrolled = Enrolled {
                    host: token.host.clone(),
                    environments: token.environments.clone(),
                    how: How::Token,
                    // No token from before a revocation is taken.
                    readmit: true,
                };
                let state = &this.state;
                let certified = state.certify_unless_revoked_since(seen.get(), &enrolled, key, now);
                Ok(certified?)
            };
            let redeemed: Result<_, RedeemError> =
                this.tokens
                    .redeem(&claim.secret, key, awaited, now, denied, certify);
            Ok(match redeemed? {
                Ok(redeemed) => Ok((redeemed, key_fingerprint(key))),
                Err(Untaken { refusal, host }) => Err((refusal.code(), refusal.to_string(), host)),
            })
        };
        let done = tokio::task::spawn_blocking(redeem).await;
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// That it is not written down only means that the host is dialled once more.
    async fn confirm(self: &Arc<Self>, id: TokenId) {
        let this = Arc::clone(self);
        let confirm = move || this.tokens.confirm(id, clock::now());
        if let Ok(Err(error)) = tokio::task::spawn_blocking(confirm).await {
            tracing::warn!(token = %id, error = error_chain(&error), "what became of a token was not written down");
        }
    }
}

/// Why a claim could be neither granted nor refused.
#[derive(Debug, thiserror::Error)]
enum RedeemError {
    #[error("use the token up")]
    Token(#[from] TokenError),
    #[error("certify the host's key")]
    State(#[from] StateError),
}

impl RedeemError {
    fn code(&self) -> Reason {
        match self {
            Self::Token(_) => Reason::IoError,
            Self::State(error) => error.code(),
        }
    }
}
