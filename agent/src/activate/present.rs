//! What is there now where config files go, looked at without the repo's lock and without writing anything: an order may be followed
//! meanwhile, and is not held up.
//!
//! Records are replaced whole and trees are not changed in place but for config files, each whole too. So what is seen holds together as long as
//! the same release is live at the end, which [`Present::is_still`] tells.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FileType, Mode, Stat};
use scap_proto::{
    release::{
        Environment, RepoPath,
        host_config::{Destination, HostPath},
    },
    wire::config::Attributes,
};

use super::{
    ActivateError,
    asked::{ASKED, Asked},
    authorise,
    deployment::{LIVE, open_root},
    dir::{Dir, kind, permissions, split},
    error::Doing,
    links::{Links, Place, There, link_target},
    record::{self, Found, Installed, State},
    rendered,
};
use crate::{host::RENDERED_BYTES_MAX, notation};

/// One repo on this host, as it is seen.
#[derive(Debug)]
pub(super) struct Present {
    deploy_root: PathBuf,
    repo: RepoPath,
    final_path: PathBuf,
    /// What is our own of the repo; none where nothing was ever deployed.
    own: Option<Dir>,
    state: State,
    links: Links,
    /// What was rendered into the live tree.
    asked: Asked,
    /// What the final path leads to: the live tree, or what was there before our first release.
    tree: Option<Dir>,
}

/// What is in the place of a config file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    Nothing,
    File(SeenFile),
}

/// A file in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeenFile {
    /// What is in it; none where that is not told, for a reason that the note says.
    pub(super) bytes: Option<Vec<u8>>,
    /// None where it is no file.
    pub(super) attributes: Option<Attributes>,
    /// What else there is to say of it.
    pub(super) note: Option<String>,
}

impl Present {
    /// Looks at `repo` beneath `deploy_root`.
    ///
    /// # Errors
    /// Where something cannot be read, a record is damaged, or the final path does not lead to what is recorded as live.
    pub(super) fn open(deploy_root: &Path, repo: &RepoPath) -> Result<Self, ActivateError> {
        let root = open_root(deploy_root)?;
        let (folders, name) = repo.as_str().rsplit_once('/').unwrap_or(("", repo.name()));
        let root_path = std::path::absolute(deploy_root)
            .doing(|| format!("find the whole path of {}", deploy_root.display()))?;
        let mut seen = Self {
            deploy_root: deploy_root.to_owned(),
            repo: repo.clone(),
            final_path: root_path.join(repo.as_str()),
            own: None,
            state: State::default(),
            links: Links::default(),
            asked: Asked::default(),
            tree: None,
        };
        let opened = |path: &str| format!("open the folder of `{path}`");
        let Some(parent) = there(root.dir_at(folders.as_bytes())).doing(|| opened(folders))? else {
            return Ok(seen);
        };
        let cache = format!("{name}{}", RepoPath::CACHE_SUFFIX);
        let cache = there(parent.dir(cache.as_bytes())).doing(|| opened(&cache))?;
        if let Some(cache) = &cache {
            seen.own = there(cache.dir(b".scap")).doing(|| opened(".scap"))?;
        }
        if let Some(own) = &seen.own {
            seen.state = state(own)?;
            seen.links = Links::read(own)?;
        }
        let leads_to = parent.link_target(name.as_bytes());
        let leads_to = leads_to.doing(|| format!("read the link `{repo}`"))?;
        match (&seen.state.live, &seen.own, &cache) {
            (Some(live), Some(own), Some(cache)) => {
                let suffix = RepoPath::CACHE_SUFFIX;
                let expected = format!("{name}{suffix}/revs/{}", live.rev);
                if leads_to != Some(expected.into_bytes()) {
                    return Err(ActivateError::Changing(repo.clone()));
                }
                let tree = cache.dir_at(&[b"revs/", live.rev.as_bytes()].concat());
                seen.tree = Some(tree.doing(|| format!("open `revs/{}`", live.rev))?);
                let asked = there(own.dir(ASKED)).doing(|| opened("asked"))?;
                if let Some(asked) = asked {
                    seen.asked = match record::read(&asked, live.rev.as_str())? {
                        Found::Record(asked) => asked,
                        Found::Nothing => Asked::default(),
                        Found::Damaged => {
                            let rev = live.rev.as_str().to_owned();
                            return Err(ActivateError::AskedDamaged(rev));
                        }
                    };
                }
            }
            // What another tool has put there is what our first release takes the place of.
            _ => seen.tree = Dir::open(&seen.final_path).ok(),
        }
        Ok(seen)
    }

    /// What is live.
    pub(super) fn live(&self) -> Option<&Installed> {
        self.state.live.as_ref()
    }

    /// For which environment the repo is deployed here; none where it was not, or that is not known.
    pub(super) fn environment(&self) -> Result<Option<Environment>, ActivateError> {
        let own = self.own.as_ref();
        own.map_or(Ok(None), authorise::environment)
    }

    /// Whether the same release is live as when it was looked at first.
    pub(super) fn is_still(&self) -> Result<bool, ActivateError> {
        let now = Self::open(&self.deploy_root, &self.repo)?;
        Ok(now.state.live == self.state.live)
    }

