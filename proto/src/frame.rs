//! Length-prefixed frames over a stream: a little-endian `u32` length, then that many bytes.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Semaphore,
};

use crate::{
    codec::{self, CodecError, Extensible},
    limits::FRAME_BYTES_MAX,
};

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed.
    #[error("the stream failed")]
    Io(#[from] std::io::Error),
    /// The frame is longer than [`FRAME_BYTES_MAX`], or than is taken from its sender. Nothing was allocated for it.
    #[error("a frame of {0} bytes, which is more than is allowed here")]
    TooLong(u64),
    /// The frame's bytes are not the message that belongs here.
    #[error("decode a frame")]
    Codec(#[from] CodecError),
}

/// Reads one frame, or `None` where the stream ends cleanly before one.
///
/// Not cancel-safe: a dropped read loses what it had read.
///
/// # Errors
/// [`FrameError::Io`] and [`FrameError::TooLong`].
pub async fn read<R: AsyncRead + Unpin>(stream: &mut R) -> Result<Option<Bytes>, FrameError> {
    match read_length(stream, FRAME_BYTES_MAX).await? {
        Some(length) => Ok(Some(read_body(stream, length).await?)),
        None => Ok(None),
    }
}

/// The length of the frame that comes next, of a sender from whom no more than `bytes_max` is taken, which is at most
/// [`FRAME_BYTES_MAX`].
async fn read_length<R: AsyncRead + Unpin>(
    stream: &mut R,
    bytes_max: u32,
) -> Result<Option<u32>, FrameError> {
    let mut prefix = [0; 4];
    let first = stream.read(&mut prefix).await?;
    if first == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut prefix[first..]).await?;
    let length = u32::from_le_bytes(prefix);
    if length > bytes_max.min(FRAME_BYTES_MAX) {
        return Err(FrameError::TooLong(length.into()));
    }
    Ok(Some(length))
}

async fn read_body<R: AsyncRead + Unpin>(stream: &mut R, length: u32) -> Result<Bytes, FrameError> {
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes.into())
}

/// Reads one message; `None` where the stream ends cleanly before one. Not cancel-safe.
///
/// # Errors
/// As [`read`] and [`codec::decode_message`].
pub async fn read_message<R, M>(stream: &mut R) -> Result<Option<M>, FrameError>
where
    R: AsyncRead + Unpin,
    M: DeserializeOwned + Extensible,
{
    match read(stream).await? {
        Some(bytes) => Ok(Some(codec::decode_message(&bytes)?)),
        None => Ok(None),
    }
}

/// As [`read_message`], of a sender from whom no frame longer than `bytes_max` is taken.
///
/// # Errors
/// As [`read_message`].
pub async fn read_short_message<R, M>(
    stream: &mut R,
    bytes_max: u32,
) -> Result<Option<M>, FrameError>
where
    R: AsyncRead + Unpin,
    M: DeserializeOwned + Extensible,
{
    let Some(length) = read_length(stream, bytes_max).await? else {
        return Ok(None);
    };
    let bytes = read_body(stream, length).await?;
    Ok(Some(codec::decode_message(&bytes)?))
}

/// As [`read_message`], where `room` has a permit for each byte that may be held of frames that have not come whole, over all
/// streams of a peer: one that begins many and ends none waits for itself.
///
/// # Errors
/// As [`read_message`].
pub async fn read_message_in<R, M>(
    stream: &mut R,
    room: &Semaphore,
) -> Result<Option<M>, FrameError>
where
    R: AsyncRead + Unpin,
    M: DeserializeOwned + Extensible,
{
    let Some(length) = read_length(stream, FRAME_BYTES_MAX).await? else {
        return Ok(None);
    };
    // Closed: whoever did so wants nothing read any more, which is as if the stream had ended.
    let Ok(_held) = room.acquire_many(length).await else {
        return Ok(None);
    };
    let bytes = read_body(stream, length).await?;
    Ok(Some(codec::decode_message(&bytes)?))
}

