//! What a release asks of hosts, looked for without asking anybody, and proved to be what was signed.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use scap_agent::{
    error_chain,
    host::{Preview, RenderError, preview},
    store::{StoreError, StoreReader},
};
use scap_proto::{
    content::{RelPath, SnapshotRef},
    id::GitOid,
    release::{
        HostConfig, HostConfigError,
        host_config::{ConfigFile, TEMPLATES},
    },
};

use super::{DeployArgs, dry_run::Nowhere};
use crate::{
    cli::{
        About, CliError, branch::failed, exit, history::warn_of_unreadable, rollback::proven,
        snapshot::Tree,
    },
    git::Repo,
    scap::{Scap, ScapError},
    snapshot::{ChunkSink, HeldFiles, StoredError, read_files},
    state::{Outcome, Recorded, StateDirectory},
};

/// Most bytes of what a release asks: no host takes more.
const CONFIG_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// What a release asks of hosts.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// `None` where that is nothing.
    pub(super) hosts: Option<HostConfig>,
    /// By their paths below [`TEMPLATES`].
    templates: Arc<BTreeMap<RelPath, Bytes>>,
}

/// Why it is not known what a release asks.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskedError {
    #[error(transparent)]
    Folder(#[from] ScapError),
    #[error("look into the chunk store")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Stored(#[from] StoredError),
    #[error("the config snapshot has no file `{}`", HostConfig::FILE)]
    NoConfig,
    #[error("read what hosts are asked")]
    Config(#[from] HostConfigError),
}

impl Asked {
    /// By what a scap folder says.
    fn of_folder(scap: &Scap) -> Result<Self, AskedError> {
        match scap.files()? {
            Some(files) => Self::of_files(&files),
            None => Ok(Self::default()),
        }
    }

    /// By the files of a config snapshot.
    fn of_files(files: &HeldFiles) -> Result<Self, AskedError> {
        let is_config = |path: &RelPath| path.as_bytes() == HostConfig::FILE.as_bytes();
        let config = files.iter().find(|(path, _)| is_config(path));
        let (_, config) = config.ok_or(AskedError::NoConfig)?;
        let templates = files.iter().filter_map(|(path, file)| {
            let below = path.as_bytes().strip_prefix(TEMPLATES.as_bytes())?;
            let path = RelPath::new(below.strip_prefix(b"/")?.to_vec()).ok()?;
            Some((path, file.bytes.clone()))
        });
        Ok(Self {
            hosts: Some(HostConfig::decode(&config.bytes)?),
            templates: Arc::new(templates.collect()),
        })
    }

    /// What hosts are to render: files, variables, templates.
    pub(super) fn to_render(&self) -> (Vec<ConfigFile>, String, BTreeMap<RelPath, Bytes>) {
        match &self.hosts {
            Some(hosts) if !hosts.config_files.is_empty() => {
                let (files, vars) = (hosts.config_files.clone(), hosts.vars.clone());
                (files, vars, (*self.templates).clone())
            }
            _ => (Vec::new(), "{}".to_owned(), BTreeMap::new()),
        }
    }

    /// The config files, as hosts would render them.
    pub(super) fn rendered(&self) -> Result<Vec<(&ConfigFile, Preview)>, RenderError> {
        let Some(hosts) = &self.hosts else {
            return Ok(Vec::new());
        };
        let previews = preview(hosts, &self.templates)?;
        Ok(hosts.config_files.iter().zip(previews).collect())
    }

    /// Whether a file that both have alike is rendered from the same.
    pub(super) fn renders_as(&self, other: &Self) -> bool {
        let vars = |asked: &'_ Self| asked.hosts.as_ref().map(|hosts| hosts.vars.clone());
        self.templates == other.templates && vars(self) == vars(other)
    }
}

/// That what a folder asks can be packed, and that no template is one that every host fails with. Blocking.
pub(super) fn check(scap: &Scap) -> Result<(), CliError> {
    let asked = of_folder(scap)?;
    asked.rendered().map_err(|error| cannot_render(&error))?;
    Ok(())
}

/// What a config snapshot says, which a store has.
pub(super) fn in_store(
    config: SnapshotRef,
    store: &dyn ChunkSink,
) -> Result<Option<HostConfig>, AskedError> {
    let files = read_files(config, store, CONFIG_BYTES_MAX)?;
    Ok(Asked::of_files(&files)?.hosts)
}

fn of_folder(scap: &Scap) -> Result<Asked, CliError> {
    Asked::of_folder(scap).map_err(|error| {
        CliError::failed("put together what hosts are asked", &error).code(exit::USAGE)
    })
}

pub(super) fn cannot_render(error: &RenderError) -> CliError {
    CliError::failed("tell what hosts would render", error)
        .code(exit::USAGE)
        .hint("each host would fail with this; it is in the scap folder".to_owned())
}

/// What is live, as far as this machine knows.
pub(super) struct Live {
    /// The last release that was finalized.
    pub(super) release: Recorded,
    /// What it asked of hosts; or why that is not known.
    pub(super) asked: Result<Asked, String>,
    /// A release after it that hosts may have live too.
    pub(super) later: Option<Recorded>,
}

/// Where what releases asked may be.
pub(super) struct Finder<'a> {
    pub(super) args: &'a DeployArgs,
    pub(super) state: &'a StateDirectory,
    pub(super) tree: &'a Tree,
    /// The folder as it is for what is deployed.
    pub(super) scap: &'a Scap,
}

