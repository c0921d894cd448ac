//! The ways to wear a node out on a link that it took.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use scap_proto::frame::{self, FrameError};
use scap_proto::id::ReleaseId;
use scap_proto::limits::{OPEN_RELEASES_PER_PEER_MAX, SNAPSHOT_CHUNKS_MAX};
use scap_proto::transport::{Link, STREAMS_MAX};
use scap_proto::wire::{
    Envelope, Hello, Open,
    chunk::ChunkRequest,
    peer::{ChunkSet, PeerMessage},
};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

/// What an evil peer does to one that it dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assault {
    /// Asks for the same chunks again and again, on all streams that it may open, and reads them.
    AsksAgain,
    /// Asks for chunks that it has no handle for, as fast as it may open streams.
    AsksForNothing,
    /// Asks for chunks on all streams, and reads nothing.
    ReadsNothing,
    /// Opens all streams, and says nothing on them.
    SitsOnStreams,
    /// Opens more releases than anybody may.
    OpensHandles,
    /// Says again and again that it has all chunks of the largest snapshot.
    SaysItAll,
    /// Opens control streams, and on each begins a frame of the longest kind that it never ends.
    BeginsFrames,
    /// Announces a frame of 2^32 - 1 bytes.
    AnnouncesFourGibibytes,
    /// Sends bytes that are no message.
    TalksNonsense,
}

/// How many chunks it knows of: few, and the first of any snapshot.
const CHUNKS: u32 = 8;

/// Goes on until the link ends; `done` counts what it got through.
pub(super) async fn assault(
    how: Assault,
    link: Link,
    release: ReleaseId,
    done: Arc<AtomicU64>,
) -> Result<(), FrameError> {
    let (mut send, mut receive) = link.open_bi().await.map_err(std::io::Error::other)?;
    let hello = Envelope::from(Open::Session(Hello::ours()));
    frame::write_message(&mut send, &hello).await?;
    let _ = frame::read_message::<_, Envelope<Hello>>(&mut receive).await?;
    let open = PeerMessage::Open { handle: 1, release };
    frame::write_message(&mut send, &Envelope::from(open)).await?;
    // It is served once it hears what there is.
    let _ = frame::read_message::<_, Envelope<PeerMessage>>(&mut receive).await?;
    let unread =
        tokio::spawn(async move { while let Ok(Some(_)) = frame::read(&mut receive).await {} });
    let mut tasks = JoinSet::new();
    match how {
        Assault::AsksAgain | Assault::AsksForNothing => {
            for stream in 0..STREAMS_MAX - 1 {
                let (link, done) = (link.clone(), done.clone());
                let handle = if how == Assault::AsksAgain { 1 } else { 99 };
                tasks.spawn(async move {
                    for number in 0.. {
                        let index = (stream + number) % CHUNKS;
                        let Ok((mut send, mut receive)) = link.open_bi().await else {
                            return;
                        };
                        let open = Open::Chunk(ChunkRequest { handle, index });
                        let _ = frame::write_message(&mut send, &Envelope::from(open)).await;
                        let _ = send.finish();
                        let _ = receive.read_to_end(2 * 1024 * 1024).await;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        }
        Assault::ReadsNothing | Assault::SitsOnStreams => {
            let mut held = Vec::new();
            for index in 0..STREAMS_MAX - 1 {
                let (mut send, receive) = link.open_bi().await.map_err(std::io::Error::other)?;
                if how == Assault::ReadsNothing {
                    let open = Open::Chunk(ChunkRequest { handle: 1, index });
                    frame::write_message(&mut send, &Envelope::from(open)).await?;
                    let _ = send.finish();
                } else {
                    // Or the other side does not see the stream.
                    send.write_all(&[1]).await.map_err(std::io::Error::other)?;
                }
                done.fetch_add(1, Ordering::Relaxed);
                held.push((send, receive));
            }
            let _ = link.closed().await;
        }
        Assault::OpensHandles => {
            for number in 0..2 * OPEN_RELEASES_PER_PEER_MAX as u64 {
                let release = ReleaseId::of(&number.to_le_bytes());
                let handle = 2 + u32::try_from(number).expect("a few hundred");
                let open = PeerMessage::Open { handle, release };
                frame::write_message(&mut send, &Envelope::from(open)).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            let _ = link.closed().await;
        }
        Assault::SaysItAll => loop {
            let bits = vec![0xff; SNAPSHOT_CHUNKS_MAX as usize / 8];
            let chunks = ChunkSet::Bitmap {
                first: 0,
                bits: bits.into(),
            };
            let have = PeerMessage::Have { handle: 0, chunks };
            frame::write_message(&mut send, &Envelope::from(have)).await?;
            done.fetch_add(1, Ordering::Relaxed);
        },
        Assault::BeginsFrames => {
            let mut held = Vec::new();
            for _ in 0..64 {
                let (mut send, receive) = link.open_bi().await.map_err(std::io::Error::other)?;
                let open = Envelope::from(Open::Control(Hello::ours()));
                frame::write_message(&mut send, &open).await?;
                tasks.spawn(async move {
                    let _ = send.write_all(&(1024 * 1024_u32).to_le_bytes()).await;
                    let _ = send.write_all(&vec![0; 1024 * 1024 - 1]).await;
                    std::future::pending::<()>().await;
                });
                done.fetch_add(1, Ordering::Relaxed);
                held.push(receive);
            }
            let _ = link.closed().await;
        }
        Assault::AnnouncesFourGibibytes => {
            send.write_all(&[0xff; 4])
                .await
                .map_err(std::io::Error::other)?;
            let _ = link.closed().await;
        }
        Assault::TalksNonsense => {
            let nonsense = [8, 0, 0, 0, 0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
            send.write_all(&nonsense)
                .await
                .map_err(std::io::Error::other)?;
            let _ = send.flush().await;
            let _ = link.closed().await;
        }
    }
    while tasks.join_next().await.is_some() {}
    unread.abort();
    Ok(())
}

/// Pause before it dials again.
pub(super) const AGAIN: Duration = Duration::from_millis(200);
