//! The activator as its daemon asks it.

use std::path::{Path, PathBuf};

use scap_proto::{
    frame::{self, FrameError},
    release::Step,
    wire::Envelope,
};
use tokio::net::UnixStream;

use super::process::{Answer, Request};

/// A connection to the activator, one request each.
#[derive(Debug, Clone)]
pub struct ActivatorClient {
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It does not listen (yet).
    #[error("connect to the activator at {path}")]
    Connect {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It ended before it answered.
    #[error("the activator ended before it answered")]
    Ended,
    /// The connection failed.
    #[error("talk to the activator")]
    Frame(#[from] FrameError),
}

impl ClientError {
    /// Whether the activator may answer the same request once it runs again.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. } | Self::Ended | Self::Frame(FrameError::Io(_))
        )
    }
}

impl ActivatorClient {
    /// A client for the activator that listens there.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Asks; what comes and goes after that is on the connection.
    pub(crate) async fn begin(&self, request: Request) -> Result<UnixStream, ClientError> {
        let mut stream = self.connect().await?;
        frame::write_message(&mut stream, &Envelope::from(request)).await?;
        Ok(stream)
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        let connected = UnixStream::connect(&self.socket).await;
        connected.map_err(|source| ClientError::Connect {
            path: self.socket.clone(),
            source,
        })
    }

    /// Asks, and waits for the answer as long as it takes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn ask(&self, request: Request) -> Result<Answer, ClientError> {
        self.ask_hearing(request, |_| {}).await
    }

    /// The same; `begins` hears of each step of it, as it begins, and of nothing once it is over.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn ask_hearing(
        &self,
        request: Request,
        begins: impl Fn(Option<Step>),
    ) -> Result<Answer, ClientError> {
        let mut stream = self.connect().await?;
        if let Err(error) = frame::write_message(&mut stream, &Envelope::from(request)).await {
            // Who is refused is so before the request is read, and hears why.
            let refused = frame::read_message::<_, Envelope<Answer>>(&mut stream).await;
            return match refused {
                Ok(Some(refused)) => Ok(refused.message),
                _ => Err(error.into()),
            };
        }
        loop {
            match frame::read_message::<_, Envelope<Answer>>(&mut stream).await? {
                Some(Envelope {
                    message: Answer::Begins(step),
                    ..
                }) => begins(Some(step)),
                Some(Envelope {
                    message: Answer::StepOver,
                    ..
                }) => begins(None),
                Some(answer) => return Ok(answer.message),
                None => return Err(ClientError::Ended),
            }
        }
    }
}
