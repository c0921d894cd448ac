//! Being asked by a coordinator what config files would change here, on a link for that alone: the links that nodes keep with each
//! other, and what is done on them, know nothing of it.

use std::{sync::Arc, time::Duration};

use quinn::SendStream;
use scap_proto::{
    frame::{self, FrameError},
    id::NodeId,
    identity::{PUBLIC_KEY_BYTES, Role},
    release::SignedConfigQuestion,
    transport::{Link, LinkError},
    wire::{Envelope, Open, close, config::ConfigAnswer},
};
use tokio::sync::mpsc;

use super::{Incoming, Shared};

/// How long a link may last on which something is asked: the question, rendering and comparing, and the answer.
const LINK_TIME_MAX: Duration = Duration::from_secs(20);

/// What a coordinator asks.
#[derive(Debug)]
pub struct ConfigAsked {
    /// The coordinator, as its certificate says.
    pub asker: NodeId,
    /// The key that is in its certificate.
    pub key: [u8; PUBLIC_KEY_BYTES],
    /// What; nothing of it is verified.
    pub question: SignedConfigQuestion,
    send: SendStream,
}

impl ConfigAsked {
    /// Answers, as far as whoever asked reads it.
    pub async fn answer(mut self, answer: ConfigAnswer) {
        // Where the link is gone, nobody reads it; and a link is soon gone.
        if frame::write_message(&mut self.send, &Envelope::from(answer))
            .await
            .is_ok()
        {
            let _ = self.send.finish();
        }
    }
}

/// Why something that was to be asked is not taken.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error("the link ended")]
    Link(#[from] LinkError),
    #[error("read the question")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Unexpected(&'static str),
}

/// Takes one question on a link, and keeps the link until it is answered.
pub(super) async fn run(link: Link, shared: Arc<Shared>) {
    let asked = async {
        let taken = take(&link, shared.control.as_ref()).await;
        if taken.is_ok() {
            // Whoever asks ends the link, once it has the answer.
            link.closed().await;
        }
        taken
    };
    match tokio::time::timeout(LINK_TIME_MAX, asked).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let from = &link.peer().name;
            let error = crate::error_chain(&error);
            tracing::info!(%from, error, "a question is not taken");
            link.close(close::PROTOCOL, "no question");
        }
        Err(_) => link.close(close::SLOW, "it took too long"),
    }
}

async fn take(link: &Link, to: Option<&mpsc::Sender<Incoming>>) -> Result<(), NotTaken> {
    let (Some(to), Role::Coordinator, Some(key)) = (to, link.peer().role, link.peer_key()) else {
        return Err(NotTaken::Unexpected("a coordinator asks, of an agent"));
    };
    let (send, mut receive) = link.accept_bi().await?;
    let open: Option<Envelope<Open>> = frame::read_message(&mut receive).await?;
    let Some(Envelope {
        message: Open::Config(question),
        ..
    }) = open
    else {
        return Err(NotTaken::Unexpected("something else than a question"));
    };
    let asked = ConfigAsked {
        asker: link.peer().name.clone(),
        key,
        question: *question,
        send,
    };
    // A full queue waits: the time of the link is its bound.
    let _ = to.send(Incoming::Config(asked)).await;
    Ok(())
}
