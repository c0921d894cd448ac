//! One control stream: messages in, reports out.

use scap_proto::{
    frame,
    release::SignedReport,
    wire::{Envelope, Hello, control::ControlMessage},
};
use tokio::sync::mpsc;

use crate::node::ControlStream;

/// A control stream of this daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ControlId(pub(super) u64);

/// A message, and on which stream it came.
pub(super) struct FromControl {
    pub(super) id: ControlId,
    pub(super) message: ControlMessage,
}

/// Runs until either side ends the stream.
pub(super) async fn run(
    id: ControlId,
    stream: ControlStream,
    mut reports: mpsc::Receiver<SignedReport>,
    out: mpsc::Sender<FromControl>,
) -> ControlId {
    let ControlStream {
        link,
        mut send,
        mut receive,
    } = stream;
    let write = async move {
        frame::write_message(&mut send, &Envelope::from(Hello::ours())).await?;
        while let Some(report) = reports.recv().await {
            let message = Envelope::from(ControlMessage::Report(Box::new(report)));
            frame::write_message(&mut send, &message).await?;
        }
        Ok(())
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
    let coordinator = &link.peer().name;
    match result {
        Ok(()) => tracing::info!(%coordinator, "control stream closed"),
        Err(error) => {
            tracing::info!(%coordinator, error = crate::error_chain(&error), "control stream lost");
        }
    }
    id
}
