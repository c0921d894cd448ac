//! The index file: which chunk files a sync has covered.
//!
//! It saves hashing them all at start, and nothing else: no read trusts it. A damaged record only
//! costs hashing one chunk again.
//!
//! ```text
//! magic, with the version  16 bytes
//! records                  48 each: chunk id 32, plain length 4, encoded length 4 (0: removed),
//!                          checksum 8, the start of BLAKE3 of the 40 bytes before it
//! ```
//! Numbers are little-endian. Records are appended; of several for one chunk the last one counts.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use scap_proto::{
    id::{ChunkId, DIGEST_BYTES},
    limits::{CHUNK_BYTES_MAX, ENCODED_CHUNK_BYTES_MAX},
};

use super::{
    durable,
    error::says_full,
    have::{Have, Held},
};

const MAGIC: [u8; 16] = *b"scap-index v1\r\n\n";
const RECORD_BYTES: usize = DIGEST_BYTES + 4 + 4 + CHECKSUM_BYTES;
const CHECKSUM_BYTES: usize = 8;

/// How many records without effect may gather before the file is worth writing anew: 3 MB of them,
/// or as many as have effect.
const STALE_RECORDS_MAX: u64 = 65_536;

/// Records taken from memory at a time while the file is written anew: their lock is held for well
/// under a millisecond.
const REWRITE_RECORDS: usize = 4096;

/// What an index file said.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Records in it, with or without effect.
    pub(super) records: u64,
    /// Records that were damaged, the whole file counting as one where its start is.
    pub(super) damaged: u64,
}

/// One record.
#[derive(Debug, Clone, Copy)]
pub(super) enum Record {
    Durable(ChunkId, Held),
    Removed(ChunkId),
}

/// The index file, open for appending.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    file: File,
    records: u64,
    failed: bool,
    /// Whether other processes append to it and write it anew too, each in its turn.
    is_shared: bool,
}

