//! Asking another host which releases are stable, and being asked.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::SendStream;
use scap_proto::{
    codec,
    frame::{self, FrameError},
    id::NodeId,
    identity::PeerIdentity,
    limits::STABLE_ANSWERS_MAX,
    transport::{DialError, Link, LinkError},
    wire::{Envelope, Open, close, control::Finalize, stable::StableQuestion},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{Incoming, Node, session::SessionError, trusting::Visit};

/// Longest that a question may take, the dial included: a round trip or three and some kilobytes. A host that is down is
/// found out by it.
const ASK_TIME_MAX: Duration = Duration::from_secs(5);

/// Longest that an answer may take to be read by whoever asked, after which it is dropped.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Longest answer that is read, in bytes: so many releases with the most deltas and signatures that one can have. It is held
/// in memory before anything of it is proved.
const ANSWER_BYTES_MAX: usize = STABLE_ANSWERS_MAX * 16 * 1024;

/// A question that another node asked.
#[derive(Debug)]
pub struct Question {
    /// Who asks.
    pub peer: PeerIdentity,
    /// What.
    pub about: StableQuestion,
    send: SendStream,
    /// Of those that the link may have.
    _turn: OwnedSemaphorePermit,
}

impl Question {
    /// Answers it, as far as whoever asked reads it; with nothing where there is nothing for it.
    pub async fn answer(mut self, stable: Vec<Finalize>) {
        let answer = async {
            for finalize in stable.into_iter().take(STABLE_ANSWERS_MAX) {
                frame::write_message(&mut self.send, &Envelope::from(finalize)).await?;
            }
            Ok::<_, FrameError>(())
        };
        match tokio::time::timeout(ANSWER_TIME_MAX, answer).await {
            Ok(Ok(())) => drop(self.send.finish()),
            // It has gone, or does not read.
            Ok(Err(_)) | Err(_) => drop(self.send.reset(close::SLOW.into())),
        }
    }
}

/// Why a host did not say which releases are stable.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It is not reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The link ended: so does that of a host of a build that does not know the question.
    #[error("the link ended; an older build ends it so")]
    Link(#[from] LinkError),
    /// The stream ended.
    #[error("ask for the stable releases")]
    Frame(#[from] FrameError),
    /// More than it may say.
    #[error("it says more than {STABLE_ANSWERS_MAX} releases, or {ANSWER_BYTES_MAX} bytes")]
    TooMuch,
    /// Nothing for too long.
    #[error("no answer within {} s", ASK_TIME_MAX.as_secs())]
    TimedOut,
}

impl Node {
    /// Asks a host which releases are stable: on the link that there is, or on one of its own that ends with the answer.
    /// Nothing of what it says is verified.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask_stable(
        &self,
        name: &NodeId,
        addresses: &[SocketAddr],
        question: &StableQuestion,
    ) -> Result<Vec<Finalize>, AskError> {
        let asking = async {
            if let Some(link) = self.link(name).await {
                match ask(&link, question).await {
                    // It ended a moment ago.
                    Err(AskError::Link(_)) => {}
                    asked => return asked,
                }
            }
            let link = self.shared.dial(name, addresses).await?;
            // Who was away learns so, before anything else, whose certificates count.
            let visit = Visit::begin(&self.shared, &link).await;
            let answer = ask(&link, question).await;
            if let Some(visit) = visit {
                visit.end().await;
            }
            link.close(close::DONE, "asked");
            answer
        };
        let asked = tokio::time::timeout(ASK_TIME_MAX, asking).await;
        asked.unwrap_or(Err(AskError::TimedOut))
    }
}

async fn ask(link: &Link, question: &StableQuestion) -> Result<Vec<Finalize>, AskError> {
    let (mut send, mut receive) = link.open_bi().await?;
    let open = Open::Stable(Box::new(question.clone()));
    frame::write_message(&mut send, &Envelope::from(open)).await?;
    let _ = send.finish();
    let (mut answers, mut bytes) = (Vec::new(), 0);
    while let Some(frame) = frame::read(&mut receive).await? {
        bytes += frame.len();
        if answers.len() == STABLE_ANSWERS_MAX || bytes > ANSWER_BYTES_MAX {
            return Err(AskError::TooMuch);
        }
        let decoded = codec::decode_message::<Envelope<Finalize>>(&frame);
        answers.push(decoded.map_err(FrameError::from)?.message);
    }
    Ok(answers)
}

/// Hands a question on, one of a link at a time: who asks more at once, or faster than all are answered, gets no answer.
pub(super) fn asked(
    link: &Link,
    turn: &Arc<Semaphore>,
    about: StableQuestion,
    mut send: SendStream,
    to: Option<&mpsc::Sender<Incoming>>,
) -> Result<(), SessionError> {
    let Some(to) = to else {
        return Err(SessionError::Unexpected(
            "a question, and we keep no releases",
        ));
    };
    let turn = turn.clone().try_acquire_owned();
    let room = to.try_reserve();
    match (turn, room) {
        (Ok(turn), Ok(room)) => {
            room.send(Incoming::Question(Question {
                peer: link.peer().clone(),
                about,
                send,
                _turn: turn,
            }));
        }
        _ => drop(send.reset(close::BUSY.into())),
    }
    Ok(())
}