/// Writes one message. Not cancel-safe: a dropped write leaves the stream unusable.
///
/// # Errors
/// [`FrameError::TooLong`] before anything is written; [`FrameError::Io`].
pub async fn write_message<W, M>(stream: &mut W, message: &M) -> Result<(), FrameError>
where
    W: AsyncWrite + Unpin,
    M: Serialize,
{
    stream.write_all(&encode_frame(message)?).await?;
    Ok(())
}

/// One message as a frame, prefix included.
///
/// # Errors
/// [`FrameError::TooLong`].
pub fn encode_frame<M: Serialize>(message: &M) -> Result<Vec<u8>, FrameError> {
    let body = codec::encode(message);
    let length = u32::try_from(body.len())
        .ok()
        .filter(|length| *length <= FRAME_BYTES_MAX)
        .ok_or(FrameError::TooLong(body.len() as u64))?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_end_cleanly_or_not_at_all() {
        let mut two: &[u8] = &[1, 0, 0, 0, 7, 0, 0, 0, 0];
        assert_eq!(read(&mut two).await.unwrap().unwrap().as_ref(), [7]);
        assert_eq!(read(&mut two).await.unwrap().unwrap().as_ref(), []);
        assert!(read(&mut two).await.unwrap().is_none());
        for cut in [&[1u8][..], &[1, 0, 0], &[1, 0, 0, 0], &[2, 0, 0, 0, 7]] {
            assert!(
                matches!(read(&mut &cut[..]).await, Err(FrameError::Io(_))),
                "{cut:?}"
            );
        }
    }

    #[tokio::test]
    async fn from_some_only_short_frames_are_taken() {
        use crate::wire::{Envelope, Hello};

        let hello = Envelope::from(Hello::ours());
        let whole = encode_frame(&hello).unwrap();
        let length = u32::try_from(whole.len()).unwrap() - 4;
        let read = read_short_message::<_, Envelope<Hello>>(&mut &whole[..], length).await;
        assert_eq!(read.unwrap(), Some(hello));
        let refused = read_short_message::<_, Envelope<Hello>>(&mut &whole[..4], length - 1).await;
        assert!(matches!(refused, Err(FrameError::TooLong(_))));
    }

    #[tokio::test]
    async fn a_frame_that_claims_four_gibibytes_is_refused_without_allocating() {
        let mut lie: &[u8] = &[0xff; 4];
        assert!(matches!(
            read(&mut lie).await,
            Err(FrameError::TooLong(0xffff_ffff))
        ));
    }

    #[tokio::test]
    async fn frames_that_are_begun_and_not_ended_take_no_more_than_their_room() {
        use crate::wire::{Envelope, Hello};

        let hello = Envelope::from(Hello::ours());
        let whole = encode_frame(&hello).unwrap();
        let length = whole.len() - 4;
        let room = Semaphore::new(2 * length);
        let (ends, mut streams): (Vec<_>, Vec<_>) = (0..3).map(|_| tokio::io::duplex(64)).unzip();
        let [mut first, mut second, mut third] = <[_; 3]>::try_from(ends).unwrap();
        for end in [&mut first, &mut second] {
            end.write_all(&whole[..5]).await.unwrap();
        }
        let mut third_stream = streams.pop().unwrap();
        let mut begun: Vec<_> = streams
            .iter_mut()
            .map(|stream| Box::pin(read_message_in::<_, Envelope<Hello>>(stream, &room)))
            .collect();
        for read in &mut begun {
            let pending = tokio::time::timeout(std::time::Duration::from_millis(1), read).await;
            assert!(pending.is_err());
        }
        assert_eq!(room.available_permits(), 0);
        third.write_all(&whole).await.unwrap();
        let mut last = Box::pin(read_message_in::<_, Envelope<Hello>>(
            &mut third_stream,
            &room,
        ));
        let waits = tokio::time::timeout(std::time::Duration::from_millis(1), &mut last).await;
        assert!(waits.is_err());
        first.write_all(&whole[5..]).await.unwrap();
        assert_eq!(begun.remove(0).await.unwrap(), Some(hello.clone()));
        assert_eq!(last.await.unwrap(), Some(hello));
    }
}
