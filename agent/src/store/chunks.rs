//! The file of one chunk: a header, and the encoded bytes to the end of the file.
//!
//! ```text
//! magic, with the version   4 bytes
//! plain length              4, little-endian
//! checksum                 16, XXH3-128(chunk id, plain length, encoded bytes), little-endian
//! ```
//! A file of version 1, whose checksum was the start of a BLAKE3, counts as damaged: it is dropped and fetched again.
//!
//! The checksum names the chunk too, so another chunk's file in its place is noticed without decoding.
//! It is against accidents; whoever must not trust the disk decodes: [`StoredChunk::plain`].

use std::{
    fmt,
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use bytes::Bytes;
use rustix::fs::{Advice, fadvise};
use scap_proto::{
    content::{ChunkError, EncodedChunk, RawChunk},
    id::ChunkId,
    limits::ENCODED_CHUNK_BYTES_MAX,
};
use twox_hash::XxHash3_128;

const MAGIC: [u8; 4] = *b"SCC2";
const CHECKSUM_BYTES: usize = 16;
const HEADER_BYTES: usize = MAGIC.len() + 4 + CHECKSUM_BYTES;
const FILE_BYTES_MAX: u64 = HEADER_BYTES as u64 + ENCODED_CHUNK_BYTES_MAX as u64;

/// A chunk as the store gave it back: proved to be the bytes that were put there under this id,
/// which were proved before they were put.
#[derive(Clone)]
pub struct StoredChunk {
    id: ChunkId,
    plain_length: u32,
    encoded: Bytes,
}

impl StoredChunk {
    /// The chunk's id.
    pub fn id(&self) -> ChunkId {
        self.id
    }

    /// Length of the plain bytes.
    pub fn plain_length(&self) -> u32 {
        self.plain_length
    }

    /// The encoded bytes, as sent.
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// The plain bytes, proved again to be those that the id names.
    ///
    /// # Errors
    /// [`ChunkError`]: a file that was made with care, but not of this chunk.
    pub fn plain(&self) -> Result<Bytes, ChunkError> {
        RawChunk::new(self.encoded.clone())
            .verify_with_plain(self.id, self.plain_length)
            .map(|(_, plain)| plain)
    }

    /// The plain bytes, not proved to be those that the id names.
    fn decoded(&self) -> Result<Bytes, ChunkError> {
        RawChunk::new(self.encoded.clone()).decode(self.plain_length)
    }

    /// Length of the encoded bytes.
    pub(super) fn encoded_length(&self) -> u32 {
        u32::try_from(self.encoded.len()).expect("a chunk file is read up to FILE_BYTES_MAX")
    }
}

impl fmt::Debug for StoredChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "StoredChunk({:?}, {} bytes)",
            self.id,
            self.encoded.len()
        )
    }
}

/// Why a chunk file gave no chunk.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("the file is gone")]
    Gone,
    #[error("the file is damaged: {0}")]
    Damaged(&'static str),
    /// The disk could not read it, and will not another time.
    #[error("the disk could not read it")]
    Disk(#[source] io::Error),
    #[error("the bytes are another chunk's")]
    Other(#[from] ChunkError),
    /// Not the file's fault.
    #[error("read it")]
    Io(#[source] io::Error),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match error
            .raw_os_error()
            .map(rustix::io::Errno::from_raw_os_error)
        {
            Some(rustix::io::Errno::NOENT) => Self::Gone,
            Some(rustix::io::Errno::IO) => Self::Disk(error),
            _ => Self::Io(error),
        }
    }
}

/// Length of the file of a chunk.
pub(super) fn file_bytes(chunk: &EncodedChunk) -> u64 {
    HEADER_BYTES as u64 + chunk.bytes().len() as u64
}

pub(super) fn write(file: &mut impl Write, chunk: &EncodedChunk) -> io::Result<()> {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&MAGIC);
    header[4..8].copy_from_slice(&chunk.plain_length().to_le_bytes());
    header[8..].copy_from_slice(&checksum(&chunk.id(), chunk.plain_length(), chunk.bytes()));
    file.write_all(&header)?;
    file.write_all(chunk.bytes())
}

/// Reads and checks the file at `path` as that of chunk `id`.
pub(super) fn read(path: &Path, id: &ChunkId) -> Result<StoredChunk, ReadError> {
    read_from(&File::open(path)?, id)
}

/// Reads the plain bytes of chunk `id` from the file at `path`. That they are what the id names proves more than the
/// checksum would, so that is not looked at.
pub(super) fn read_plain(path: &Path, id: &ChunkId) -> Result<Bytes, ReadError> {
    let (chunk, _) = parse(&File::open(path)?, id)?;
    Ok(chunk.plain()?)
}

/// As [`read_plain`], and proves nothing.
pub(super) fn read_unproved(path: &Path, id: &ChunkId) -> Result<Bytes, ReadError> {
    let (chunk, _) = parse(&File::open(path)?, id)?;
    Ok(chunk.decoded()?)
}

/// As [`read`], proving what is on the disk, for a file that no sync has covered as far as is known.
///
/// After a write that the disk lost, the page cache may still show the bytes as if they were safe.
/// So clean pages are dropped before the file is read; pages not written yet stay, and are the
/// next sync's business.
pub(super) fn read_uncached(path: &Path, id: &ChunkId) -> Result<StoredChunk, ReadError> {
    let file = File::open(path)?;
    // Advice: a file system that does not take it has no such cache to drop.
    let _ = fadvise(&file, 0, None, Advice::DontNeed);
    let chunk = read_from(&file, id)?;
    chunk.plain()?;
    Ok(chunk)
}

fn read_from(file: &File, id: &ChunkId) -> Result<StoredChunk, ReadError> {
    let (chunk, found) = parse(file, id)?;
    if found != checksum(id, chunk.plain_length, &chunk.encoded) {
        return Err(ReadError::Damaged("the checksum differs"));
    }
    Ok(chunk)
}

/// Reads a file that should be of chunk `id`, and the checksum that it says to have.
fn parse(file: &File, id: &ChunkId) -> Result<(StoredChunk, [u8; CHECKSUM_BYTES]), ReadError> {
    let length = file.metadata()?.len();
    if length > FILE_BYTES_MAX {
        return Err(ReadError::Damaged("too long"));
    }
    let capacity = usize::try_from(length).expect("FILE_BYTES_MAX fits in memory");
    let mut bytes = Vec::with_capacity(capacity);
    file.take(length).read_to_end(&mut bytes)?;

    let Some((header, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(ReadError::Damaged("too short"));
    };
    let [m0, m1, m2, m3, p0, p1, p2, p3, found @ ..] = *header;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(ReadError::Damaged("not a chunk file of this version"));
    }
    let plain_length = u32::from_le_bytes([p0, p1, p2, p3]);
    let chunk = StoredChunk {
        id: *id,
        plain_length,
        encoded: Bytes::from(bytes).slice(HEADER_BYTES..),
    };
    Ok((chunk, found))
}

pub(super) fn checksum(id: &ChunkId, plain_length: u32, encoded: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = XxHash3_128::new();
    hasher.write(id.as_bytes());
    hasher.write(&plain_length.to_le_bytes());
    hasher.write(encoded);
    hasher.finish_128().to_le_bytes()
}
