//! A release's entries, kept beside its directory: going back must not depend on the chunk store.
//!
//! The file holds the descriptor and the pages of the entries as they are in the snapshot. Each is
//! checked against its id as it is read, so the file proves itself, and is fetched again where it does not.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    vec,
};

use bytes::Bytes;
use scap_proto::{
    content::{ChunkRef, Descriptor, EntriesReader, Entry, SnapshotRef, Totals},
    id::ChunkId,
};

use super::{
    ChunkSource,
    dir::Dir,
    error::{ActivateError, Doing},
    record::{Installed, TEMPORARY_SUFFIX},
};

/// The entries of one snapshot, page by page.
pub(super) struct Entries {
    file: BufReader<File>,
    totals: Totals,
    pages: vec::IntoIter<ChunkRef>,
    reader: Option<EntriesReader>,
    ready: vec::IntoIter<Entry>,
}

impl Entries {
    /// Opens the entries of an installed release in `dir`, once it has all of them: as they are there,
    /// or again from `source`.
    ///
    /// # Errors
    /// Where neither has them.
    pub(super) fn open(
        dir: &Dir,
        installed: &Installed,
        source: &dyn ChunkSource,
    ) -> Result<Self, ActivateError> {
        let name = installed.rev.as_str();
        let there = match dir.file(name.as_bytes()) {
            Ok(file) => is_whole(file, &installed.snapshot),
            Err(_) => false,
        };
        if !there {
            fetch(dir, name, &installed.snapshot, source)?;
        }
        let file = dir
            .file(name.as_bytes())
            .doing(|| format!("open the entries of `{name}`"))?;
        Self::read(file, &installed.snapshot)
    }

    fn read(file: File, snapshot: &SnapshotRef) -> Result<Self, ActivateError> {
        let mut file = BufReader::new(file);
        let descriptor = Descriptor::decode(&read_chunk(&mut file, snapshot.descriptor_chunk())?)?;
        Ok(Self {
            file,
            totals: descriptor.totals,
            pages: descriptor.entries.into_iter(),
            reader: Some(EntriesReader::new()),
            ready: Vec::new().into_iter(),
        })
    }

    /// Sums over the snapshot.
    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    fn advance(&mut self) -> Result<Option<Entry>, ActivateError> {
        loop {
            if let Some(entry) = self.ready.next() {
                return Ok(Some(entry));
            }
            let Some(page) = self.pages.next() else {
                let last = self.reader.take().map(EntriesReader::finish);
                return Ok(last.transpose()?.flatten());
            };
            let bytes = read_chunk(&mut self.file, page)?;
            let reader = self.reader.as_mut().expect("taken after the last page");
            self.ready = reader.read_page(&bytes)?.into_iter();
        }
    }
}

/// Entries in rising order of their paths. Nothing after an error can be relied on.
impl Iterator for Entries {
    type Item = Result<Entry, ActivateError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// Whether the file holds the descriptor and every page, each as its id says.
fn is_whole(file: File, snapshot: &SnapshotRef) -> bool {
    let check = || {
        let mut entries = Entries::read(file, snapshot)?;
        for page in entries.pages {
            read_chunk(&mut entries.file, page)?;
        }
        Ok::<_, ActivateError>(())
    };
    check().is_ok()
}

/// Copies the descriptor and the pages of the entries from `source`.
fn fetch(
    dir: &Dir,
    name: &str,
    snapshot: &SnapshotRef,
    source: &dyn ChunkSource,
) -> Result<(), ActivateError> {
    let doing = || format!("write the entries of `{name}`");
    let temporary = format!("{name}{TEMPORARY_SUFFIX}");
    dir.unlink(temporary.as_bytes()).doing(doing)?;
    let file = dir.create(temporary.as_bytes(), 0o600).doing(doing)?;
    let mut file = BufWriter::new(file);
    let descriptor_bytes = fetch_chunk(source, snapshot.descriptor_chunk())?;
    file.write_all(&descriptor_bytes).doing(doing)?;
    for page in Descriptor::decode(&descriptor_bytes)?.entries {
        file.write_all(&fetch_chunk(source, page)?).doing(doing)?;
    }
    file.flush().doing(doing)?;
    dir.rename(temporary.as_bytes(), dir, name.as_bytes())
        .doing(doing)
}

fn fetch_chunk(source: &dyn ChunkSource, chunk: ChunkRef) -> Result<Bytes, ActivateError> {
    let bytes = source.plain(&chunk.id)?;
    if bytes.len() == chunk.plain_length as usize && ChunkId::of(&bytes) == chunk.id {
        Ok(bytes)
    } else {
        Err(ActivateError::WrongChunk(chunk.id))
    }
}

fn read_chunk(file: &mut impl Read, chunk: ChunkRef) -> Result<Vec<u8>, ActivateError> {
    let mut bytes = vec![0; chunk.plain_length as usize];
    let read = file.read_exact(&mut bytes).and_then(|()| {
        if ChunkId::of(&bytes) == chunk.id {
            Ok(bytes)
        } else {
            Err(io::Error::from(io::ErrorKind::InvalidData))
        }
    });
    read.doing(|| "read the entries of a release".to_owned())
}
