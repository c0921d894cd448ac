//! One control stream: messages in, reports out.

use scap_proto::{
    frame,
    release::TreeId,
    wire::{Envelope, Hello, control::ControlMessage},
};
use tokio::sync::mpsc;

use crate::{node::ControlStream, relay::BEAT};

/// A control stream of this daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ControlId(pub(super) u64);

/// Who is above us, as the daemon keeps it.
#[derive(Debug)]
pub(super) struct Above {
    /// What it is told.
    pub(super) outbox: mpsc::Sender<ControlMessage>,
    /// In which tree we relay for it, once it said so.
    pub(super) tree: Option<TreeId>,
}

/// A message, and on which stream it came.
pub(super) struct FromControl {
    pub(super) id: ControlId,
    pub(super) message: ControlMessage,
}

/// Runs until either side ends the stream.
pub(super) async fn run(
    id: ControlId,
    stream: ControlStream,
    mut outbox: mpsc::Receiver<ControlMessage>,
    out: mpsc::Sender<FromControl>,
) -> ControlId {
    let ControlStream {
        link,
        mut send,
        mut receive,
    } = stream;
    let write = async move {
        frame::write_message(&mut send, &Envelope::from(Hello::ours())).await?;
        loop {
            let message = match tokio::time::timeout(BEAT, outbox.recv()).await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(()),
                Err(_) => ControlMessage::Beat,
            };
            frame::write_message(&mut send, &Envelope::from(message)).await?;
        }
    };
    let read = async move {
        while let Some(Envelope { message, .. }) = frame::read_message(&mut receive).await? {
            if out.send(FromControl { id, message }).await.is_err() {
                break;
            }
        }
        Ok::<(), frame::FrameError>(())
    };
    let result = tokio::select! {
        result = write => result,
        result = read => result,
    };
    let from = &link.peer().name;
    match result {
        Ok(()) => tracing::info!(%from, "control stream closed"),
        Err(error) => {
            tracing::info!(%from, error = crate::error_chain(&error), "control stream lost");
        }
    }
    id
}
