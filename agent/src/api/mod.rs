//! The local API: a Unix socket in the data directory, for the command line on the same host.
//!
//! One request and one answer a connection, each a line of JSON. Only the daemon's user and root are heard.

mod pull;
mod trust;
mod view;
mod watch;

use std::{
    io,
    path::{Path, PathBuf},
};

use scap_proto::{
    reason::{Because, Reason},
    release::{Environment, RepoPath},
    wire::control::Finalize,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
};

use crate::{
    catchup::engine::Scope,
    limits::Caps,
    local::{LocalListener, Users},
};

pub use pull::{AskedView, BehindView, CatchUpView, DisbelievedView, Given, PullView, PulledView};
pub use trust::{RevokedView, TrustView};
pub use view::{
    AuthorityView, BytesView, ConfinementView, GcView, IdentityView, LimitView, LimitsView,
    PeerView, RepoView, ShunView, StatusView, VerifyView,
};
pub use watch::{DeniedView, FreshnessView, SawView, WatchView};

/// The socket's name in the data directory.
pub const SOCKET_NAME: &str = "agent.sock";

/// Longest request, in bytes: a method, a repo's name, and a stable release in hex, which with eight signatures and four deltas
/// is some 16 KiB.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;
/// Most requests that wait for the daemon.
const REQUESTS_MAX: usize = 64;

/// A request as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case")]
pub enum Call {
    /// The daemon's status.
    Status,
    /// Compare a live tree with its snapshot.
    Verify {
        /// Which repo.
        repo: RepoPath,
    },
    /// Ask the peers for what is stable, and catch up with it.
    Pull {
        /// Of this repo alone.
        repo: Option<RepoPath>,
        /// In this environment alone.
        environment: Option<Environment>,
        /// What is known of it from elsewhere.
        #[serde(default)]
        given: Vec<Given>,
    },
    /// Collect the chunk store.
    Gc,
    /// Change caps until the daemon is started again, or just tell them.
    Limit {
        /// Whether to take back first what such calls said.
        reset: bool,
        /// What is to be.
        caps: Caps,
    },
}

impl Call {
    /// The names of all methods, as a request has them in `method`.
    pub const METHODS: [&str; 5] = ["status", "verify", "pull", "gc", "limit"];
}

/// A request as the daemon gets it.
#[derive(Debug)]
pub enum ApiRequest {
    /// See [`Call::Status`].
    Status {
        /// For the answer.
        reply: oneshot::Sender<StatusView>,
    },
    /// See [`Call::Verify`].
    Verify {
        /// Which repo.
        repo: RepoPath,
        /// For the answer.
        reply: oneshot::Sender<Result<VerifyView, ApiError>>,
    },
    /// See [`Call::Pull`].
    Pull {
        /// About what.
        scope: Scope,
        /// What is known of it from elsewhere: it counts as a peer's word does.
        given: Vec<Finalize>,
        /// For the answer.
        reply: oneshot::Sender<Result<PullView, ApiError>>,
    },
    /// See [`Call::Limit`].
    Limit {
        /// Whether to take back first what such calls said.
        reset: bool,
        /// What is to be.
        caps: Caps,
        /// For the answer.
        reply: oneshot::Sender<LimitsView>,
    },
    /// See [`Call::Gc`].
    Collect {
        /// For the answer.
        reply: oneshot::Sender<Result<GcView, ApiError>>,
    },
}

/// Why the daemon did not do it, in its words.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct ApiError(pub String);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No daemon listens.
    #[error("connect to the agent at {path}")]
    Connect {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection failed.
    #[error("talk to the agent")]
    Io(#[from] io::Error),
    /// The answer is of another version.
    #[error("read the agent's answer")]
    Json(#[from] serde_json::Error),
    /// The daemon says no.
    #[error("{0}")]
    Refused(String),
}

#[derive(Deserialize)]
struct ErrorAnswer {
    error: String,
    code: Option<Reason>,
}

/// Makes the socket and serves it until the returned task is dropped or aborted.
///
/// # Errors
/// Where the socket cannot be made.
pub(crate) fn listen(data: &Path) -> io::Result<(Server, mpsc::Receiver<ApiRequest>)> {
    let listener = LocalListener::bind(&data.join(SOCKET_NAME), Users::own())?;
    let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
    let server = tokio::spawn(async move {
        let mut sessions = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = sessions.join_next(), if !sessions.is_empty() => {}
                accepted = listener.accept(refusal) => match accepted {
                    Ok(stream) => {
                        sessions.spawn(serve(stream, requests.clone()));
                    }
                    Err(error) => tracing::warn!(%error, "accept a local request"),
                },
            }
        }
    });
    Ok((Server(server), inbox))
}

