//! A deploy root, and snapshots to deploy to it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use bytes::Bytes;
use scap_proto::{
    content::{Entry, Extent, FileContent, Node, RelPath, SnapshotWriter, SymlinkTarget},
    id::{ChunkId, ContentHash, GitOid, ReleaseId},
    release::RepoPath,
};

use crate::activate::{ChunkSource, Deployment, SourceError, Target, dir};

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Thing {
    File(Vec<u8>),
    Executable(Vec<u8>),
    Link(Vec<u8>),
    Directory,
    Gitlink,
}

/// A tree by path.
pub(super) type Tree = BTreeMap<Vec<u8>, Thing>;

pub(super) fn file(text: &str) -> Thing {
    Thing::File(text.into())
}

pub(super) fn executable(text: &str) -> Thing {
    Thing::Executable(text.into())
}

pub(super) fn link(target: &str) -> Thing {
    Thing::Link(target.into())
}

pub(super) fn tree<const N: usize>(things: [(&str, Thing); N]) -> Tree {
    let entry = |(path, thing): (&str, Thing)| (path.as_bytes().to_vec(), thing);
    things.into_iter().map(entry).collect()
}

/// A tree with one of everything.
pub(super) fn small_tree() -> Tree {
    let mut things = tree([
        ("README", file("read me\n")),
        ("bin/run", executable("#!/bin/sh\n")),
        (
            "bin.d/x",
            file("between `bin` and `bin/run` in byte order\n"),
        ),
        ("empty", file("")),
        ("latest", link("bin/run")),
        ("outside", link("/etc/passwd")),
        ("a/b/c/deep", file("deep\n")),
        ("void/inside", Thing::Directory),
        ("module", Thing::Gitlink),
    ]);
    let noise = (0..300_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes());
    things.insert(b"a/large".to_vec(), Thing::File(noise.collect()));
    things.insert(b"not utf-8: \xff\xfe".to_vec(), file("odd\n"));
    things.insert(b"line\nbreak \x1b[31m".to_vec(), file("odd\n"));
    things
}

/// Chunks in memory.
#[derive(Default)]
pub(super) struct Chunks(RefCell<HashMap<ChunkId, Bytes>>);

impl Chunks {
    pub(super) fn put(&self, bytes: &[u8]) -> ChunkId {
        let id = ChunkId::of(bytes);
        self.0
            .borrow_mut()
            .insert(id, Bytes::copy_from_slice(bytes));
        id
    }

    pub(super) fn ids(&self) -> Vec<ChunkId> {
        self.0.borrow().keys().copied().collect()
    }

    pub(super) fn lose_all(&self) {
        self.0.borrow_mut().clear();
    }

    /// The snapshot of a tree, its small files bundled into chunks.
    pub(super) fn snapshot(&self, tree: &Tree) -> scap_proto::content::SnapshotRef {
        const BUNDLE: usize = 128 * 1024;
        let mut writer = SnapshotWriter::new();
        let mut pending: Vec<(Vec<u8>, Thing)> = Vec::new();
        let mut bundle = Vec::new();
        let mut flush = |pending: &mut Vec<(Vec<u8>, Thing)>, bundle: &mut Vec<u8>| {
            let chunk = self.put(bundle);
            let mut offset = 0;
            for (path, thing) in pending.drain(..) {
                let node = self.node(thing, chunk, &mut offset);
                let path = RelPath::new(path).unwrap();
                let length = |id: &ChunkId| u32::try_from(self.0.borrow()[id].len()).unwrap();
                for page in writer.push(Entry { path, node }, length) {
                    self.put(&page);
                }
            }
            bundle.clear();
        };
        for (path, thing) in tree {
            if let Thing::File(bytes) | Thing::Executable(bytes) = thing
                && bytes.len() < BUNDLE
            {
                bundle.extend_from_slice(bytes);
            }
            pending.push((path.clone(), thing.clone()));
            if bundle.len() >= BUNDLE {
                flush(&mut pending, &mut bundle);
            }
        }
        flush(&mut pending, &mut bundle);
        let finished = writer.finish().unwrap();
        for page in finished.pages {
            self.put(&page);
        }
        finished.snapshot
    }

    fn node(&self, thing: Thing, bundle: ChunkId, offset: &mut u32) -> Node {
        let mut content = |bytes: Vec<u8>| {
            let length = u32::try_from(bytes.len()).unwrap();
            let extents = if bytes.len() >= 128 * 1024 {
                let extent = |part: &[u8]| Extent {
                    chunk: self.put(part),
                    offset: 0,
                    length: u32::try_from(part.len()).unwrap(),
                };
                bytes.chunks(100_000).map(extent).collect()
            } else if bytes.is_empty() {
                Vec::new()
            } else {
                let start = *offset;
                *offset += length;
                vec![Extent {
                    chunk: bundle,
                    offset: start,
                    length,
                }]
            };
            FileContent {
                size: bytes.len() as u64,
                hash: ContentHash::of(&bytes),
                extents,
            }
        };
        match thing {
            Thing::File(bytes) => Node::File(content(bytes)),
            Thing::Executable(bytes) => Node::Executable(content(bytes)),
            Thing::Link(target) => Node::Symlink(SymlinkTarget::new(target).unwrap()),
            Thing::Directory => Node::EmptyDirectory,
            Thing::Gitlink => Node::Gitlink(GitOid::try_from(vec![7; 20]).unwrap()),
        }
    }
}

