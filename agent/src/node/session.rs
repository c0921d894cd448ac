//! The tasks of one link: the session both ways, and what the peer asks for.

use std::sync::Arc;

use quinn::{RecvStream, SendStream};
use scap_proto::{
    frame::{self, FrameError},
    id::NodeId,
    identity::{FleetTrustError, Refusal, RefusalKind, TrustMark},
    reason::Reason,
    release::{Membership, SignedMembership},
    transport::{Link, LinkError, MESSAGES_PRIORITY},
    wire::{Envelope, Hello, Open, close, peer::PeerMessage},
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use super::{
    Incoming, Shared, ask,
    budget::{OPEN_TIME_MAX, cost},
    contain::contained,
    event::Event,
    fetch,
    handles::Handles,
    serve::Served,
    trusting::Taken,
};
use crate::swarm::PeerId;

/// A control stream that somebody opened to us.
#[derive(Debug)]
pub struct ControlStream {
    /// The link it is on; its peer is who orders, or relays orders.
    pub link: Link,
    /// Towards the peer.
    pub send: SendStream,
    /// From the peer.
    pub receive: RecvStream,
    /// A permit for each byte of a frame that has not come whole, on all streams of the link.
    pub frames: Arc<Semaphore>,
    /// What the peer is in, by the word of a coordinator that it showed.
    pub membership: Option<Membership>,
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
    #[error("a bug in what the session does")]
    Panicked,
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
        let session = dial_session(shared.clone(), link.clone(), peer, handles.clone(), outbox);
        sessions.spawn(contained("a session", link.peer().name.clone(), session));
    } else {
        tasks.spawn(async { tokio::time::sleep(OPEN_TIME_MAX).await });
    }
    loop {
        let (mut send, mut receive) = tokio::select! {
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
                return ended.ok().flatten().unwrap_or(SessionError::Panicked);
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
        let (trusts, shown) = (open.trust(), open.membership_unverified());
        match open.message {
            Open::Chunk(request) => {
                // No other stream is taken from a peer that asks too fast until it has paid for it.
                handles.requests.take(1).await;
                let (shared, handles) = (shared.clone(), handles.clone());
                let link = link.clone();
                tasks.spawn(async move {
                    let uploads = &shared.uploads;
                    let served = uploads.serve(&shared, &link, &handles, request, send).await;
                    let Some((transfer, served)) = served else {
                        return;
                    };
                    let (transfer, index) = (transfer.id, request.index);
                    let event = match served {
                        Served::Sent => Event::Served {
                            peer,
                            transfer,
                            index,
                        },
                        Served::Lost => Event::Lost { transfer },
                        Served::Never(code) => Event::FoundOut {
                            peer,
                            code,
                            what: Served::describe(code).to_owned(),
                        },
                        Served::Not => return,
                    };
                    shared.tell(event).await;
                });
            }
            Open::Session(hello) => {
                let Some(outbox) = outbox.take() else {
                    return SessionError::Unexpected("a second session");
                };
                let _ = send.set_priority(MESSAGES_PRIORITY);
                tracing::debug!(peer = %link.peer().name, software = hello.software, "session");
                shared.show(&link, peer, shown).await;
                let who = Who {
                    peer,
                    name: link.peer().name.clone(),
                    handles: handles.clone(),
                };
                let session = accept_session(shared.clone(), who, trusts, (send, receive), outbox);
                sessions.spawn(contained("a session", link.peer().name.clone(), session));
            }
            Open::Stable(about) => {
                if !shared.may_ask(&link.peer().name) {
                    let _ = send.reset(close::BUSY.into());
                    continue;
                }
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
                        frames: handles.frames.clone(),
                        membership: shared.believe(link.peer(), shown),
                    };
                    // A full queue means that orders come faster than they are read: the sender waits.
                    let _ = control.send(Incoming::Control(stream)).await;
                }
                None => return SessionError::Unexpected("a control stream, and we take no orders"),
            },
        }
    }
}

/// Whom a session is with.
struct Who {
    peer: PeerId,
    name: NodeId,
    handles: Arc<Handles>,
}

async fn dial_session(
    shared: Arc<Shared>,
    link: Link,
    peer: PeerId,
    handles: Arc<Handles>,
    outbox: mpsc::Receiver<PeerMessage>,
) -> SessionError {
    let open = async {
        let (mut send, mut receive) = link.open_bi().await?;
        let open = Envelope::from(Open::Session(Hello::ours()));
        let open = open.trusting(shared.trust.mark());
        let open = open.showing(shared.membership.get().as_ref());
        frame::write_message(&mut send, &open).await?;
        match frame::read_message::<_, Envelope<Hello>>(&mut receive).await? {
            Some(hello) => {
                let (trusts, shown) = (hello.trust(), hello.membership_unverified());
                shared.show(&link, peer, shown).await;
                Ok(((send, receive), trusts))
            }
            None => Err(SessionError::Ended),
        }
    };
    match open.await {
        Ok((streams, trusts)) => {
            let name = link.peer().name.clone();
            let who = Who {
                peer,
                name,
                handles,
            };
            exchange(shared, who, trusts, streams, outbox).await
        }
        Err(error) => error,
    }
}

async fn accept_session(
    shared: Arc<Shared>,
    who: Who,
    trusts: Option<TrustMark>,
    (mut send, receive): (SendStream, RecvStream),
    outbox: mpsc::Receiver<PeerMessage>,
) -> SessionError {
    let hello = Envelope::from(Hello::ours()).trusting(shared.trust.mark());
    let hello = hello.showing(shared.membership.get().as_ref());
    match frame::write_message(&mut send, &hello).await {
        Ok(()) => exchange(shared, who, trusts, (send, receive), outbox).await,
        Err(error) => error.into(),
    }
}

async fn exchange(
    shared: Arc<Shared>,
    Who {
        peer,
        name,
        handles,
    }: Who,
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
            match frame::read_message_in::<_, Envelope<PeerMessage>>(&mut receive, &handles.frames)
                .await
            {
                Ok(Some(Envelope {
                    message: PeerMessage::Trust(signed),
                    ..
                })) => {
                    if let Err(error) = taken.take(&shared, &name, *signed).await {
                        return error;
                    }
                }
                Ok(Some(Envelope { message, .. })) => {
                    handles.messages.take(cost(&message)).await;
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

impl Shared {
    /// Tells the driver what a peer is in, before anything that it says.
    async fn show(&self, link: &Link, peer: PeerId, shown: Option<SignedMembership>) {
        if let Some(membership) = self.believe(link.peer(), shown) {
            self.tell(Event::Shown { peer, membership }).await;
        }
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
            Self::Panicked => close::INTERNAL,
            Self::Link(_) | Self::Frame(_) | Self::Write(_) | Self::Ended => close::DONE,
        }
    }

    /// What it says of the peer. That something is not understood says nothing: the other side may be of a later build.
    pub(crate) fn fault(&self) -> Option<(Reason, String)> {
        match self {
            Self::Frame(FrameError::TooLong(bytes)) => {
                let what = format!("sent a frame of {bytes} bytes");
                Some((Reason::BrokeProtocol, what))
            }
            _ => None,
        }
    }
}
