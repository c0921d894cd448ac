//! Asking hosts what config files would change there: each by itself, on a link of its own that no deployment notices.

use std::{sync::Arc, time::Duration};

use scap_agent::relay::resolve;
use scap_proto::{
    codec,
    frame::{self, FrameError},
    id::NodeId,
    identity::{Identity, verifier::Expect},
    release::SignedConfigQuestion,
    transport::{BindError, DialError, Endpoint, Link, LinkError, LinkSettings},
    wire::{Envelope, Open, close, config::ConfigAnswer},
};
use tokio::{sync::mpsc, task::JoinSet};

use super::Host;

/// Most hosts that are asked at a time. Each is sent a question of a megabyte at most, and answers with half a megabyte.
const ASKED_MAX: usize = 32;

/// How long a host may take to answer once it is reached: it renders for 4 s, and compares for 2 s more.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// How long closed links may take to be told.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// Why a host did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It is reached only through others, and these pass on orders alone.
    #[error("it stands behind {}, and who stands behind others is not asked", names(.0))]
    Behind(Vec<NodeId>),
    /// Its name is not known.
    #[error("look up its address")]
    Resolve(#[source] std::io::Error),
    /// It is not reached.
    #[error(transparent)]
    Dial(DialError),
    /// It is reached, and knows no such question.
    #[error("its agent is of an older build, which does not know the question")]
    Older,
    /// It took too long to be reached.
    #[error("not reached within {} s", .0.as_secs())]
    NotReached(Duration),
    /// It took too long to answer.
    #[error("no answer within {} s", ANSWER_MAX.as_secs())]
    Silent,
    /// The link ended.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// It answers nothing that can be read.
    #[error("read its answer")]
    Frame(#[from] FrameError),
    /// It ended the stream.
    #[error("it ends the question without an answer")]
    Ended,
}

fn names(hosts: &[NodeId]) -> String {
    let names: Vec<&str> = hosts.iter().map(|host| host.as_str()).collect();
    names.join(", ")
}

/// What one host answered.
pub struct Answered {
    /// Which host.
    pub host: NodeId,
    /// Its answer, and how long that is in bytes.
    pub answer: Result<(ConfigAnswer, usize), AskError>,
}

/// Asks all `hosts`, of which each may take `reach_max` to be reached, and tells of each on `answers`.
///
/// # Errors
/// [`BindError`].
pub async fn ask_all(
    identity: Arc<Identity>,
    hosts: &[Host],
    question: SignedConfigQuestion,
    reach_max: Duration,
    answers: mpsc::Sender<Answered>,
) -> Result<(), BindError> {
    let endpoint = Endpoint::dial_only(identity, &LinkSettings::default())?;
    let question = Arc::new(Envelope::from(Open::Config(Box::new(question))));
    let mut asking = JoinSet::new();
    for host in hosts {
        if asking.len() == ASKED_MAX {
            asking.join_next().await;
        }
        let (host, endpoint) = (host.clone(), endpoint.clone());
        let (question, answers) = (question.clone(), answers.clone());
        asking.spawn(async move {
            let answer = ask(&endpoint, &host, &question, reach_max).await;
            let host = host.name;
            let _ = answers.send(Answered { host, answer }).await;
        });
    }
    while asking.join_next().await.is_some() {}
    let _ = tokio::time::timeout(CLOSE_MAX, endpoint.wait_idle()).await;
    Ok(())
}

async fn ask(
    endpoint: &Endpoint,
    host: &Host,
    question: &Envelope<Open>,
    reach_max: Duration,
) -> Result<(ConfigAnswer, usize), AskError> {
    if !host.via.is_empty() {
        return Err(AskError::Behind(host.via.iter().cloned().collect()));
    }
    let reaching = async {
        let addresses = resolve(&host.addresses).await.map_err(AskError::Resolve)?;
        let expect = Expect::agent(host.name.clone());
        let dialled = endpoint.dial_to_ask(&addresses, &expect).await;
        dialled.map_err(|error| match error.is_version() {
            true => AskError::Older,
            false => AskError::Dial(error),
        })
    };
    let reached = tokio::time::timeout(reach_max, reaching).await;
    let link = reached.map_err(|_| AskError::NotReached(reach_max))??;
    let answer = tokio::time::timeout(ANSWER_MAX, talk(&link, question)).await;
    link.close(close::DONE, "asked");
    answer.map_err(|_| AskError::Silent)?
}

async fn talk(link: &Link, question: &Envelope<Open>) -> Result<(ConfigAnswer, usize), AskError> {
    let (mut send, mut receive) = link.open_bi().await?;
    frame::write_message(&mut send, question).await?;
    let _ = send.finish();
    let answer = frame::read(&mut receive).await?.ok_or(AskError::Ended)?;
    let decoded = codec::decode_message::<Envelope<ConfigAnswer>>(&answer);
    Ok((decoded.map_err(FrameError::from)?.message, answer.len()))
}