impl ChunkSource for Chunks {
    fn plain(&self, id: &ChunkId) -> Result<Bytes, SourceError> {
        let chunks = self.0.borrow();
        chunks.get(id).cloned().ok_or(SourceError::Missing(*id))
    }
}

/// A deploy root with the repo `group/app`.
pub(super) struct World {
    root: PathBuf,
    pub(super) chunks: Chunks,
    _temporary: Option<tempfile::TempDir>,
}

impl World {
    pub(super) fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        Self {
            _temporary: Some(temporary),
            ..Self::at(Path::new("/"))
        }
        .rooted()
    }

    /// In a directory that stays.
    pub(super) fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            chunks: Chunks::default(),
            _temporary: None,
        }
    }

    fn rooted(mut self) -> Self {
        let temporary = self._temporary.as_ref().unwrap();
        self.root = temporary.path().to_owned();
        self
    }

    pub(super) fn repo() -> RepoPath {
        "group/app".parse().unwrap()
    }

    pub(super) fn path(&self, below: &str) -> PathBuf {
        self.root.join("group").join(below)
    }

    /// The final path.
    pub(super) fn live(&self) -> PathBuf {
        self.path("app")
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn open(&self) -> Deployment {
        Deployment::open(&self.root, &Self::repo()).unwrap()
    }

    /// A release of a tree; its commit follows from the tree.
    pub(super) fn target(&self, sequence: u64, tree: &Tree) -> Target {
        let snapshot = self.chunks.snapshot(tree);
        let commit = GitOid::try_from(snapshot.id.as_bytes()[..20].to_vec()).unwrap();
        Target {
            release: ReleaseId::of(&[&sequence.to_le_bytes()[..], snapshot.id.as_bytes()].concat()),
            sequence,
            commit: Some(commit),
            snapshot,
            config: None,
        }
    }

    /// Names in `revs`.
    pub(super) fn revs(&self) -> Vec<String> {
        names(&self.path("app-cache/revs"))
    }

    pub(super) fn assert_live(&self, expected: &Tree) {
        let target = fs::read_link(self.live()).unwrap();
        assert!(target.starts_with("app-cache/revs"), "{}", target.display());
        assert_tree(&self.live(), expected);
    }
}

/// Asserts that a tree is exactly this one, modes included.
pub(super) fn assert_tree(top: &Path, expected: &Tree) {
    let mut found = Tree::new();
    // Through the final path, which is a link itself.
    collect(&fs::canonicalize(top).unwrap(), b"", &mut found);
    let mut expected = expected.clone();
    for thing in expected.values_mut() {
        if *thing == Thing::Gitlink {
            *thing = Thing::Directory;
        }
    }
    let keys = |tree: &Tree| -> Vec<String> {
        tree.keys()
            .map(|path| path.escape_ascii().to_string())
            .collect()
    };
    assert_eq!(keys(&found), keys(&expected));
    for (path, thing) in &expected {
        assert!(found[path] == *thing, "{}", path.escape_ascii());
    }
}

fn collect(dir: &Path, prefix: &[u8], found: &mut Tree) {
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(dir), 0o755, "{}", dir.display());
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    if names.is_empty() && !prefix.is_empty() {
        found.insert(prefix[..prefix.len() - 1].to_vec(), Thing::Directory);
    }
    for name in names {
        let full = dir.join(&name);
        let path = [prefix, name.as_bytes()].concat();
        let kind = fs::symlink_metadata(&full).unwrap().file_type();
        if kind.is_dir() {
            collect(&full, &[&path, &b"/"[..]].concat(), found);
        } else if kind.is_symlink() {
            let target = fs::read_link(&full).unwrap();
            found.insert(path, Thing::Link(target.as_os_str().as_bytes().to_vec()));
        } else {
            let bytes = fs::read(&full).unwrap();
            let thing = match mode(&full) {
                0o644 => Thing::File(bytes),
                0o755 => Thing::Executable(bytes),
                mode => panic!("{} has mode {mode:o}", full.display()),
            };
            found.insert(path, thing);
        }
    }
}

/// Names in a directory, sorted.
pub(super) fn names(dir: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let name = |entry| OsStr::to_string_lossy(&name(entry)).into_owned();
    let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(name).collect();
    names.sort();
    names
}

/// Waits until the file system's clock is so far on that what was written so far is no longer too new to
/// be trusted.
pub(super) fn let_files_age(world: &World) {
    let path = world.root().join("clock");
    let start = std::time::Instant::now();
    fs::write(&path, "").unwrap();
    let file = fs::File::open(&path).unwrap();
    let first = dir::touch(&file).unwrap();
    while dir::touch(&file).unwrap() < first + 50_000_000 {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "the file system's clock stands still"
        );
        sleep(Duration::from_millis(5));
    }
    fs::remove_file(path).unwrap();
}

/// The executable that runs these tests, also where a build has put another one in its place.
pub(super) fn this_executable() -> PathBuf {
    format!("/proc/{}/exe", std::process::id()).into()
}
