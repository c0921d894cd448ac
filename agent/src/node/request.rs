//! A coordinator's one request on a link for that alone: what config files would change here, or to take the next certificate.
//! The links that nodes keep with each other, and what is done on them, know nothing of it.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use quinn::SendStream;
use scap_proto::{
    frame::{self, FrameError},
    id::NodeId,
    identity::{PUBLIC_KEY_BYTES, Role},
    release::{SignedConfigQuestion, SignedRenewal},
    transport::{Link, LinkError},
    wire::{
        Envelope, Open, close,
        config::ConfigAnswer,
        renewal::{RenewalAnswer, RenewalRequest},
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::mpsc;

use super::{Incoming, Shared};

/// How long such a link may last: the request, rendering and comparing or a few files written to a slow disk, and the answer.
const LINK_TIME_MAX: Duration = Duration::from_secs(20);

/// What a coordinator asks for, and the way back.
#[derive(Debug)]
pub struct Requested<Q, A> {
    /// The coordinator, as its certificate says.
    pub coordinator: NodeId,
    /// The key that is in its certificate.
    pub key: [u8; PUBLIC_KEY_BYTES],
    /// What; nothing of it is verified.
    pub request: Q,
    send: SendStream,
    answer: PhantomData<fn(A)>,
}

/// What config files would change here.
pub type ConfigAsked = Requested<SignedConfigQuestion, ConfigAnswer>;

/// The next certificate of this host.
pub type RenewalAsked = Requested<SignedRenewal, RenewalAnswer>;

impl<Q, A: Serialize> Requested<Q, A> {
    /// Answers, as far as the coordinator reads it.
    pub async fn answer(mut self, answer: A) {
        // Where the link is gone, nobody reads it; and a link is soon gone.
        if frame::write_message(&mut self.send, &Envelope::from(answer))
            .await
            .is_ok()
        {
            let _ = self.send.finish();
        }
    }
}

/// A request as it is on the wire.
trait Request: Sized {
    type Message: DeserializeOwned;
    type Answer;
    /// Where there is none.
    const NONE: &'static str;

    fn of(message: Self::Message) -> Option<Self>;

    fn incoming(asked: Requested<Self, Self::Answer>) -> Incoming;
}

impl Request for SignedConfigQuestion {
    type Message = Open;
    type Answer = ConfigAnswer;
    const NONE: &'static str = "no question";

    fn of(message: Self::Message) -> Option<Self> {
        match message {
            Open::Config(question) => Some(*question),
            _ => None,
        }
    }

    fn incoming(asked: ConfigAsked) -> Incoming {
        Incoming::Config(asked)
    }
}

impl Request for SignedRenewal {
    type Message = RenewalRequest;
    type Answer = RenewalAnswer;
    const NONE: &'static str = "no renewal";

    fn of(message: Self::Message) -> Option<Self> {
        let RenewalRequest::Install(renewal) = message;
        Some(*renewal)
    }

    fn incoming(asked: RenewalAsked) -> Incoming {
        Incoming::Renewal(asked)
    }
}

/// Why nothing is taken.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error("the link ended")]
    Link(#[from] LinkError),
    #[error("read the request")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Unexpected(&'static str),
}

/// Takes one question about config files on a link, and keeps the link until it is answered.
pub(super) async fn config_question(link: Link, shared: Arc<Shared>) {
    run::<SignedConfigQuestion>(link, shared).await;
}

/// The same for a renewal. It is the only link that a coordinator makes to a host whose certificate has expired.
pub(super) async fn renewal(link: Link, shared: Arc<Shared>) {
    run::<SignedRenewal>(link, shared).await;
}

async fn run<Q: Request>(link: Link, shared: Arc<Shared>) {
    let asked = async {
        take::<Q>(&link, shared.control.as_ref()).await?;
        // The coordinator ends the link, once it has the answer.
        link.closed().await;
        Ok::<(), NotTaken>(())
    };
    match tokio::time::timeout(LINK_TIME_MAX, asked).await {
        // It looked until when the certificate is valid, and that was all.
        Ok(Ok(()) | Err(NotTaken::Link(_))) => {}
        Ok(Err(error)) => {
            let from = &link.peer().name;
            let error = crate::error_chain(&error);
            tracing::info!(%from, error, "{} is taken", Q::NONE);
            link.close(close::PROTOCOL, Q::NONE);
        }
        Err(_) => link.close(close::SLOW, "it took too long"),
    }
}

async fn take<Q: Request>(
    link: &Link,
    to: Option<&mpsc::Sender<Incoming>>,
) -> Result<(), NotTaken> {
    let (Some(to), Role::Coordinator, Some(key)) = (to, link.peer().role, link.peer_key()) else {
        return Err(NotTaken::Unexpected("a coordinator asks, of an agent"));
    };
    let (send, mut receive) = link.accept_bi().await?;
    let message: Option<Envelope<Q::Message>> = frame::read_message(&mut receive).await?;
    let Some(request) = message.and_then(|it| Q::of(it.message)) else {
        return Err(NotTaken::Unexpected("a stream with something else"));
    };
    let asked = Requested {
        coordinator: link.peer().name.clone(),
        key,
        request,
        send,
        answer: PhantomData,
    };
    // A full queue waits: the time of the link is its bound.
    let _ = to.send(Q::incoming(asked)).await;
    Ok(())
}
