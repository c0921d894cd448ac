//! What releases ask of this host, on disk: their config snapshots, written out, and which tree goes with which.
//!
//! ```text
//! .scap/configs/<snapshot>/   host-config, templates/, scripts/: written once, whole before it has its name
//! .scap/asked/<rev>           the config snapshot that goes with a tree, what was rendered for it, how far that is
//! ```
//! They are beside the records that older builds know, which leave them alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
    path::PathBuf,
};

use bytes::Bytes;
use scap_proto::{
    content::{ChunkRef, Descriptor, EntriesReader, Entry, Node, SnapshotRef},
    id::{ChunkId, ContentHash},
    limits::HOST_CONFIG_BYTES_MAX,
    release::{HostConfig, RepoPath},
};
use serde::{Deserialize, Serialize};

use super::{
    ChunkSource,
    build::write_node,
    chunks::Chunks,
    compare::{Difference, What},
    deployment::{Deployment, PRIVATE_MODE},
    dir::{Cursor, Dir, split},
    error::{ActivateError, Doing},
    record::{self, Found, Installed, Record, Rev},
    rendered::Files,
};
use crate::host::Paths;

/// What goes with the tree of a release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asked {
    /// The config snapshot.
    pub(super) config: Option<SnapshotRef>,
    /// Files in the tree that were rendered, by their paths below it.
    pub(super) rendered: BTreeMap<Vec<u8>, ContentHash>,
    /// Stages that were gone through to their end, checks after them included.
    pub(super) done: BTreeSet<Stage>,
}

/// A stage that makes the tree what it is, and need not be gone through twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Stage {
    Fetch,
    ConfigDeploy,
}

impl Record for Asked {
    const MAGIC: &'static [u8] = b"scap-asked/1\n";
}

impl Asked {
    /// Whether a difference from the snapshot is there for what was rendered: such a file, or a directory for it that the
    /// snapshot has not.
    pub(super) fn explains(&self, difference: &Difference) -> bool {
        let path = difference.path.as_slice();
        let is_below = |rendered: &Vec<u8>| {
            let rest = rendered.strip_prefix(path);
            rest.is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        let is_extra = difference.what == What::Extra;
        self.rendered.contains_key(path) || (is_extra && self.rendered.keys().any(is_below))
    }
}

const CONFIGS: &[u8] = b"configs";
pub(super) const ASKED: &[u8] = b"asked";

/// A config snapshot that is being written out.
const UNPACKING: &[u8] = b"unpacking";

/// Most bytes and entries of a config snapshot that are written out: twice what a scap folder may have.
const CONFIG_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// See [`CONFIG_BYTES_MAX`].
const CONFIG_ENTRIES_MAX: u64 = 8192;

impl Deployment {
    /// What goes with a tree; nothing where nothing was recorded.
    ///
    /// # Errors
    /// Where the record is damaged: it says which files are not the snapshot's, and what to do when the release goes.
    pub(super) fn asked(&self, rev: &Rev) -> Result<Asked, ActivateError> {
        let Some(dir) = self.folder(ASKED)? else {
            return Ok(Asked::default());
        };
        match record::read(&dir, rev.as_str())? {
            Found::Record(asked) => Ok(asked),
            Found::Nothing => Ok(Asked::default()),
            Found::Damaged => Err(ActivateError::AskedDamaged(rev.as_str().to_owned())),
        }
    }

    /// Records what goes with a tree.
    ///
    /// # Errors
    /// Where the disk is full or fails.
    pub(super) fn set_asked(&self, rev: &Rev, asked: &Asked) -> Result<(), ActivateError> {
        if *asked != Asked::default() {
            return record::replace(&self.make_folder(ASKED)?, rev.as_str(), asked);
        }
        let forget = |dir: Dir| dir.unlink(rev.as_bytes());
        let forgotten = self.folder(ASKED)?.map_or(Ok(()), forget);
        forgotten.doing(|| format!("forget what goes with `revs/{rev}`"))
    }

    /// Whether the tree was gone through that stage with.
    pub(super) fn has_gone_through(&self, rev: &Rev, stage: Stage) -> Result<bool, ActivateError> {
        Ok(self.asked(rev)?.done.contains(&stage))
    }

