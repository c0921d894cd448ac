//! Being given the next certificate by a coordinator, on a link for that alone. It is the only link that a coordinator makes
//! to a host whose certificate has expired, so nothing else is answered on it.

use std::{sync::Arc, time::Duration};

use quinn::SendStream;
use scap_proto::{
    frame::{self, FrameError},
    id::NodeId,
    identity::Role,
    release::SignedRenewal,
    transport::{Link, LinkError},
    wire::{
        Envelope, close,
        renewal::{RenewalAnswer, RenewalRequest},
    },
};
use tokio::sync::mpsc;

use super::{Incoming, Shared};

/// How long such a link may last: three round trips, and a few files written to a slow disk.
const LINK_TIME_MAX: Duration = Duration::from_secs(20);

/// What a coordinator sends.
#[derive(Debug)]
pub struct RenewalAsked {
    /// The coordinator, as its certificate says.
    pub coordinator: NodeId,
    /// What it sends; nothing of it is verified.
    pub renewal: SignedRenewal,
    send: SendStream,
}

impl RenewalAsked {
    /// Answers, as far as the coordinator reads it.
    pub async fn answer(mut self, answer: RenewalAnswer) {
        // Where the link is gone, nobody reads it; and a link is soon gone.
        if frame::write_message(&mut self.send, &Envelope::from(answer))
            .await
            .is_ok()
        {
            let _ = self.send.finish();
        }
    }
}

/// Why nothing is taken.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error("the link ended")]
    Link(#[from] LinkError),
    #[error("read the renewal")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Unexpected(&'static str),
}

/// Takes one renewal on a link, and keeps the link until it is answered.
pub(super) async fn run(link: Link, shared: Arc<Shared>) {
    let asked = async {
        take(&link, shared.control.as_ref()).await?;
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
            tracing::info!(%from, error, "a renewal is not taken");
            link.close(close::PROTOCOL, "no renewal");
        }
        Err(_) => link.close(close::SLOW, "it took too long"),
    }
}

async fn take(link: &Link, to: Option<&mpsc::Sender<Incoming>>) -> Result<(), NotTaken> {
    let (Some(to), Role::Coordinator) = (to, link.peer().role) else {
        return Err(NotTaken::Unexpected("a coordinator renews, an agent"));
    };
    let (send, mut receive) = link.accept_bi().await?;
    let request: Option<Envelope<RenewalRequest>> = frame::read_message(&mut receive).await?;
    let Some(Envelope {
        message: RenewalRequest::Install(renewal),
        ..
    }) = request
    else {
        return Err(NotTaken::Unexpected("a stream without a renewal"));
    };
    let asked = RenewalAsked {
        coordinator: link.peer().name.clone(),
        renewal: *renewal,
        send,
    };
    // A full queue waits: the time of the link is its bound.
    let _ = to.send(Incoming::Renewal(asked)).await;
    Ok(())
}
