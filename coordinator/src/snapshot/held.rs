//! Files in memory: as what a snapshot is made of, and read back from one that is small.

use std::{collections::BTreeMap, io::Read};

use bytes::Bytes;
use scap_proto::{
    content::{Entry, FileContent, Node, RelPath, SnapshotRef},
    id::{ChunkId, ContentHash},
};

use super::{
    ChunkSink, Halt, StoredError,
    earlier::{EarlierError, Kept, plain},
    error::SnapshotError,
    listing::{Form, Kind, Listed, Origin, Reader, Wanted},
};

/// Files by their paths.
pub type HeldFiles = BTreeMap<RelPath, HeldFile>;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldFile {
    /// What is in it.
    pub bytes: Bytes,
    /// Whether it is executable.
    pub is_executable: bool,
}

/// The files of a snapshot that has nothing else and that `sink` has, each proved to be what was taken.
///
/// # Errors
/// What the sink lacks; or that there is something else than a file, or more than `bytes_max` bytes.
pub fn read_files(
    snapshot: SnapshotRef,
    sink: &dyn ChunkSink,
    bytes_max: u64,
) -> Result<HeldFiles, StoredError> {
    read(snapshot, sink, bytes_max).map_err(|error| StoredError::new(snapshot, error))
}

fn read(
    snapshot: SnapshotRef,
    sink: &dyn ChunkSink,
    mut bytes_left: u64,
) -> Result<HeldFiles, EarlierError> {
    let kept = Kept::read(snapshot, sink)?;
    let mut files = HeldFiles::new();
    let mut last = None;
    for entry in kept.entries(sink) {
        let Entry { path, node } = entry?;
        let is_executable = matches!(node, Node::Executable(_));
        let content = node.content().filter(|it| it.size <= bytes_left);
        let bytes = content.map(|content| whole(content, sink, &mut last));
        let Some(bytes) = bytes.transpose()?.flatten() else {
            return Err(EarlierError::Content(path));
        };
        bytes_left -= bytes.len() as u64;
        files.insert(
            path,
            HeldFile {
                bytes,
                is_executable,
            },
        );
    }
    Ok(files)
}

/// The bytes of a file; `None` where they are others than it says. `last` is the chunk that was read last: files in a row share it.
fn whole(
    content: &FileContent,
    sink: &dyn ChunkSink,
    last: &mut Option<(ChunkId, Bytes)>,
) -> Result<Option<Bytes>, EarlierError> {
    let mut bytes = Vec::new();
    for extent in &content.extents {
        let chunk = match last.take() {
            Some((id, chunk)) if id == extent.chunk => chunk,
            _ => plain(sink, &extent.chunk)?,
        };
        let start = extent.offset as usize;
        match chunk.get(start..start + extent.length as usize) {
            Some(run) => bytes.extend_from_slice(run),
            None => return Ok(None),
        }
        *last = Some((extent.chunk, chunk));
    }
    let is_it = ContentHash::of(&bytes) == content.hash;
    Ok(is_it.then(|| bytes.into()))
}

/// Files to make a snapshot of.
pub(super) struct Held<'a>(pub(super) &'a HeldFiles);

impl Origin for Held<'_> {
    type Locator = Bytes;
    type Reader = HeldReader;

    fn list(&self) -> Result<impl Iterator<Item = Result<Listed<Bytes>, Halt>>, SnapshotError> {
        Ok(self.0.iter().map(|(path, file)| {
            let form = match file.is_executable {
                true => Form::Executable,
                false => Form::File,
            };
            let kind = Kind::Content {
                form,
                size: file.bytes.len() as u64,
                locator: file.bytes.clone(),
            };
            let path = path.clone();
            Ok(Listed { path, kind })
        }))
    }

    fn reader(&self) -> Result<HeldReader, SnapshotError> {
        Ok(HeldReader)
    }

    /// What is borrowed does not change.
    fn finish(&self) -> Result<(), SnapshotError> {
        Ok(())
    }
}

/// Reads what is there.
pub(super) struct HeldReader;

impl Reader<Bytes> for HeldReader {
    fn read(
        &mut self,
        wanted: &[Wanted<'_, Bytes>],
        mut each: impl FnMut(usize, &mut dyn Read) -> Result<(), Halt>,
    ) -> Result<(), Halt> {
        for (index, wanted) in wanted.iter().enumerate() {
            each(index, &mut wanted.locator.as_ref())?;
        }
        Ok(())
    }
}
