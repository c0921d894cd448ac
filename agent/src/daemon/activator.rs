//! The way to the activator, whoever started it.

use std::{path::Path, time::Duration};

use scap_proto::release::Step;
use tokio_util::sync::CancellationToken;

use crate::{
    activate::process::{ActivatorClient, Answer, ClientError, Request},
    keeper::Keeper,
};

/// How long a request waits for an activator that is (re)starting.
const START_MAX: Duration = Duration::from_secs(20);
/// Pause before a socket that nobody listens on is tried again.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);
/// How long the activator may take to finish the request in progress at the end.
const STOP_MAX: Duration = Duration::from_secs(30);
/// How long one that is killed may take to be gone: the kernel does it at once, but for what sits in a file system that hangs.
const KILL_MAX: Duration = Duration::from_secs(5);
/// Times that one request is asked again after the activator died of it.
const ASKS_MAX: u32 = 3;

/// The way to the activator. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct ActivatorHandle {
    client: ActivatorClient,
    stop: CancellationToken,
    over: CancellationToken,
    is_kept: bool,
}

impl ActivatorHandle {
    /// Has the activator started, and started again, by its keeper. Without one an activator of somebody else's is used.
    pub(super) fn start(socket: &Path, keeper: Option<Keeper>) -> Self {
        let handle = Self {
            client: ActivatorClient::new(socket),
            stop: CancellationToken::new(),
            over: CancellationToken::new(),
            is_kept: keeper.is_some(),
        };
        if let Some(mut keeper) = keeper {
            keeper.begin();
            tokio::spawn(watch(keeper, handle.stop.clone(), handle.over.clone()));
        }
        handle
    }

    /// Asks, and asks again where the activator died before it answered: each request is the same
    /// when it is made twice.
    pub(super) async fn ask(&self, request: Request) -> Result<Answer, ClientError> {
        self.ask_hearing(request, |_| {}).await
    }

    /// The same; `begins` hears of each step of it, as it begins, and of nothing once it is over.
    pub(super) async fn ask_hearing(
        &self,
        request: Request,
        begins: impl Fn(Option<Step>),
    ) -> Result<Answer, ClientError> {
        let started = tokio::time::Instant::now();
        let mut asked = 0;
        loop {
            let error = match self.client.ask_hearing(request.clone(), &begins).await {
                Ok(answer) => return Ok(answer),
                Err(error) if !error.is_transient() => return Err(error),
                Err(error) => error,
            };
            let is_connected = !matches!(error, ClientError::Connect { .. });
            asked += u32::from(is_connected);
            if asked >= ASKS_MAX || (!is_connected && started.elapsed() > START_MAX) {
                return Err(error);
            }
            if is_connected {
                tracing::warn!(
                    error = crate::error_chain(&error),
                    "asking the activator again"
                );
            }
            tokio::time::sleep(CONNECT_PAUSE).await;
        }
    }

    /// Asks once: a question of which the activator died is not asked again.
    pub(super) async fn ask_once(&self, request: Request) -> Result<Answer, ClientError> {
        self.client.ask(request).await
    }

    /// For what is asked once, and goes on.
    pub(super) fn client(&self) -> ActivatorClient {
        self.client.clone()
    }

    /// Returns when nobody starts the activator again any more, though somebody should. Cancel-safe.
    pub(super) async fn lost(&self) {
        self.over.cancelled().await;
    }

    /// Lets the activator finish what it does, and ends it.
    pub(super) async fn shutdown(&self) {
        self.stop.cancel();
        if self.is_kept {
            self.over.cancelled().await;
        }
    }
}

/// Cancels `over` when the keeper has ended, by itself or since it was to `stop`.
async fn watch(mut keeper: Keeper, stop: CancellationToken, over: CancellationToken) {
    tokio::select! {
        () = keeper.ended() => tracing::error!("the activator's keeper died"),
        () = stop.cancelled() => {
            keeper.end();
            if tokio::time::timeout(STOP_MAX, keeper.ended()).await.is_err() {
                keeper.kill();
                let _ = tokio::time::timeout(KILL_MAX, keeper.ended()).await;
            }
        }
    }
    over.cancel();
}
