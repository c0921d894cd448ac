//! A host with a valid identity that asks for whatever it likes, byte by byte.

use std::sync::Arc;
use std::time::Duration;

use scap_proto::frame;
use scap_proto::id::ReleaseId;
use scap_proto::identity::{Identity, verifier::Expect};
use scap_proto::release::SignedMembership;
use scap_proto::transport::{Endpoint, Link, LinkSettings, RecvStream, SendStream};
use scap_proto::wire::{
    Envelope, Hello, Open, chunk::ChunkRequest, control::ControlMessage, peer::PeerMessage,
};
use tokio::runtime::Runtime;

use super::scene::Agent;

/// A link of its own to one agent.
pub struct Asker {
    link: Link,
    /// Kept, as a stream that is dropped is over.
    streams: Vec<(SendStream, RecvStream)>,
    _endpoint: Endpoint,
    runtime: Runtime,
}

impl Asker {
    pub fn dial(identity: Arc<Identity>, agent: &Agent) -> Self {
        let runtime = Runtime::new().unwrap();
        let (endpoint, link) = runtime.block_on(async {
            let endpoint = Endpoint::dial_only(identity, &LinkSettings::default()).unwrap();
            let expect = Expect::agent(agent.id().clone());
            let link = endpoint.dial(&[agent.address], &expect).await.unwrap();
            (endpoint, link)
        });
        Self {
            link,
            streams: Vec::new(),
            _endpoint: endpoint,
            runtime,
        }
    }

    /// Opens the session, showing a membership or none, and these releases by the handles 0, 1, ….
    pub fn open(&mut self, shown: Option<&SignedMembership>, releases: &[ReleaseId]) {
        let hello = Open::Session(Hello::ours());
        let link = self.link.clone();
        let opening = async move {
            let (mut send, mut receive) = link.open_bi().await.unwrap();
            let open = Envelope::from(hello).showing(shown);
            frame::write_message(&mut send, &open).await.unwrap();
            let answer = frame::read_message::<_, Envelope<Hello>>(&mut receive).await;
            answer.unwrap().unwrap();
            for (handle, release) in (0..).zip(releases) {
                let release = *release;
                let open = Envelope::from(PeerMessage::Open { handle, release });
                frame::write_message(&mut send, &open).await.unwrap();
            }
            (send, receive)
        };
        let streams = self.runtime.block_on(opening);
        self.streams.push(streams);
    }

    /// All that comes when it asks for the first chunk of what has that handle.
    pub fn first_chunk(&self, handle: u32) -> Vec<u8> {
        let request = Open::Chunk(ChunkRequest { handle, index: 0 });
        self.runtime.block_on(async {
            let (mut send, mut receive) = self.link.open_bi().await.unwrap();
            let open = Envelope::from(request);
            frame::write_message(&mut send, &open).await.unwrap();
            let _ = send.finish();
            let answer = receive.read_to_end(2 * 1024 * 1024);
            let answer = tokio::time::timeout(ANSWER_MAX, answer).await;
            answer.expect("an answer in time").unwrap()
        })
    }

    /// Opens a control stream, as who relays does, and says these; what comes back until `is_enough`, without beats.
    pub fn control(
        &self,
        shown: Option<&SignedMembership>,
        messages: Vec<ControlMessage>,
        mut is_enough: impl FnMut(&[ControlMessage]) -> bool,
    ) -> Vec<ControlMessage> {
        self.runtime.block_on(async {
            let (mut send, mut receive) = self.link.open_bi().await.unwrap();
            let open = Envelope::from(Open::Control(Hello::ours())).showing(shown);
            frame::write_message(&mut send, &open).await.unwrap();
            let answer = frame::read_message::<_, Envelope<Hello>>(&mut receive).await;
            answer.unwrap().unwrap();
            for message in messages {
                let message = Envelope::from(message);
                frame::write_message(&mut send, &message).await.unwrap();
            }
            let mut heard = Vec::new();
            let hearing = async {
                while !is_enough(&heard) {
                    let said = frame::read_message::<_, Envelope<ControlMessage>>(&mut receive);
                    match said.await.unwrap().unwrap().message {
                        ControlMessage::Beat => {}
                        message => heard.push(message),
                    }
                }
            };
            let heard_in_time = tokio::time::timeout(ANSWER_MAX, hearing).await;
            heard_in_time.expect("an answer in time");
            heard
        })
    }

    /// Sends raw bytes at the start of a stream, or after a greeting, as much as is taken; and waits until the other side has had
    /// enough of it.
    pub fn sends(&self, greeting: Option<Open>, bytes: &[u8]) {
        self.runtime.block_on(async {
            let (mut send, mut receive) = self.link.open_bi().await.unwrap();
            if let Some(open) = greeting {
                let open = Envelope::from(open);
                frame::write_message(&mut send, &open).await.unwrap();
            }
            let _ = send.write_all(bytes).await;
            let end = async {
                let mut buffer = [0; 4096];
                while let Ok(Some(_)) = receive.read(&mut buffer).await {}
            };
            let ended = tokio::time::timeout(ANSWER_MAX, end).await;
            ended.expect("the stream or the link ends");
        });
    }
}

/// The longest that an answer may take on a machine that is busy.
const ANSWER_MAX: Duration = Duration::from_secs(30);
