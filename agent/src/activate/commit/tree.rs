//! The id of git's tree of a release's files, computed from their chunks.

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use bytes::Bytes;
use scap_proto::{
    content::{Entry, FileContent, Node},
    id::ChunkId,
};

use super::CommitError;
use crate::activate::{ChunkSource, SourceError};

/// The hash by which git names objects. It is as weak as git's use of it: whoever may push can make two files of one id on purpose.
pub(super) struct Sha1(Context);

impl Sha1 {
    /// Its length.
    pub(super) const BYTES: usize = 20;

    /// Of an object of this kind and length, whose content follows.
    fn of(kind: &str, length: u64) -> Self {
        let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        context.update(format!("{kind} {length}\0").as_bytes());
        Self(context)
    }

    fn finish(self) -> Id {
        let mut id = [0; Self::BYTES];
        id.copy_from_slice(self.0.finish().as_ref());
        id
    }
}

type Id = [u8; Sha1::BYTES];

/// The id of an object.
pub(in crate::activate) fn object_id(kind: &str, content: &[u8]) -> Id {
    let mut hash = Sha1::of(kind, content.len() as u64);
    hash.0.update(content);
    hash.finish()
}

/// Takes entries in the order of their paths, and holds the directories that are above the last one.
pub(super) struct TreeBuilder<'a> {
    source: &'a dyn ChunkSource,
    /// The chunk that was read last: small files share them.
    last: Option<(ChunkId, Bytes)>,
    open: Vec<Directory>,
}

#[derive(Debug, Default)]
struct Directory {
    name: Vec<u8>,
    items: Vec<Item>,
}

#[derive(Debug)]
struct Item {
    mode: &'static str,
    name: Vec<u8>,
    id: Id,
}

impl Item {
    const DIRECTORY: &'static str = "40000";

    /// By what git sorts a tree: a directory as if its name ended in a slash.
    fn key(&self) -> impl Iterator<Item = u8> + '_ {
        let end = (self.mode == Self::DIRECTORY).then_some(b'/');
        self.name.iter().copied().chain(end)
    }
}

impl Directory {
    fn id(mut self) -> Id {
        self.items.sort_by(|a, b| a.key().cmp(b.key()));
        let mut content = Vec::new();
        for item in &self.items {
            content.extend_from_slice(item.mode.as_bytes());
            content.push(b' ');
            content.extend_from_slice(&item.name);
            content.push(0);
            content.extend_from_slice(&item.id);
        }
        object_id("tree", &content)
    }
}

impl<'a> TreeBuilder<'a> {
    pub(super) fn new(source: &'a dyn ChunkSource) -> Self {
        Self {
            source,
            last: None,
            open: vec![Directory::default()],
        }
    }

    pub(super) fn add(&mut self, entry: &Entry) -> Result<(), CommitError> {
        let path = entry.path.as_bytes();
        let mut names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let name = names.pop().expect("a path has a name");
        let is_same = |(open, name): &(&Directory, &&[u8])| open.name == **name;
        let same = self.open[1..].iter().zip(&names).take_while(is_same);
        let depth = same.count();
        self.close_to(depth);
        for name in &names[depth..] {
            self.open.push(Directory {
                name: name.to_vec(),
                items: Vec::new(),
            });
        }
        let (mode, id) = match &entry.node {
            Node::File(content) => ("100644", self.blob(content)?),
            Node::Executable(content) => ("100755", self.blob(content)?),
            Node::Symlink(target) => ("120000", object_id("blob", target.as_bytes())),
            Node::Gitlink(commit) => {
                let id = commit.as_bytes().try_into();
                ("160000", id.map_err(|_| CommitError::Hash(commit.clone()))?)
            }
            Node::EmptyDirectory => {
                return Err(CommitError::EmptyDirectory(entry.path.to_string()));
            }
        };
        let name = name.to_vec();
        self.last_open().items.push(Item { mode, name, id });
        Ok(())
    }

    /// The id of the whole tree.
    pub(super) fn finish(mut self) -> Id {
        self.close_to(0);
        let top = self.open.pop().expect("the top stays open");
        top.id()
    }

    /// Closes directories until so many are open below the top.
    fn close_to(&mut self, depth: usize) {
        while self.open.len() > depth + 1 {
            let mut closed = self.open.pop().expect("there are more than one");
            let name = std::mem::take(&mut closed.name);
            let (mode, id) = (Item::DIRECTORY, closed.id());
            self.last_open().items.push(Item { mode, name, id });
        }
    }

    fn last_open(&mut self) -> &mut Directory {
        self.open.last_mut().expect("the top stays open")
    }

    fn blob(&mut self, content: &FileContent) -> Result<Id, CommitError> {
        let mut hash = Sha1::of("blob", content.size);
        for extent in &content.extents {
            let chunk = match &self.last {
                Some((id, bytes)) if *id == extent.chunk => bytes.clone(),
                _ => {
                    let bytes = self.source.plain(&extent.chunk)?;
                    self.last = Some((extent.chunk, bytes.clone()));
                    bytes
                }
            };
            let from = extent.offset as usize;
            let run = chunk.get(from..from + extent.length as usize);
            hash.0
                .update(run.ok_or(SourceError::Missing(extent.chunk))?);
        }
        Ok(hash.finish())
    }
}
