//! The way to one host below us: dialled, and a control stream on it, until it is lost or falls silent.

use std::{net::SocketAddr, time::Duration};

use quinn::{RecvStream, SendStream};
use scap_proto::{
    frame::{self, FrameError},
    id::NodeId,
    transport::{DialError, Link, LinkError},
    wire::{Envelope, Hello, Open, control::ControlMessage},
};
use tokio::sync::mpsc;

use super::Place;
use crate::node::Node;

/// A host that says nothing for so long is taken for lost: it says something each [`BEAT`](crate::relay::BEAT), so two of these may be
/// late. Its hosts get another above them within two seconds.
const SILENT_MAX: Duration = Duration::from_millis(1300);

/// How often a link that another one took the place of may be followed by that, before the host counts as lost.
const REPLACED_MAX: u32 = 4;

/// A host, and where it is dialled.
#[derive(Debug, Clone)]
pub struct Contact {
    /// Its name.
    pub name: NodeId,
    /// Where.
    pub at: At,
}

/// Where a host is dialled.
#[derive(Debug, Clone)]
pub enum At {
    /// At these addresses.
    Addresses(Vec<SocketAddr>),
    /// At what these, `host:port` each, are now.
    Names(Vec<String>),
}

/// What is heard of a host below us.
#[derive(Debug)]
pub(super) enum Heard {
    /// There is a control stream to it.
    Linked,
    /// It says something.
    Message(ControlMessage),
    /// It is lost.
    Lost {
        /// Why.
        reason: String,
        /// Whether the link, too, is of no use: nothing came on it.
        is_link_dead: bool,
    },
}

/// Which session of which host.
pub(super) type Session = (Place, u64);

/// Why a host is lost.
#[derive(Debug, thiserror::Error)]
enum ChildError {
    #[error("look up its address")]
    Resolve(#[source] std::io::Error),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the link ended")]
    Link(#[from] LinkError),
    #[error("the control stream ended")]
    Frame(#[from] FrameError),
    #[error("it closed the control stream")]
    Ended,
    #[error("it said nothing for {} ms", SILENT_MAX.as_millis())]
    Silent,
}

pub(super) struct Child {
    pub(super) node: Node,
    pub(super) contact: Contact,
    pub(super) session: Session,
    /// Whether to dial it though there is a link: that did not do.
    pub(super) is_fresh: bool,
    pub(super) heard: mpsc::Sender<(Session, Heard)>,
}

impl Child {
    /// Runs until the host is lost, and says so.
    pub(super) async fn run(self, mut orders: mpsc::Receiver<Vec<ControlMessage>>) {
        let mut is_fresh = self.is_fresh;
        let mut replaced = 0;
        let (error, is_link_dead) = loop {
            let link = match self.reach(is_fresh).await {
                Ok(link) => link,
                Err(error) => break (error, true),
            };
            is_fresh = false;
            let received = link.stats().bytes_received;
            // What was to be sent on another link is sent again, where it still counts.
            while orders.try_recv().is_ok() {}
            let error = self.serve(&link, &mut orders).await;
            let other = self.node.link(&self.contact.name).await;
            let is_replaced = other.is_some_and(|other| !other.is_same(&link));
            replaced += 1;
            if !is_replaced || replaced > REPLACED_MAX {
                break (error, link.stats().bytes_received == received);
            }
        };
        let lost = Heard::Lost {
            reason: crate::error_chain(&error),
            is_link_dead,
        };
        let _ = self.heard.send((self.session, lost)).await;
    }

    async fn reach(&self, is_fresh: bool) -> Result<Link, ChildError> {
        if !is_fresh && let Some(link) = self.node.link(&self.contact.name).await {
            return Ok(link);
        }
        let addresses = match &self.contact.at {
            At::Addresses(addresses) => addresses.clone(),
            At::Names(names) => resolve(names).await.map_err(ChildError::Resolve)?,
        };
        Ok(self.node.dial(&self.contact.name, &addresses).await?)
    }

    /// Keeps a control stream on a link until it ends.
    async fn serve(
        &self,
        link: &Link,
        orders: &mut mpsc::Receiver<Vec<ControlMessage>>,
    ) -> ChildError {
        let open = async {
            let (mut send, mut receive) = link.open_bi().await?;
            let open = Envelope::from(Open::Control(Hello::ours()));
            let open = open.showing(self.node.membership().as_ref());
            frame::write_message(&mut send, &open).await?;
            match frame::read_message::<_, Envelope<Hello>>(&mut receive).await? {
                Some(hello) => Ok((send, receive, hello.message)),
                None => Err(ChildError::Ended),
            }
        };
        let (send, receive, hello) = match tokio::time::timeout(SILENT_MAX, open).await {
            Ok(Ok(streams)) => streams,
            Ok(Err(error)) => return error,
            Err(_) => return ChildError::Silent,
        };
        let _ = self.heard.send((self.session, Heard::Linked)).await;
        tokio::select! {
            error = write(send, orders, &hello) => error,
            error = self.read(receive) => error,
        }
    }

    async fn read(&self, mut receive: RecvStream) -> ChildError {
        loop {
            let read = frame::read_message::<_, Envelope<ControlMessage>>(&mut receive);
            match tokio::time::timeout(SILENT_MAX, read).await {
                Ok(Ok(Some(Envelope { message, .. }))) => {
                    let heard = (self.session, Heard::Message(message));
                    let _ = self.heard.send(heard).await;
                }
                Ok(Ok(None)) => return ChildError::Ended,
                Ok(Err(error)) => return error.into(),
                Err(_) => return ChildError::Silent,
            }
        }
    }
}

async fn write(
    mut send: SendStream,
    orders: &mut mpsc::Receiver<Vec<ControlMessage>>,
    hello: &Hello,
) -> ChildError {
    while let Some(messages) = orders.recv().await {
        for message in messages {
            // An older build would end the stream at what it cannot read.
            if matches!(message, ControlMessage::Renewal(_)) && !hello.takes_renewals() {
                tracing::debug!("a renewal is not passed on to an older build");
                continue;
            }
            if let Err(error) = frame::write_message(&mut send, &Envelope::from(message)).await {
                return error.into();
            }
        }
    }
    // Nobody orders any more: the task is about to be ended.
    std::future::pending().await
}

/// The addresses of `host:port`s, in their order.
///
/// # Errors
/// Where none of them can be looked up: what became of the last.
pub async fn resolve(names: &[String]) -> std::io::Result<Vec<SocketAddr>> {
    let mut found = Vec::new();
    let mut failed = None;
    for name in names {
        match tokio::net::lookup_host(name.as_str()).await {
            Ok(addresses) => found.extend(addresses),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}
