//! The activator's process, as its parent sees it: started, started again when it dies, stopped.

use std::{ffi::OsString, process::Stdio, sync::Arc, time::Duration};

use scap_proto::release::Step;
use tokio::{
    process::{Child, Command},
    sync::Notify,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    activate::process::{ActivatorClient, Answer, ClientError, Request},
    config::Config,
};

/// How long a request waits for an activator that is (re)starting.
const START_MAX: Duration = Duration::from_secs(20);
/// Pause before a dead activator is started again, so that one that dies at once does not spin.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
/// Pause before a socket that nobody listens on is tried again.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);
/// How long the activator may take to finish the request in progress at the end.
const STOP_MAX: Duration = Duration::from_secs(30);
/// Times that one request is asked again after the activator died of it.
const ASKS_MAX: u32 = 3;

/// The way to the activator. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct ActivatorHandle {
    client: ActivatorClient,
    cancel: CancellationToken,
    stopped: Arc<Notify>,
    supervisor: Option<Arc<JoinHandle<()>>>,
}

impl ActivatorHandle {
    /// Starts the activator and its supervisor. With an empty `command` an activator of somebody else's is used.
    pub(super) async fn start(
        config: &Config,
        command: Vec<OsString>,
        cancel: CancellationToken,
    ) -> std::io::Result<Self> {
        let client = ActivatorClient::new(&config.data);
        let stopped = Arc::new(Notify::new());
        let supervisor = if command.is_empty() {
            stopped.notify_one();
            None
        } else {
            let child = spawn(&command)?;
            let supervise = supervise(child, command, cancel.clone(), stopped.clone());
            Some(Arc::new(tokio::spawn(supervise)))
        };
        Ok(Self {
            client,
            cancel,
            stopped,
            supervisor,
        })
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

    /// Lets the activator finish what it does, and ends it.
    pub(super) async fn shutdown(&self) {
        self.cancel.cancel();
        if self.supervisor.is_some() {
            let _ = tokio::time::timeout(STOP_MAX, self.stopped.notified()).await;
        }
    }
}

async fn supervise(
    mut child: Child,
    command: Vec<OsString>,
    cancel: CancellationToken,
    stopped: Arc<Notify>,
) {
    // Held apart: waiting for a child closes what it still holds of its standard input.
    let mut stdin = child.stdin.take();
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            status = child.wait() => match status {
                Ok(status) => tracing::warn!(%status, "the activator died; starting it again"),
                Err(error) => tracing::error!(%error, "wait for the activator"),
            },
        }
        child = loop {
            tokio::select! {
                () = cancel.cancelled() => {
                    stopped.notify_one();
                    return;
                }
                () = tokio::time::sleep(RESTART_PAUSE) => {}
            }
            match spawn(&command) {
                Ok(child) => break child,
                Err(error) => tracing::error!(%error, "start the activator"),
            }
        };
        stdin = child.stdin.take();
    }
    // Its standard input closes: it finishes what it does and ends.
    drop(stdin);
    if tokio::time::timeout(STOP_MAX, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
    stopped.notify_one();
}

/// Starts the process. It ends when its standard input does, so it never outlives this one.
fn spawn(command: &[OsString]) -> std::io::Result<Child> {
    Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}