    /// Records that it was.
    pub(super) fn note_stage(&self, rev: &Rev, stage: Stage) -> Result<(), ActivateError> {
        let mut asked = self.asked(rev)?;
        match asked.done.insert(stage) {
            true => self.set_asked(rev, &asked),
            false => Ok(()),
        }
    }

    /// Records what is about to be rendered into a tree, which that stage is not through with then.
    pub(super) fn note_rendered(&self, rev: &Rev, files: &Files) -> Result<(), ActivateError> {
        let mut asked = self.asked(rev)?;
        let hashes = files.iter();
        let hashes = hashes.map(|(path, bytes)| (path.clone(), ContentHash::of(bytes)));
        asked.rendered = hashes.collect();
        asked.done.remove(&Stage::ConfigDeploy);
        self.set_asked(rev, &asked)
    }

    /// The config snapshot of a release that is here.
    pub(super) fn config_of(
        &self,
        installed: &Installed,
    ) -> Result<Option<SnapshotRef>, ActivateError> {
        Ok(self.asked(&installed.rev)?.config)
    }

    /// Where a config snapshot is written out.
    pub(super) fn config_path(&self, config: &SnapshotRef) -> PathBuf {
        let own = self.cache_path().join(".scap");
        own.join("configs").join(config.id.to_string())
    }

    /// Where it is noted what is run for a release.
    pub(super) fn running_path(&self) -> PathBuf {
        self.cache_path().join(".scap/running")
    }

    /// What a config snapshot says that is written out.
    ///
    /// # Errors
    /// Where it is not, or not as it was.
    pub(super) fn host_config(&self, config: &SnapshotRef) -> Result<HostConfig, ActivateError> {
        let path = self.config_path(config).join(HostConfig::FILE);
        let doing = || format!("read what the release asks, {}", path.display());
        let folder = [CONFIGS, b"/", config.id.to_string().as_bytes()].concat();
        let folder = self.own.dir_at(&folder).doing(doing)?;
        let file = folder.file(HostConfig::FILE.as_bytes()).doing(doing)?;
        let mut bytes = Vec::new();
        file.take(HOST_CONFIG_BYTES_MAX as u64 + 1)
            .read_to_end(&mut bytes)
            .doing(doing)?;
        Ok(HostConfig::decode(&bytes)?)
    }

    /// Writes a config snapshot out, each byte of it verified, where it is not there.
    ///
    /// # Errors
    /// Where chunks are missing or wrong, it holds other things than a config snapshot does, or the disk is full or fails.
    pub(super) fn unpack(
        &self,
        config: SnapshotRef,
        source: &dyn ChunkSource,
    ) -> Result<(), ActivateError> {
        let configs = self.make_folder(CONFIGS)?;
        let name = config.id.to_string();
        let doing = || format!("write what the release asks, `configs/{name}`");
        if configs.stat(name.as_bytes()).doing(doing)?.is_some() {
            return Ok(());
        }
        self.trash.take(&configs, UNPACKING).doing(doing)?;
        let dir = configs.make_dir(UNPACKING, PRIVATE_MODE).doing(doing)?;
        write_config(config, &dir, source)?;
        self.sync()?;
        let publish = || {
            configs.rename(UNPACKING, &configs, name.as_bytes())?;
            configs.sync()
        };
        publish().doing(doing)
    }

    /// Removes what goes with no release that is kept, of `kept`.
    ///
    /// # Errors
    /// Where something cannot be listed or removed.
    pub(super) fn collect_asked(&self, kept: &[Installed]) -> Result<(), ActivateError> {
        let doing = || "remove what releases asked that are no longer kept".to_owned();
        let (Some(asked), configs) = (self.folder(ASKED)?, self.folder(CONFIGS)?) else {
            return Ok(());
        };
        let is_kept = |name: &[u8]| kept.iter().any(|kept| kept.rev.as_bytes() == name);
        for name in asked.names().doing(doing)? {
            if !is_kept(&name) && !name.ends_with(record::TEMPORARY_SUFFIX.as_bytes()) {
                asked.unlink(&name).doing(doing)?;
            }
        }
        let Some(configs) = configs else {
            return Ok(());
        };
        let mut needed = BTreeSet::new();
        for kept in kept {
            // Of one that cannot be read nothing is known to be needed no more.
            let Ok(config) = self.config_of(kept) else {
                return Ok(());
            };
            needed.extend(config.map(|config| config.id.to_string()));
        }
        needed.extend(self.owed_config().map(|config| config.id.to_string()));
        for name in configs.names().doing(doing)? {
            if !std::str::from_utf8(&name).is_ok_and(|name| needed.contains(name)) {
                self.trash.take(&configs, &name).doing(doing)?;
            }
        }
        Ok(())
    }

