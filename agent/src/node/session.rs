//! The tasks of one link: the session both ways, and what the peer asks for.

use std::{sync::Arc, time::Duration};

use quinn::{RecvStream, SendStream};
use scap_proto::{
    frame::{self, FrameError},
    id::NodeId,
    identity::{FleetTrustError, Refusal, RefusalKind, TrustMark},
    transport::{Link, LinkError, MESSAGES_PRIORITY},
    wire::{Envelope, Hello, Open, close, peer::PeerMessage},
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use super::{
    Incoming, Shared, ask,
    event::Event,
    fetch,
    serve::{Handles, Served},
    trusting::Taken,
};
use crate::swarm::PeerId;

/// Most messages that wait to be sent to one peer. A peer that leaves so many unread is not reading.
pub(crate) const OUTBOX_MAX: usize = 4096;

/// How long a peer may take to say what a stream is for: it is one small frame.
const OPEN_TIME_MAX: Duration = Duration::from_secs(10);

/// A control stream that somebody opened to us.
#[derive(Debug)]
pub struct ControlStream {
    /// The link it is on; its peer is who orders, or relays orders.
    pub link: Link,
    /// Towards the peer.
    pub send: SendStream,
    /// From the peer.
    pub receive: RecvStream,
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("the link ended")]
    Link(#[from] LinkError),
    #[error("the session stream ended")]
    Frame(#[from] FrameError),
    #[error("write the session stream")]
    Write(#[from] std::io::Error),
    #[error("the peer closed its session stream")]
    Ended,
    #[error("the peer opened {0}")]
    Unexpected(&'static str),
    #[error("the peer is not believed")]
    Trust(#[source] FleetTrustError),
    #[error("the peer hands over fleet trusts again and again")]
    TrustAgain,
    #[error(transparent)]
    CutOff(Refusal),
    #[error("the peer did not open its session within {} s", OPEN_TIME_MAX.as_secs())]
    Late,
}

/// Runs one link until it ends or the node goes down, and says why. Whoever dialled opens the session.
pub(crate) async fn run(
    shared: Arc<Shared>,
    link: Link,
    peer: PeerId,
    dialled: bool,
    handles: Arc<Handles>,
    outbox: mpsc::Receiver<PeerMessage>,
) -> SessionError {
    // Dropped with this future, and with it every task of the link.
    let mut tasks = JoinSet::new();
    let mut outbox = Some(outbox);
    let mut sessions = JoinSet::new();
    let questions = Arc::new(Semaphore::new(1));
    if dialled {
        let outbox = outbox.take().expect("it was put there above");
        sessions.spawn(dial_session(shared.clone(), link.clone(), peer, outbox));
    } else {
        tasks.spawn(async { tokio::time::sleep(OPEN_TIME_MAX).await });
    }
    loop {
        let (send, mut receive) = tokio::select! {
            stream = link.accept_bi() => match stream {
                Ok(stream) => stream,
                Err(error) => return error.into(),
            },
            pushed = link.accept_uni() => {
                let stream = match pushed {
                    Ok(stream) => stream,
                    Err(error) => return error.into(),
                };
                let (shared, handles) = (shared.clone(), handles.clone());
                let link = link.clone();
                tasks.spawn(async move {
                    let taken = fetch::take(&link, stream, &handles.followed, shared.clone()).await;
                    if let Some((transfer, index, result)) = taken {
                        let transfer = transfer.id;
                        let event = Event::Pushed {
                            peer,
                            transfer,
                            index,
                            result,
                        };
                        shared.tell(event).await;
                    }
                });
                continue;
            }
            Some(ended) = sessions.join_next() => {
                return ended.expect("a session does not panic");
            }
            Some(_) = tasks.join_next() => {
                if outbox.is_some() {
                    return SessionError::Late;
                }
                continue;
            }
        };
        let opened = tokio::time::timeout(OPEN_TIME_MAX, frame::read_message(&mut receive)).await;
        let open: Envelope<Open> = match opened {
            Ok(Ok(Some(open))) => open,
            Ok(Err(FrameError::Io(_)) | Ok(None)) | Err(_) => continue,
            Ok(Err(error)) => return error.into(),
        };
        let trusts = open.trust();
        match open.message {
            Open::Chunk(request) => {
                let (shared, handles) = (shared.clone(), handles.clone());
                let link = link.clone();
                tasks.spawn(async move {
                    let uploads = &shared.uploads;
                    let served = uploads.serve(&shared, &link, &handles, request, send).await;
                    if let Some((transfer, served)) = served.filter(|(_, s)| *s != Served::Not) {
                        let index = request.index;
                        let event = match served {
                            Served::Sent => Event::Served {
                                peer,
                                transfer: transfer.id,
                                index,
                            },
                            _ => Event::Lost {
                                transfer: transfer.id,
                            },
                        };
                        shared.tell(event).await;
                    }
                });
            }
            Open::Session(hello) => {
                let Some(outbox) = outbox.take() else {
                    return SessionError::Unexpected("a second session");
                };
                let _ = send.set_priority(MESSAGES_PRIORITY);
                tracing::debug!(peer = %link.peer().name, software = hello.software, "session");
                let who = (peer, link.peer().name.clone());
                let session = accept_session(shared.clone(), who, trusts, (send, receive), outbox);
                sessions.spawn(session);
            }
            Open::Stable(about) => {
                let to = shared.control.as_ref();
                if let Err(error) = ask::asked(&link, &questions, *about, send, to) {
                    return error;
                }
            }
            Open::Config(_) => {
                return SessionError::Unexpected("a question, on a link for other things");
            }
            Open::Control(_) => match &shared.control {
                // Orders are signed by who gives them, so any node of the fleet may pass them on.
                Some(control) => {
                    let _ = send.set_priority(MESSAGES_PRIORITY);
                    let stream = ControlStream {
                        link: link.clone(),
                        send,
                        receive,
                    };
                    // A full queue means that orders come faster than they are read: the sender waits.
                    let _ = control.send(Incoming::Control(stream)).await;
                }
                None => return SessionError::Unexpected("a control stream, and we take no orders"),
            },
        }
    }
}

async fn dial_session(
    shared: Arc<Shared>,
    link: Link,
    peer: PeerId,
    outbox: mpsc::Receiver<PeerMessage>,
) -> SessionError {
    let open = async {
        let (mut send, mut receive) = link.open_bi().await?;
        let open = Envelope::from(Open::Session(Hello::ours()));
        frame::write_message(&mut send, &open.trusting(shared.trust.mark())).await?;
        match frame::read_message::<_, Envelope<Hello>>(&mut receive).await? {
            Some(hello) => Ok(((send, receive), hello.trust())),
            None => Err(SessionError::Ended),
        }
    };
    match open.await {
        Ok((streams, trusts)) => {
            let who = (peer, link.peer().name.clone());
            exchange(shared, who, trusts, streams, outbox).await
        }
        Err(error) => error,
    }
}

async fn accept_session(
    shared: Arc<Shared>,
    who: (PeerId, NodeId),
    trusts: Option<TrustMark>,
    (mut send, receive): (SendStream, RecvStream),
    outbox: mpsc::Receiver<PeerMessage>,
) -> SessionError {
    let hello = Envelope::from(Hello::ours()).trusting(shared.trust.mark());
    match frame::write_message(&mut send, &hello).await {
        Ok(()) => exchange(shared, who, trusts, (send, receive), outbox).await,
        Err(error) => error.into(),
    }
}

async fn exchange(
    shared: Arc<Shared>,
    (peer, name): (PeerId, NodeId),
    trusts: Option<TrustMark>,
    (mut send, mut receive): (SendStream, RecvStream),
    mut outbox: mpsc::Receiver<PeerMessage>,
) -> SessionError {
    if let Some(mark) = trusts {
        shared.tell(Event::PeerTrusts { peer, mark }).await;
    }
    let write = async move {
        while let Some(message) = outbox.recv().await {
            if let Err(error) = frame::write_message(&mut send, &Envelope::from(message)).await {
                return error.into();
            }
        }
        // The driver let the peer go; the link closes with its reason.
        std::future::pending().await
    };
    let read = async move {
        let mut taken = Taken::default();
        loop {
            match frame::read_message::<_, Envelope<PeerMessage>>(&mut receive).await {
                Ok(Some(Envelope {
                    message: PeerMessage::Trust(signed),
                    ..
                })) => {
                    if let Err(error) = taken.take(&shared, &name, *signed).await {
                        return error;
                    }
                }
                Ok(Some(Envelope { message, .. })) => {
                    shared.tell(Event::Message { peer, message }).await;
                }
                Ok(None) => return SessionError::Ended,
                Err(error) => return error.into(),
            }
        }
    };
    tokio::select! {
        error = write => error,
        error = read => error,
    }
}

impl SessionError {
    /// The code to close the link with.
    pub(crate) fn close_code(&self) -> u32 {
        match self {
            Self::Frame(FrameError::Codec(_) | FrameError::TooLong(_)) | Self::Unexpected(_) => {
                close::PROTOCOL
            }
            Self::Late | Self::Trust(_) | Self::TrustAgain => close::PROTOCOL,
            Self::CutOff(refusal) => match refusal.kind() {
                RefusalKind::Revoked => close::REVOKED,
                _ => close::OLD_AUTHORITY,
            },
            Self::Link(_) | Self::Frame(_) | Self::Write(_) | Self::Ended => close::DONE,
        }
    }
}
