//! One control stream: messages in, reports out.

use scap_proto::{
    frame,
    id::NodeId,
    release::{Branch, TreeId},
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
    /// Who it is.
    pub(super) from: NodeId,
    /// What it is told.
    pub(super) outbox: mpsc::Sender<ControlMessage>,
    /// What we relay for it, once it said so.
    pub(super) part: Option<Part>,
}

/// What we relay for one that is above us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// In which tree.
    pub(super) tree: TreeId,
    /// Higher than of any that was given before.
    pub(super) number: u64,
    /// Whom.
    pub(super) branches: Vec<Branch>,
}

impl Above {
    pub(super) fn new(from: NodeId, outbox: mpsc::Sender<ControlMessage>) -> Self {
        Self {
            from,
            outbox,
            part: None,
        }
    }

    /// In which tree it is above us.
    pub(super) fn tree(&self) -> Option<TreeId> {
        self.part.as_ref().map(|part| part.tree)
    }
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