    /// A folder of our own that older builds do not make.
    fn folder(&self, name: &[u8]) -> Result<Option<Dir>, ActivateError> {
        match self.own.dir(name) {
            Ok(dir) => Ok(Some(dir)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).doing(|| format!("open `{}`", name.escape_ascii())),
        }
    }

    fn make_folder(&self, name: &[u8]) -> Result<Dir, ActivateError> {
        let made = self.own.make_dir(name, PRIVATE_MODE);
        made.doing(|| format!("make or open `{}`", name.escape_ascii()))
    }

    /// Where the releases are, for what is run for the one at `rev`; where there is none, for whatever the final path leads to.
    pub(super) fn paths(&self, rev: Option<&Rev>) -> Paths {
        let revs_dir = self.cache_path().join("revs");
        let directory = |rev: &Rev| revs_dir.join(rev.as_str());
        let at = |installed: &Installed| directory(&installed.rev);
        let final_path = self.final_path();
        Paths {
            rev_path: rev.map_or_else(|| final_path.clone(), directory),
            current_rev_dir: self.live().map(at),
            done_rev_dir: self.finalized().map(at),
            final_path,
            revs_dir,
        }
    }

    /// The final path, whole.
    pub(super) fn final_path(&self) -> PathBuf {
        self.root_path.join(self.repo.as_str())
    }

    /// The folder beside it.
    pub(super) fn cache_path(&self) -> PathBuf {
        let name = format!("{}{}", self.repo, RepoPath::CACHE_SUFFIX);
        self.root_path.join(name)
    }
}

/// Writes the files of a config snapshot into an empty folder.
fn write_config(
    config: SnapshotRef,
    dir: &Dir,
    source: &dyn ChunkSource,
) -> Result<(), ActivateError> {
    let descriptor = Descriptor::decode(&plain(config.descriptor_chunk(), source)?)?;
    let totals = descriptor.totals;
    if totals.bytes > CONFIG_BYTES_MAX || totals.entries > CONFIG_ENTRIES_MAX {
        return Err(ActivateError::NoConfig("it is larger than any scap folder"));
    }
    let (mut bytes, mut entries) = (0, 0);
    let mut chunks = Chunks::new(source);
    let mut cursor = Cursor::making(dir);
    let mut write = |entry: Entry| {
        let size = match &entry.node {
            Node::File(content) | Node::Executable(content) => content.size,
            Node::EmptyDirectory | Node::Symlink(_) | Node::Gitlink(_) => {
                return Err(ActivateError::NoConfig("it has more than files"));
            }
        };
        // The totals are its maker's word.
        (bytes, entries) = (bytes + size, entries + 1);
        if bytes > CONFIG_BYTES_MAX || entries > CONFIG_ENTRIES_MAX {
            return Err(ActivateError::NoConfig("it is larger than it says"));
        }
        let (parent, name) = split(entry.path.as_bytes());
        let parent = cursor
            .dir(parent)
            .doing(|| format!("make the folder of `{}`", entry.path))?;
        write_node(parent, name, &entry, &mut chunks).map(drop)
    };
    let mut reader = EntriesReader::new();
    for page in descriptor.entries {
        for entry in reader.read_page(&plain(page, source)?)? {
            write(entry)?;
        }
    }
    reader.finish()?.map_or(Ok(()), write)
}

/// The bytes of a chunk, proved to be it.
fn plain(chunk: ChunkRef, source: &dyn ChunkSource) -> Result<Bytes, ActivateError> {
    let bytes = source.plain(&chunk.id)?;
    let is_it = bytes.len() == chunk.plain_length as usize && ChunkId::of(&bytes) == chunk.id;
    match is_it {
        true => Ok(bytes),
        false => Err(ActivateError::WrongChunk(chunk.id)),
    }
}
