//! The entries of the releases that are kept: going back must not depend on the chunk store.
//!
//! A release has a file with its snapshot's descriptor, which names the pages of its entries. The pages are in a
//! folder of their own, a file each by its id, so what is the same in two releases is there once and is not written
//! again. Each is checked against its id as it is read, so it proves itself, and is fetched again where it does not.

use std::{
    collections::{BTreeSet, HashSet},
    io::{self, Read, Write},
    vec,
};

use bytes::Bytes;
use scap_proto::{
    content::{ChunkRef, Descriptor, EntriesReader, Entry, SnapshotRef},
    id::ChunkId,
};

use super::{
    ChunkSource,
    dir::Dir,
    error::{ActivateError, Doing},
    record::{Installed, Rev, TEMPORARY_SUFFIX},
};

/// Where descriptors and pages are.
#[derive(Debug)]
pub(super) struct EntryStore {
    /// Descriptors, by release directory.
    descriptors: Dir,
    /// Pages, by id.
    pages: Dir,
}

impl EntryStore {
    /// Over two folders that only this process uses.
    pub(super) fn new(descriptors: Dir, pages: Dir) -> Self {
        Self { descriptors, pages }
    }

    /// Opens the entries of an installed release. Its descriptor is taken from `source` where it is not here as it
    /// should be.
    ///
    /// # Errors
    /// Where neither has it.
    pub(super) fn open<'a>(
        &'a self,
        installed: &Installed,
        source: &'a dyn ChunkSource,
    ) -> Result<Listing<'a>, ActivateError> {
        let (name, chunk) = (
            installed.rev.as_str(),
            installed.snapshot.descriptor_chunk(),
        );
        let bytes = take(&self.descriptors, name, chunk, source)?;
        Ok(Listing {
            pages: &self.pages,
            source,
            descriptor: Descriptor::decode(&bytes)?,
        })
    }

    /// Forgets the entries of a release. Their pages go with [`Self::collect`].
    ///
    /// # Errors
    /// Where they cannot be removed.
    pub(super) fn forget(&self, rev: &Rev) -> io::Result<()> {
        self.descriptors.unlink(rev.as_bytes())
    }

    /// Removes the pages that none of the kept releases has, and descriptors of others. Where a kept descriptor cannot be
    /// read, all pages stay.
    ///
    /// # Errors
    /// Where something cannot be listed or removed.
    pub(super) fn collect(&self, kept: &[Installed]) -> io::Result<()> {
        let revs: BTreeSet<&[u8]> = kept.iter().map(|kept| kept.rev.as_bytes()).collect();
        let names = self.descriptors.names()?;
        for name in names.iter().filter(|name| !revs.contains(&***name)) {
            self.descriptors.unlink(name)?;
        }
        let mut needed = HashSet::new();
        for kept in kept
            .iter()
            .filter(|kept| names.iter().any(|name| **name == *kept.rev.as_bytes()))
        {
            let Some(descriptor) = self.descriptor(&kept.rev, &kept.snapshot) else {
                return Ok(());
            };
            needed.extend(
                descriptor
                    .entries
                    .into_iter()
                    .map(|page| page.id.to_string()),
            );
        }
        for name in self.pages.names()? {
            if !std::str::from_utf8(&name).is_ok_and(|name| needed.contains(name)) {
                self.pages.unlink(&name)?;
            }
        }
        Ok(())
    }

    /// Whether a descriptor is here that belongs to none of the kept releases.
    ///
    /// # Errors
    /// Where the folder cannot be listed.
    pub(super) fn has_others(&self, kept: &[Installed]) -> io::Result<bool> {
        let is_kept = |name: &[u8]| kept.iter().any(|kept| kept.rev.as_bytes() == name);
        Ok(self.descriptors.names()?.iter().any(|name| !is_kept(name)))
    }

    fn descriptor(&self, rev: &Rev, snapshot: &SnapshotRef) -> Option<Descriptor> {
        let bytes = read(&self.descriptors, rev.as_str(), snapshot.descriptor_chunk());
        bytes.and_then(|bytes| Descriptor::decode(&bytes).ok())
    }
}

/// The entries of one release.
pub(super) struct Listing<'a> {
    pages: &'a Dir,
    source: &'a dyn ChunkSource,
    descriptor: Descriptor,
}

impl<'a> Listing<'a> {
    /// The pages, in order.
    pub(super) fn pages(&self) -> &[ChunkRef] {
        &self.descriptor.entries
    }