/// Why records were not appended.
#[derive(Debug, thiserror::Error)]
pub(super) enum AppendError {
    /// The file is as it was, and it works again once there is room.
    #[error("no room")]
    Full,
    /// The file is in doubt, and so is each append from now on.
    #[error(transparent)]
    Failed(#[from] io::Error),
}

/// Reads the index at `path` into `have`, as durable and unseen.
///
/// # Errors
/// Only that it cannot be read; a missing one is empty, a damaged one says so.
pub(super) fn load(path: &Path, have: &mut Have) -> io::Result<Contents> {
    let mut contents = Contents::default();
    let mut file = match File::open(path) {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(contents),
        Err(error) => return Err(error),
    };
    let mut magic = [0; MAGIC.len()];
    if read_up_to(&mut file, &mut magic)? < magic.len() || magic != MAGIC {
        contents.damaged = 1;
        return Ok(contents);
    }
    let mut bytes = [0; RECORD_BYTES];
    loop {
        match read_up_to(&mut file, &mut bytes)? {
            0 => return Ok(contents),
            RECORD_BYTES => match decode(&bytes) {
                Some(Record::Durable(id, held)) => have.insert_unseen(id, held),
                Some(Record::Removed(id)) => drop(have.remove(&id)),
                None => contents.damaged += 1,
            },
            // A crash while appending.
            _ => contents.damaged += 1,
        }
        contents.records += 1;
    }
}

impl Index {
    /// Opens the file that [`load`] read, to append to it.
    pub(super) fn open(path: PathBuf, records: u64) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).open(&path)?;
        Ok(Self {
            path,
            file,
            records,
            failed: false,
            is_shared: false,
        })
    }

    /// Whether other processes change it too.
    pub(super) fn shared(self, is_shared: bool) -> Self {
        Self { is_shared, ..self }
    }

    /// Writes the file anew at `path`, with what `have` says is durable, and opens it.
    ///
    /// `have` is asked for some records at a time, so that its lock need not be held; none may be
    /// removed or made durable meanwhile.
    pub(super) fn create(
        path: PathBuf,
        have: impl Fn(Option<ChunkId>, usize) -> Vec<(ChunkId, Held)>,
    ) -> io::Result<Self> {
        let mut records = 0;
        durable::replace_file_with(&path, durable::PRIVATE, |file| {
            file.write_all(&MAGIC)?;
            let mut last = None;
            loop {
                let some = have(last, REWRITE_RECORDS);
                let Some((id, _)) = some.last() else {
                    return Ok(());
                };
                last = Some(*id);
                for (id, held) in some {
                    file.write_all(&encode(&Record::Durable(id, held)))?;
                    records += 1;
                }
            }
        })?;
        Self::open(path, records)
    }

    /// As [`Self::create`] in this file's place, where too many of its records have no effect.
    pub(super) fn compact(
        &mut self,
        live: u64,
        have: impl Fn(Option<ChunkId>, usize) -> Vec<(ChunkId, Held)>,
    ) -> io::Result<()> {
        if !self.failed && is_wasteful(self.records, live) {
            *self = Self::create(self.path.clone(), have)?;
        }
        Ok(())
    }

    /// Appends records and makes them durable.
    pub(super) fn append(&mut self, records: &[Record]) -> Result<(), AppendError> {
        if self.is_shared {
            self.follow()?;
        }
        let length = self.file.metadata()?.len();
        let mut file = BufWriter::new(&self.file);
        let written = records
            .iter()
            .try_for_each(|record| file.write_all(&encode(record)))
            .and_then(|()| file.flush());
        // Whatever is left in the buffer after a failure is not to be written on drop.
        drop(file.into_parts());
        match written {
            Ok(()) => {
                self.file.sync_data()?;
                self.records += records.len() as u64;
                Ok(())
            }
            Err(error) if says_full(&error) => {
                self.file.set_len(length)?;
                Err(AppendError::Full)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the file as it is now: another process may have written it anew, or died while it appended.
    fn follow(&mut self) -> io::Result<()> {
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        let length = self.file.metadata()?.len();
        let beyond = length.saturating_sub(MAGIC.len() as u64) % RECORD_BYTES as u64;
        if beyond != 0 {
            self.file.set_len(length - beyond)?;
        }
        Ok(())
    }

    /// Whether something failed that makes each later sync doubtful.
    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Makes [`Self::has_failed`] true for as long as the store is open.
    pub(super) fn fail(&mut self) {
        self.failed = true;
    }
}

/// Length of a file of so many records.
pub(super) fn bytes(records: u64) -> u64 {
    MAGIC.len() as u64 + records * RECORD_BYTES as u64
}

/// Whether a file of so many records is worth writing anew for the `live` ones among them.
pub(super) fn is_wasteful(records: u64, live: u64) -> bool {
    records.saturating_sub(live) > live.max(STALE_RECORDS_MAX)
}

fn encode(record: &Record) -> [u8; RECORD_BYTES] {
    let (id, plain_length, encoded_length) = match record {
        Record::Durable(id, held) => (id, held.plain_length, held.encoded_length),
        Record::Removed(id) => (id, 0, 0),
    };
    let mut bytes = [0; RECORD_BYTES];
    bytes[..32].copy_from_slice(id.as_bytes());
    bytes[32..36].copy_from_slice(&plain_length.to_le_bytes());
    bytes[36..40].copy_from_slice(&encoded_length.to_le_bytes());
    let checksum = checksum(&bytes[..40]);
    bytes[40..].copy_from_slice(&checksum);
    bytes
}

/// `None`: damaged.
fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<Record> {
    let (body, found) = bytes.split_at(RECORD_BYTES - CHECKSUM_BYTES);
    if found != checksum(body) {
        return None;
    }
    let (id, lengths) = body.split_first_chunk::<DIGEST_BYTES>()?;
    let (plain_length, encoded_length) = lengths.split_first_chunk::<4>()?;
    let plain_length = u32::from_le_bytes(*plain_length);
    let encoded_length = u32::from_le_bytes(encoded_length.try_into().ok()?);
    let id = ChunkId::from_bytes(*id);
    match (plain_length, encoded_length) {
        (_, 0) => Some(Record::Removed(id)),
        (1..=CHUNK_BYTES_MAX, 1..=ENCODED_CHUNK_BYTES_MAX) => Some(Record::Durable(
            id,
            Held {
                plain_length,
                encoded_length,
                durable: true,
            },
        )),
        _ => None,
    }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut checksum = [0; CHECKSUM_BYTES];
    checksum.copy_from_slice(&blake3::hash(body).as_bytes()[..CHECKSUM_BYTES]);
    checksum
}

/// Fills `buffer` as far as the file goes, and returns how far.
fn read_up_to(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