    /// Mode and owner that a config file gets.
    pub(super) fn attributes_of_new(&self) -> Attributes {
        let own = self.own.as_ref().and_then(|own| own.own_stat().ok());
        // Files get the group of a folder that is so marked.
        let marked = own.filter(|own| Mode::from_raw_mode(own.st_mode).contains(Mode::SGID));
        Attributes {
            mode: rendered::MODE,
            uid: rustix::process::geteuid().as_raw(),
            gid: marked.map_or_else(|| rustix::process::getegid().as_raw(), |own| own.st_gid),
        }
    }

    /// The destinations of the files that were rendered for what is live, and of links of ours.
    pub(super) fn rendered(&self) -> BTreeSet<Destination> {
        let rendered = self.asked.rendered.keys();
        let rendered = rendered.filter_map(|path| rendered::destination(path));
        let links = self.links.destinations().cloned();
        rendered.chain(links.map(Destination::OnHost)).collect()
    }

    /// What is in the place of a config file, whether one is there already or not.
    ///
    /// # Errors
    /// Where it cannot be looked at, or no config file can be put there.
    pub(super) fn at(&self, destination: &Destination) -> Result<Seen, ActivateError> {
        match destination {
            Destination::InRelease(path) => self.in_tree(path.as_bytes()),
            Destination::OnHost(path) => self.on_host(path),
        }
    }

    fn on_host(&self, destination: &HostPath) -> Result<Seen, ActivateError> {
        let place = Place::of(destination)?;
        let link = match place.look()? {
            None => return Ok(Seen::Nothing),
            Some(There::Link(link)) if link == link_target(&self.final_path, destination) => {
                return self.in_tree(&rendered::path_of(destination));
            }
            Some(There::Link(link)) => Some(link),
            Some(There::Other) => None,
        };
        let what = match &link {
            Some(to) => format!("a link to {} stands there", to.escape_ascii()),
            None => "what stands there is none of ours".to_owned(),
        };
        let mut seen = through(&destination.to_path())
            .doing(|| format!("read {destination}"))?
            .unwrap_or_else(|| SeenFile::without("it leads nowhere"));
        let aside = format!("{what}, and is moved aside");
        seen.note = Some(match seen.note.take() {
            Some(note) => format!("{aside}; {note}"),
            None => aside,
        });
        Ok(Seen::File(seen))
    }

    /// The file at a path of what is live.
    fn in_tree(&self, path: &[u8]) -> Result<Seen, ActivateError> {
        let Some(tree) = &self.tree else {
            return Ok(Seen::Nothing);
        };
        let (parent, name) = split(path);
        let look = || {
            let Some(dir) = there(tree.dir_at(parent))? else {
                return Ok(Seen::Nothing);
            };
            let Some(stat) = dir.stat(name)? else {
                return Ok(Seen::Nothing);
            };
            let seen = match kind(&stat) {
                FileType::RegularFile => {
                    let bytes = read(&dir.file(name)?)?;
                    SeenFile::of(bytes, attributes(&stat))
                }
                FileType::Directory => SeenFile::without("what is live has a folder there"),
                _ => SeenFile::without("what is live has a link there"),
            };
            Ok(Seen::File(seen))
        };
        look().doing(|| format!("read `{}` of what is live", path.escape_ascii()))
    }

    /// What comes back to the place of a link of ours that goes.
    pub(super) fn comes_back(&self, destination: &Destination) -> Option<&str> {
        match destination {
            Destination::OnHost(path) => self.links.aside(path),
            Destination::InRelease(_) => None,
        }
    }
}

impl SeenFile {
    fn of(bytes: Option<Vec<u8>>, attributes: Attributes) -> Self {
        let note = bytes.is_none();
        let note = note.then(|| format!("what is there has more than {RENDERED_BYTES_MAX} bytes"));
        Self {
            bytes,
            attributes: Some(attributes),
            note,
        }
    }

    fn without(note: &str) -> Self {
        Self {
            bytes: None,
            attributes: None,
            note: Some(note.to_owned()),
        }
    }
}

/// The file that a path leads to, links followed as whoever uses it follows them; none where it leads nowhere.
fn through(path: &Path) -> io::Result<Option<SeenFile>> {
    let Some(status) = there(fs::metadata(path))? else {
        return Ok(None);
    };
    // Opening what is none may have effects.
    if !status.is_file() {
        return Ok(Some(SeenFile::without("it is no file")));
    }
    let attributes = Attributes {
        mode: status.permissions().mode() & 0o7777,
        uid: status.uid(),
        gid: status.gid(),
    };
    let bytes = there(notation::read(path, RENDERED_BYTES_MAX as u64))?;
    Ok(bytes.map(|bytes| SeenFile::of(bytes, attributes)))
}

/// The bytes of a file; none where it has more than any that is rendered.
fn read(file: &fs::File) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let longest = RENDERED_BYTES_MAX as u64;
    let read = io::Read::read_to_end(&mut io::Read::take(file, longest + 1), &mut bytes)?;
    Ok((read as u64 <= longest).then_some(bytes))
}

fn attributes(stat: &Stat) -> Attributes {
    Attributes {
        mode: permissions(stat),
        uid: stat.st_uid,
        gid: stat.st_gid,
    }
}

fn state(own: &Dir) -> Result<State, ActivateError> {
    match record::read(own, LIVE)? {
        Found::Record(state) => Ok(state),
        Found::Nothing => Ok(State::default()),
        Found::Damaged => Err(ActivateError::LiveDamaged),
    }
}

/// What was opened, unless nothing is there.
fn there<T>(opened: io::Result<T>) -> io::Result<Option<T>> {
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