/// The serving task; dropping it ends it.
pub(crate) struct Server(JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn serve(stream: UnixStream, requests: mpsc::Sender<ApiRequest>) {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let read = BufReader::new(read.take(REQUEST_BYTES_MAX))
        .read_line(&mut line)
        .await;
    let answer = match read.map(|_| serde_json::from_str::<Call>(&line)) {
        Ok(Ok(call)) => answer(call, &requests).await,
        Ok(Err(error)) => error_answer(&format!("not a request: {error}")),
        Err(_) => return,
    };
    // Who asked may have left.
    let _ = write.write_all(format!("{answer}\n").as_bytes()).await;
}

async fn answer(call: Call, requests: &mpsc::Sender<ApiRequest>) -> String {
    match call {
        Call::Status => {
            let (reply, answer) = oneshot::channel();
            let _ = requests.send(ApiRequest::Status { reply }).await;
            json(answer.await.map(Ok))
        }
        Call::Verify { repo } => {
            let (reply, answer) = oneshot::channel();
            let _ = requests.send(ApiRequest::Verify { repo, reply }).await;
            json(answer.await)
        }
        Call::Limit { reset, caps } => {
            let (reply, answer) = oneshot::channel();
            let request = ApiRequest::Limit { reset, caps, reply };
            let _ = requests.send(request).await;
            json(answer.await.map(Ok))
        }
        Call::Pull {
            repo,
            environment,
            given,
        } => {
            let given: Result<Vec<_>, _> = given.iter().map(Given::read).collect();
            let given = match given {
                Ok(given) => given,
                Err(error) => return error_answer(&format!("read what is given: {error}")),
            };
            let (reply, answer) = oneshot::channel();
            let scope = Scope { repo, environment };
            let request = ApiRequest::Pull {
                scope,
                given,
                reply,
            };
            let _ = requests.send(request).await;
            json(answer.await)
        }
        Call::Gc => {
            let (reply, answer) = oneshot::channel();
            let _ = requests.send(ApiRequest::Collect { reply }).await;
            json(answer.await)
        }
    }
}

fn json<T: Serialize>(answer: Result<Result<T, ApiError>, oneshot::error::RecvError>) -> String {
    match answer {
        Ok(Ok(view)) => {
            serde_json::to_string(&view).unwrap_or_else(|error| error_answer(&error.to_string()))
        }
        Ok(Err(error)) => error_answer(&error.0),
        Err(_) => error_answer("the agent is going down"),
    }
}

fn error_answer(text: &str) -> String {
    serde_json::json!({ "error": text }).to_string()
}

/// What a user hears who may not ask.
fn refusal(why: &Because) -> Vec<u8> {
    let answer = serde_json::json!({ "error": why.text, "code": why.code });
    format!("{answer}\n").into_bytes()
}

/// Asks the daemon of that data directory.
///
/// # Errors
/// [`CallError`].
pub async fn call<T: DeserializeOwned>(data: &Path, call: &Call) -> Result<T, CallError> {
    let path = data.join(SOCKET_NAME);
    let mut stream = UnixStream::connect(&path)
        .await
        .map_err(|source| CallError::Connect {
            path: path.clone(),
            source,
        })?;
    let request = format!("{}\n", serde_json::to_string(call)?);
    // Who is refused is so before the request is read, and hears why.
    let asked = stream.write_all(request.as_bytes()).await;
    let mut answer = String::new();
    let heard = stream.read_to_string(&mut answer).await;
    if answer.is_empty() {
        asked?;
        heard?;
    }
    if let Ok(refused) = serde_json::from_str::<ErrorAnswer>(&answer) {
        let code = refused.code.map(|code| format!(" [{code}]"));
        let text = refused.error + &code.unwrap_or_default();
        return Err(CallError::Refused(text));
    }
    Ok(serde_json::from_str(&answer)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_methods_names_each_that_a_request_may_have() {
        let error = serde_json::from_str::<Call>(r#"{"method":"no-such"}"#).unwrap_err();
        let named = Call::METHODS.map(|name| format!("`{name}`")).join(", ");
        assert!(error.to_string().contains(&named), "{error}");
    }
}