    /// Takes the pages that are not here from the source, so that it is not needed to read the entries.
    ///
    /// # Errors
    /// Where it does not have them, or the disk is full or fails.
    pub(super) fn complete(&self) -> Result<(), ActivateError> {
        for page in self.pages() {
            let name = page.id.to_string();
            let there = self.pages.stat(name.as_bytes());
            let there = there.doing(|| format!("look for the page `{name}`"))?;
            if there.is_none_or(|stat| u64::try_from(stat.st_size) != Ok(page.plain_length.into()))
            {
                take(self.pages, &name, *page, self.source)?;
            }
        }
        Ok(())
    }

    /// Whether all entries can be read; it reads every page.
    pub(super) fn is_whole(&self) -> bool {
        self.pages().iter().all(|page| self.page(*page).is_ok())
    }

    /// All entries.
    pub(super) fn entries(&self) -> Entries<'_> {
        self.entries_of(vec![true; self.pages().len()])
    }

    /// The entries on the pages whose flag is set. The last of a run of pages is given whole, also where it goes on
    /// behind it; the end of one that began before a run is not given.
    pub(super) fn entries_of(&self, is_read: Vec<bool>) -> Entries<'_> {
        Entries {
            listing: self,
            is_read,
            next: 0,
            reader: None,
            ready: Vec::new().into_iter(),
        }
    }

    fn page(&self, page: ChunkRef) -> Result<Bytes, ActivateError> {
        take(self.pages, &page.id.to_string(), page, self.source)
    }
}

/// Entries in rising order of their paths. Nothing after an error can be relied on.
pub(super) struct Entries<'a> {
    listing: &'a Listing<'a>,
    is_read: Vec<bool>,
    /// The page to read next.
    next: usize,
    /// Within a run of pages.
    reader: Option<EntriesReader>,
    ready: vec::IntoIter<Entry>,
}

impl Entries<'_> {
    fn advance(&mut self) -> Result<Option<Entry>, ActivateError> {
        loop {
            if let Some(entry) = self.ready.next() {
                return Ok(Some(entry));
            }
            let page = self.listing.pages().get(self.next).copied();
            match page.filter(|_| self.is_read[self.next]) {
                Some(page) => {
                    let reader = self.reader.take();
                    let mut reader = reader.unwrap_or_else(|| match self.next {
                        0 => EntriesReader::new(),
                        _ => EntriesReader::in_the_middle(),
                    });
                    let bytes = self.listing.page(page)?;
                    self.ready = reader.read_page(&bytes)?.into_iter();
                    self.reader = Some(reader);
                    self.next += 1;
                }
                None => {
                    if let Some(reader) = self.reader.take()
                        && let Some(last) = self.last_of_run(reader)?
                    {
                        return Ok(Some(last));
                    }
                    if page.is_none() {
                        return Ok(None);
                    }
                    self.next += 1;
                }
            }
        }
    }

    /// The last entry of the pages read so far, with what the next pages have of it.
    fn last_of_run(&self, mut reader: EntriesReader) -> Result<Option<Entry>, ActivateError> {
        for page in &self.listing.pages()[self.next..] {
            if !reader.goes_on() {
                break;
            }
            let complete = reader.read_page(&self.listing.page(*page)?)?;
            if let Some(last) = complete.into_iter().next() {
                return Ok(Some(last));
            }
        }
        Ok(reader.finish()?)
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, ActivateError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// A chunk that is kept at `name`, put there from `source` where it is not there as its id says.
fn take(
    dir: &Dir,
    name: &str,
    chunk: ChunkRef,
    source: &dyn ChunkSource,
) -> Result<Bytes, ActivateError> {
    if let Some(bytes) = read(dir, name, chunk) {
        return Ok(bytes.into());
    }
    let bytes = source.plain(&chunk.id)?;
    if !is_chunk(&bytes, chunk) {
        return Err(ActivateError::WrongChunk(chunk.id));
    }
    let temporary = format!("{name}{TEMPORARY_SUFFIX}");
    let write = || {
        dir.unlink(temporary.as_bytes())?;
        dir.create(temporary.as_bytes(), 0o600)?.write_all(&bytes)?;
        dir.rename(temporary.as_bytes(), dir, name.as_bytes())
    };
    write().doing(|| format!("write the entries `{name}`"))?;
    Ok(bytes)
}

/// The chunk at `name`, where it is there and what its id says.
fn read(dir: &Dir, name: &str, chunk: ChunkRef) -> Option<Vec<u8>> {
    let mut bytes = vec![0; chunk.plain_length as usize];
    let mut file = dir.file(name.as_bytes()).ok()?;
    file.read_exact(&mut bytes).ok()?;
    is_chunk(&bytes, chunk).then_some(bytes)
}

fn is_chunk(bytes: &[u8], chunk: ChunkRef) -> bool {
    bytes.len() == chunk.plain_length as usize && ChunkId::of(bytes) == chunk.id
}