impl Finder<'_> {
    /// What the deployment asks.
    pub(super) fn deployed(&self) -> Result<Asked, CliError> {
        let Some(back) = &self.args.back_to else {
            return of_folder(self.scap);
        };
        let found = self.find(back.config, back.commit.as_ref());
        found.map_err(|error| {
            let doing = format!("find what release #{} asked of hosts", back.sequence);
            CliError::failed(&doing, &error)
                .code(exit::USAGE)
                .hint("--scap names the folder that it was deployed with".to_owned())
        })
    }

    /// What is live by the state branch as it is here, if anything is.
    pub(super) fn live(&self, about: &About) -> Result<Option<Live>, CliError> {
        let repo = match self.tree.repo() {
            Some(repo) => repo.clone(),
            None if !self.state.state_repo().is_dir() => return Ok(None),
            None => Repo::open(&self.state.state_repo()).map_err(|error| {
                CliError::failed("open the repository of the state branch", &error)
                    .hint(error.hint())
            })?,
        };
        let Some(history) = self.args.record.branch.history(&repo, false)? else {
            return Ok(None);
        };
        let past = history.past(about).map_err(|error| failed(&error))?;
        warn_of_unreadable(&past);
        let latest = past.releases.first().cloned();
        let mut releases = past.releases.into_iter();
        let Some(release) = releases.find(|it| it.is_finalized) else {
            return Ok(None);
        };
        let may_be_live = |it: &Recorded| {
            it.rollout.release != release.rollout.release
                && !matches!(it.rollout.outcome, Outcome::RolledBack | Outcome::Failed)
        };
        let asked = match proven(&history, &release, self.state)? {
            Ok(proven) => {
                let proven = proven.release();
                let found = self.find(proven.config, proven.commit.as_ref());
                found.map_err(|error| error_chain(&error))
            }
            Err(error) => Err(error_chain(&error)),
        };
        Ok(Some(Live {
            later: latest.filter(may_be_live),
            release,
            asked,
        }))
    }

    /// What the config snapshot `config` of a release is: by the folder as it is now, most releases asking the same as the one
    /// before; by the chunk store; by the folder of its commit.
    fn find(
        &self,
        config: Option<SnapshotRef>,
        commit: Option<&GitOid>,
    ) -> Result<Asked, AskedError> {
        let Some(config) = config else {
            return Ok(Asked::default());
        };
        if is_of(self.scap, config) {
            return Asked::of_folder(self.scap);
        }
        let missing = match self.stored(config) {
            Ok(asked) => return Ok(asked),
            Err(error) => error,
        };
        let scap = commit.and_then(|commit| self.folder_of(commit));
        match scap.filter(|scap| is_of(scap, config)) {
            Some(scap) => Asked::of_folder(&scap),
            None => Err(missing),
        }
    }

    fn stored(&self, config: SnapshotRef) -> Result<Asked, AskedError> {
        let store = StoreReader::open(self.state.store())?;
        Asked::of_files(&read_files(config, &store, CONFIG_BYTES_MAX)?)
    }

    /// The folder that belongs to another commit, where it can be read.
    fn folder_of(&self, commit: &GitOid) -> Option<Scap> {
        let repo = self.tree.repo()?.clone();
        let commit = repo.resolve(&commit.to_string()).ok()?;
        let tree = Tree::Commit { repo, commit };
        let read = self.args.scap.read(&self.args.source, &tree);
        read.ok().map(|(_, scap)| scap)
    }
}

/// Whether a folder makes this config snapshot.
fn is_of(scap: &Scap, config: SnapshotRef) -> bool {
    let packed = scap.pack(&Nowhere).ok().flatten();
    packed.is_some_and(|built| built.snapshot == config)
}
