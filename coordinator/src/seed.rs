//! The seed: a node that starts out complete.

use std::{sync::Arc, time::Duration};

use scap_agent::{
    node::{Job, Node, NodeEvent, StartError, Tasks},
    store::Store,
};
use scap_proto::{identity::Identity, transport::RateCaps};
use tokio::sync::oneshot;

/// How long the links may take to close. That they close is said at once, and the rest would wait for no answer but for
/// what may still be on its way; a host that the word does not reach notices by its idle limit.
const SHUTDOWN_MAX: Duration = Duration::from_millis(100);

/// A running seed. It listens on nothing: it dials.
#[derive(Debug)]
pub struct Seed {
    node: Node,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Seed {
    /// Starts the seed on a store, with caps on its traffic.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(
        identity: Arc<Identity>,
        store: Store,
        caps: RateCaps,
    ) -> Result<Self, StartError> {
        let (node, tasks) = Node::start(identity, None, store, None, caps)?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(run(tasks, stopped));
        Ok(Self { node, stop, task })
    }

    /// The node, to dial with and to ask how much it sent.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Begins to serve a release whose chunks are all in the store.
    pub async fn serve(&self, job: Job) {
        self.node.attach(job).await;
    }

    /// Closes all links.
    pub async fn shutdown(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

async fn run(mut tasks: Tasks, mut stopped: oneshot::Receiver<()>) {
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            event = tasks.next() => match event {
                Some(NodeEvent::Fetched { .. } | NodeEvent::TrustChanged) => {}
                Some(NodeEvent::Failed { release, reason }) => {
                    tracing::error!(release = %release.short(), code = %reason.code, %reason, "the seed cannot serve it");
                }
                Some(NodeEvent::PeerDropped { peer, reason }) => {
                    tracing::info!(%peer, code = %reason.code, %reason, "the seed dropped a peer");
                }
                None => {
                    tracing::error!("the seed ended by itself");
                    break;
                }
            },
        }
    }
    tasks.shutdown(SHUTDOWN_MAX).await;
}
