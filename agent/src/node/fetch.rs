//! One chunk on its way here: asked for, or pushed.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use scap_proto::{
    content::{ChunkError, ChunkRef, RawChunk},
    frame::{self, FrameError},
    transport::{Content, Link, RecvStream},
    wire::{
        Envelope, Open,
        chunk::{ChunkRequest, PushHeader, ReplyHeader, ReplyHeaderError},
        close,
    },
};

use super::{Shared, handles::Opened, transfer::Transfer};
use crate::{store::StoreError, swarm::Failure};

/// Longest that a request may take, whatever the engine thinks of it: so that a peer that sends a byte now and
/// then cannot hold a stream for ever.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(300);

/// Why one peer did not give us one chunk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("the link or the stream ended")]
    Link(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("read the answer")]
    Header(#[from] ReplyHeaderError),
    #[error("the peer announced {announced} encoded bytes for a chunk of {plain} bytes")]
    Length { announced: u32, plain: u32 },
    #[error("the peer sent wrong bytes")]
    WrongBytes(#[from] ChunkError),
    #[error("the peer sent more than it announced")]
    Longer,
    #[error("the peer does not hold it")]
    NotHeld,
    #[error("the peer is busy")]
    Busy,
    #[error("a bug in what reads the answer")]
    Panicked,
    #[error("not answered in {} s", REQUEST_TIME_MAX.as_secs())]
    TimedOut,
    #[error("store a chunk")]
    Store(#[from] StoreError),
}

impl FetchError {
    /// What it means to the engine.
    pub(crate) fn failure(&self) -> Failure {
        match self {
            Self::WrongBytes(_) | Self::Header(_) | Self::Length { .. } | Self::Longer => {
                Failure::WrongBytes
            }
            Self::NotHeld => Failure::NotHeld,
            Self::Busy => Failure::Busy,
            Self::Link(_) | Self::TimedOut | Self::Panicked => Failure::Reset,
            Self::Store(_) => Failure::Local,
        }
    }
}

/// Asks for a chunk, verifies and stores it, and returns its encoded length. Dropping it ends the request.
pub(crate) async fn fetch(
    link: &Link,
    request: ChunkRequest,
    chunk: ChunkRef,
    shared: Arc<Shared>,
) -> Result<u64, FetchError> {
    let answer = tokio::time::timeout(REQUEST_TIME_MAX, ask(link, request, chunk))
        .await
        .map_err(|_| FetchError::TimedOut)??;
    keep(answer, chunk, shared).await
}

/// Takes what a peer pushes: verifies and stores it, and returns its encoded length. `None` where it is of a release
/// that does not follow this peer, or held by now. Dropping it ends it.
pub(crate) async fn take(
    link: &Link,
    mut stream: RecvStream,
    followed: &Opened,
    shared: Arc<Shared>,
) -> Option<(Arc<Transfer>, u32, Result<u64, FetchError>)> {
    let taking = async {
        let mut header = [0; PushHeader::BYTES];
        stream.read_exact(&mut header).await.ok()?;
        let Ok(header) = PushHeader::decode(header) else {
            return None;
        };
        let transfer = followed.get(header.handle);
        let transfer = transfer.map(|opening| opening.transfer.clone());
        let chunk = transfer.as_ref().and_then(|it| it.chunk(header.index));
        let (Some(transfer), Some(chunk)) = (transfer, chunk) else {
            let _ = stream.stop(close::CANCELLED.into());
            return None;
        };
        if shared.store.contains(&chunk.id) {
            let _ = stream.stop(close::DONE.into());
            return None;
        }
        let content = link.content();
        let result = match body(&content, &mut stream, header.length, chunk).await {
            Ok(bytes) => keep(bytes, chunk, shared).await,
            Err(error) => Err(error),
        };
        Some((transfer, header.index, result))
    };
    tokio::time::timeout(REQUEST_TIME_MAX, taking).await.ok()?
}

/// Verifies and stores encoded bytes, and returns their length.
async fn keep(bytes: Bytes, chunk: ChunkRef, shared: Arc<Shared>) -> Result<u64, FetchError> {
    let length = bytes.len() as u64;
    let verify_and_store = move || {
        let verified = RawChunk::new(bytes).verify(chunk.id, chunk.plain_length)?;
        shared.store.put(&verified)?;
        shared.recent.add(&verified);
        Ok::<_, FetchError>(())
    };
    tokio::task::spawn_blocking(verify_and_store)
        .await
        .expect("verifying a chunk does not panic")?;
    Ok(length)
}

async fn ask(link: &Link, request: ChunkRequest, chunk: ChunkRef) -> Result<Bytes, FetchError> {
    let (mut send, mut receive) = link
        .open_bi()
        .await
        .map_err(|e| FetchError::Link(e.into()))?;
    let content = link.content();
    frame::write_message(&mut send, &Envelope::from(Open::Chunk(request)))
        .await
        .map_err(|error: FrameError| FetchError::Link(error.into()))?;
    send.finish().map_err(|e| FetchError::Link(e.into()))?;
    let mut header = [0; ReplyHeader::BYTES];
    receive
        .read_exact(&mut header)
        .await
        .map_err(|e| FetchError::Link(e.into()))?;
    let announced = match ReplyHeader::decode(header)? {
        ReplyHeader::Found(length) => length,
        ReplyHeader::NotHeld => return Err(FetchError::NotHeld),
        ReplyHeader::Busy => return Err(FetchError::Busy),
    };
    body(&content, &mut receive, announced, chunk).await
}

/// Reads so many encoded bytes, and the end of the stream.
async fn body(
    content: &Content,
    receive: &mut RecvStream,
    announced: u32,
    chunk: ChunkRef,
) -> Result<Bytes, FetchError> {
    if announced > chunk.plain_length + 1 {
        return Err(FetchError::Length {
            announced,
            plain: chunk.plain_length,
        });
    }
    let mut bytes = vec![0; announced as usize];
    content
        .read_exact(receive, &mut bytes)
        .await
        .map_err(|e| FetchError::Link(e.into()))?;
    match receive.read_chunk(1, true).await {
        Ok(None) => Ok(bytes.into()),
        Ok(Some(_)) => Err(FetchError::Longer),
        Err(error) => Err(FetchError::Link(error.into())),
    }
}
