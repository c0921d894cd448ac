//! A claim and its answer over a link, from either side.

use std::time::Duration;

use quinn::{ReadError, ReadToEndError, RecvStream, SendStream, WriteError};
use tokio::time::{error::Elapsed, timeout};
use zeroize::Zeroizing;

use super::message::{Answer, CLAIM_BYTES_MAX, Claim};
use crate::{
    frame::{self, FrameError},
    limits::FRAME_BYTES_MAX,
    transport::enroll::{EnrollLink, EnrollLinkError},
    wire::{Envelope, close},
};

/// How long a claim may take from the handshake on: it is one packet, and whoever keeps us waiting has shown nothing.
const CLAIM_MAX: Duration = Duration::from_secs(10);

/// How long an answer may take: the coordinator syncs a few files, on a disk that may be busy.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// How long the host may take to have its identity on disk: a few files, synced.
const INSTALL_MAX: Duration = Duration::from_secs(30);

/// Makes a claim to the coordinator at the other end, which the link was made to have checked.
///
/// Not cancel-safe: the answer may be lost, and the claim can be made again.
///
/// # Errors
/// [`ExchangeError`].
pub async fn claim(link: &EnrollLink, claim: Claim) -> Result<(Answer, Installing), ExchangeError> {
    let (mut send, mut receive) = link.open().await?;
    let frame = Zeroizing::new(frame::encode_frame(&Envelope::from(claim))?);
    send.write_all(&frame).await.map_err(ExchangeError::Send)?;
    let answer = timeout(ANSWER_MAX, read_one(&mut receive, FRAME_BYTES_MAX)).await??;
    Ok((answer, Installing(send)))
}

/// The host's side of an exchange after its answer. Dropping it tells the coordinator that the identity is not on disk.
#[derive(Debug)]
#[must_use = "the coordinator waits to be told"]
pub struct Installing(SendStream);

impl Installing {
    /// Tells the coordinator that the identity is on disk, and waits until it knows, or is gone.
    pub async fn done(mut self) {
        if self.0.finish().is_ok() {
            let _ = timeout(CLAIM_MAX, self.0.stopped()).await;
        }
    }
}

impl Drop for Installing {
    fn drop(&mut self) {
        // Fails where it was finished.
        let _ = self.0.reset(close::INTERNAL.into());
    }
}

/// Reads the claim of a host. Nothing longer than [`CLAIM_BYTES_MAX`] is read.
///
/// # Errors
/// [`ExchangeError`].
pub async fn receive(link: &EnrollLink) -> Result<(Claim, Answering), ExchangeError> {
    let claim = async {
        let (send, mut receive) = link.accept().await?;
        let claim = read_one(&mut receive, CLAIM_BYTES_MAX).await?;
        Ok((claim, Answering { send, receive }))
    };
    timeout(CLAIM_MAX, claim).await?
}

/// The coordinator's side of an exchange after the claim.
#[derive(Debug)]
pub struct Answering {
    send: SendStream,
    receive: RecvStream,
}

impl Answering {
    /// Answers, and waits until the host has its identity on disk; it may have it also where that fails.
    ///
    /// # Errors
    /// [`ExchangeError`].
    pub async fn answer(mut self, answer: Answer) -> Result<(), ExchangeError> {
        let is_refusal = answer == Answer::Refused;
        let frame = frame::encode_frame(&Envelope::from(answer))?;
        let told = async {
            self.send
                .write_all(&frame)
                .await
                .map_err(ExchangeError::Send)?;
            // New, and not reset: it can be finished.
            let _ = self.send.finish();
            if is_refusal {
                let _ = self.send.stopped().await;
                return Ok(());
            }
            match self.receive.read_to_end(0).await {
                Ok(_) => Ok(()),
                Err(ReadToEndError::Read(error)) => Err(ExchangeError::Unconfirmed(error)),
                Err(ReadToEndError::TooLong) => Err(ExchangeError::TwoClaims),
            }
        };
        timeout(INSTALL_MAX, told).await?
    }
}

/// Why a claim was not made, or not answered.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The link.
    #[error(transparent)]
    Link(#[from] EnrollLinkError),
    /// The other side is too slow.
    #[error("the other side took too long")]
    Slow(#[from] Elapsed),
    /// What came is not the message that belongs here.
    #[error("read what the other side says")]
    Frame(#[from] FrameError),
    /// The other side ended before it said anything.
    #[error("the other side said nothing")]
    Nothing,
    /// More came than one claim.
    #[error("the other side said more than one claim")]
    TwoClaims,
    /// It could not be sent.
    #[error("send to the other side")]
    Send(#[source] WriteError),
    /// The host did not say that its identity is on its disk.
    #[error("the host did not say that it has its identity")]
    Unconfirmed(#[source] ReadError),
}

/// One message, whose frame is no longer than so many bytes.
async fn read_one<M>(stream: &mut RecvStream, bytes_max: u32) -> Result<M, ExchangeError>
where
    M: serde::de::DeserializeOwned,
{
    let envelope = frame::read_short_message::<_, Envelope<M>>(stream, bytes_max).await?;
    envelope.map(|it| it.message).ok_or(ExchangeError::Nothing)
}
