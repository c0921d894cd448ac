//! Where content is cut into chunks. All of it is part of the format: it decides ids.
//!
//! A file of [`LARGE_FILE_BYTES`] or more is cut by FastCDC (Xia et al., USENIX ATC 2016, in its 2020
//! form), so that an insertion changes the chunks around it and no others. Smaller files are bundled
//! in path order, and a bundle ends after a file whose hash says so: an edit changes one bundle and
//! not its neighbours.

use std::io::{self, Read};

use fastcdc::v2020::{Error as CdcError, StreamCDC};

use crate::{id::ContentHash, limits::CHUNK_BYTES_MAX};

/// Shortest chunk of a large file, in bytes, but for its last.
pub const CHUNK_BYTES_MIN: usize = 32 * 1024;
/// Average chunk, in bytes: at 1 Gbit/s about a millisecond of link time.
pub const CHUNK_BYTES_TARGET: usize = 128 * 1024;
/// Files at least this long, in bytes, are cut by themselves; shorter ones are bundled.
pub const LARGE_FILE_BYTES: usize = 64 * 1024;
/// A bundle ends after the file with which it reaches this many bytes, at the latest.
pub const BUNDLE_BYTES_MAX: usize = 256 * 1024;
const _: () = assert!(BUNDLE_BYTES_MAX + LARGE_FILE_BYTES <= CHUNK_BYTES_MAX as usize);

/// Cuts one large file. Holds two chunks of the longest length.
pub struct LargeFile<R: Read>(StreamCDC<R>);

impl<R: Read> LargeFile<R> {
    /// Cuts all that `source` gives.
    pub fn new(source: R) -> Self {
        let maximum = CHUNK_BYTES_MAX as usize;
        Self(StreamCDC::new(
            source,
            CHUNK_BYTES_MIN,
            CHUNK_BYTES_TARGET,
            maximum,
        ))
    }
}

impl<R: Read> Iterator for LargeFile<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.0.next()? {
            Ok(chunk) => Some(Ok(chunk.data)),
            Err(CdcError::Empty) => None,
            Err(CdcError::IoError(error)) => Some(Err(error)),
            Err(CdcError::Other(text)) => Some(Err(io::Error::other(text))),
        }
    }
}

/// Collects small files, which come in path order, into bundles. `T` is what the caller knows a file by.
///
/// Where bundles end follows from the hashes and lengths of the files; their bytes, which make the chunk, are the
/// caller's business.
#[derive(Debug)]
pub struct Bundler<T> {
    open: Bundle<T>,
}

/// Some small files, one after the other: one chunk.
#[derive(Debug)]
pub struct Bundle<T> {
    /// Each file, and where in the chunk it starts.
    pub files: Vec<(T, u32)>,
    /// The bytes of all.
    pub length: u32,
}

impl<T> Bundler<T> {
    /// No files yet.
    pub fn new() -> Self {
        Self {
            open: Bundle::default(),
        }
    }

    /// Adds the next file, of `length` bytes, and returns the bundle that ends with it, if one does.
    ///
    /// # Panics
    /// Where `length` is 0, which needs no bundle, or [`LARGE_FILE_BYTES`] or more.
    pub fn push(&mut self, file: T, hash: &ContentHash, length: u32) -> Option<Bundle<T>> {
        assert!(length > 0 && (length as usize) < LARGE_FILE_BYTES);
        self.open.files.push((file, self.open.length));
        self.open.length += length;
        let bytes = self.open.length as usize;
        let ends = bytes >= BUNDLE_BYTES_MAX || (bytes >= CHUNK_BYTES_MIN && is_cut(hash, length));
        if ends { self.finish() } else { None }
    }

    /// The last bundle, if there is one.
    pub fn finish(&mut self) -> Option<Bundle<T>> {
        let bundle = std::mem::take(&mut self.open);
        (!bundle.files.is_empty()).then_some(bundle)
    }
}

impl<T> Default for Bundler<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Default for Bundle<T> {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            length: 0,
        }
    }
}

/// Whether a bundle ends after this file: with a chance of its share of the average distance between
/// the shortest bundle and the average one, drawn by the file's own hash.
fn is_cut(hash: &ContentHash, length: u32) -> bool {
    let draw = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("8 of 32 bytes"));
    let distance = (CHUNK_BYTES_TARGET - CHUNK_BYTES_MIN) as u128;
    u128::from(draw) * distance < u128::from(length) << 64
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::id::ChunkId;

    fn noise(seed: &str, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new()
            .update(seed.as_bytes())
            .finalize_xof()
            .fill(&mut bytes);
        bytes
    }

    fn cut(bytes: &[u8]) -> Vec<ChunkId> {
        LargeFile::new(bytes)
            .map(|chunk| ChunkId::of(&chunk.unwrap()))
            .collect()
    }

    #[test]
    fn an_insertion_changes_the_chunks_around_it_and_no_others() {
        let before = noise("file", 8 << 20);
        let mut after = before.clone();
        after.splice(3_000_000..3_000_000, *b"twelve bytes");
        let (before, after) = (cut(&before), cut(&after));
        assert!(before.len() > 40 && before.len() < 100, "{}", before.len());
        assert!(after.iter().filter(|chunk| !before.contains(chunk)).count() <= 2);
    }

    #[test]
    fn the_cuts_of_a_large_file_are_frozen() {
        let lengths: Vec<usize> = LargeFile::new(noise("golden", 1 << 20).as_slice())
            .map(|c| c.unwrap().len())
            .collect();
        assert_eq!(lengths, GOLDEN_CUTS);
        assert!(LargeFile::new(&b""[..]).next().is_none());
    }

    const GOLDEN_CUTS: &[usize] = &[195_476, 207_849, 129_734, 282_682, 194_742, 38_093];

    #[test]
    fn an_edit_changes_one_bundle_and_not_its_neighbours() {
        let bundles = |edited: Option<usize>| {
            let mut bundler = Bundler::new();
            let mut ids = Vec::new();
            let id = |bundle: Bundle<Vec<u8>>| {
                let files: Vec<Vec<u8>> = bundle.files.into_iter().map(|(file, _)| file).collect();
                ChunkId::of(&files.concat())
            };
            for file in 0..2000 {
                let name = if Some(file) == edited {
                    "edited".into()
                } else {
                    file.to_string()
                };
                let content = noise(&name, 100 + file * 7 % 9000);
                let hash = ContentHash::of(&content);
                let length = u32::try_from(content.len()).unwrap();
                ids.extend(bundler.push(content, &hash, length).map(id));
            }
            ids.extend(bundler.finish().map(id));
            ids
        };
        let (before, after) = (bundles(None), bundles(Some(1000)));
        assert!(before.len() > 40, "{}", before.len());
        assert!(
            after
                .iter()
                .filter(|bundle| !before.contains(bundle))
                .count()
                <= 2
        );
    }
}
