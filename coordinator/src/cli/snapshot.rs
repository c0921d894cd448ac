//! `snapshot`: what a commit or a directory is, in chunks.

use std::path::Path;

use clap::Args;
use scap_agent::store::{Admission, Store, StoreConfig};
use scap_proto::content::SnapshotRef;
use serde_json::json;

use super::{About, CliError, SourceArgs, StateArgs, exit, human_bytes};
use crate::{
    git::{Commit, Repo},
    snapshot::{self, Built, ChunkSink, Earlier, Options, Progress, Source},
    state::StateDirectory,
};

#[derive(Debug, Args)]
pub(super) struct SnapshotArgs {
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    source: SourceArgs,
    /// The revision to take
    #[arg(long, value_name = "REV", default_value = "HEAD")]
    rev: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: SnapshotArgs) -> Result<u8, CliError> {
    let state = StateDirectory::open(&args.state.state)
        .map_err(|error| CliError::failed("snapshot", &error).hint(error.hint()))?;
    let _shared = state.share().map_err(|error| locked(&error))?;
    let (store, _admission) = open_store(&state.store()).await?;
    let tree = Tree::find(&args.source, &args.rev)?;
    let work = move || tree.build(&store, None, |_| {});
    let built = tokio::task::spawn_blocking(work)
        .await
        .expect("building does not panic")?;
    print(&built, args.json);
    Ok(exit::DONE)
}

fn print(built: &Built, as_json: bool) {
    let totals = built.descriptor.totals;
    let seconds = built.elapsed.as_secs_f64();
    if as_json {
        let object = json!({
            "schema": "scap.snapshot/1",
            "snapshot": built.snapshot.id.to_string(),
            "entries": totals.entries,
            "files": totals.files,
            "bytes": totals.bytes,
            "chunks": built.all.chunks,
            "encoded_bytes": built.all.encoded_bytes,
            "new_chunks": built.new.chunks,
            "new_encoded_bytes": built.new.encoded_bytes,
            "seconds": seconds,
        });
        println!("{object}");
        return;
    }
    println!("snapshot {}", built.snapshot.id);
    println!("  {} files, {}", totals.files, human_bytes(totals.bytes));
    println!(
        "  {} chunks, {} encoded; {} new, {}",
        built.all.chunks,
        human_bytes(built.all.encoded_bytes),
        built.new.chunks,
        human_bytes(built.new.encoded_bytes),
    );
    println!("  built in {seconds:.2} s");
}

/// What is to be deployed, found and not yet read.
pub(super) enum Tree {
    /// A commit.
    Commit {
        /// Of which repository.
        repo: Repo,
        /// Which.
        commit: Commit,
    },
    /// A plain directory.
    Directory(std::path::PathBuf),
    /// What a directory was when it was deployed, as far as the store still has it.
    Stored(SnapshotRef),
}

impl Tree {
    pub(super) fn find(source: &SourceArgs, rev: &str) -> Result<Self, CliError> {
        match (&source.repo, &source.dir) {
            (Some(path), _) => {
                let repo = Repo::open(path).map_err(|error| {
                    CliError::failed("open the repo", &error).hint(error.hint())
                })?;
                let commit = repo.resolve(rev).map_err(|error| {
                    CliError::failed("find the revision", &error).hint(error.hint())
                })?;
                Ok(Self::Commit { repo, commit })
            }
            (None, Some(path)) if path.is_dir() => Ok(Self::Directory(path.clone())),
            (None, Some(path)) => Err(CliError::usage(format!(
                "open --dir {}: no such directory",
                path.display()
            ))
            .hint("name a directory that is there; --repo takes a git repository".to_owned())),
            (None, None) => Err(CliError::usage(
                "either --repo or --dir says what to deploy",
            )),
        }
    }

    pub(super) fn commit(&self) -> Option<&Commit> {
        match self {
            Self::Commit { commit, .. } => Some(commit),
            Self::Directory(_) | Self::Stored(_) => None,
        }
    }

    /// The object of its commit, where that is signed: for hosts that ask for it.
    pub(super) fn signed_commit(&self) -> Result<Option<Vec<u8>>, CliError> {
        let Self::Commit { repo, commit } = self else {
            return Ok(None);
        };
        repo.signed_object(&commit.id)
            .map_err(|error| CliError::failed("read the commit", &error).hint(error.hint()))
    }

    /// The repository that it is in.
    pub(super) fn repo(&self) -> Option<&Repo> {
        match self {
            Self::Commit { repo, .. } => Some(repo),
            Self::Directory(_) | Self::Stored(_) => None,
        }
    }

    /// Builds its snapshot into the store and syncs it. Of a commit only what changed since `earlier` is read. Blocking.
    pub(super) fn build(
        &self,
        store: &Store,
        earlier: Option<Earlier>,
        progress: impl FnMut(Progress),
    ) -> Result<Built, CliError> {
        if let Self::Stored(snapshot) = self {
            return snapshot::stored(*snapshot, store).map_err(|error| {
                CliError::failed("find the snapshot", &error)
                    .code(exit::USAGE)
                    .hint("deploy the directory as it was then with --dir".to_owned())
            });
        }
        let built = self.build_into(store, earlier, progress)?;
        store
            .sync()
            .map_err(|error| CliError::failed("sync the chunk store", &error))?;
        Ok(built)
    }

    /// Builds its snapshot into a sink that need not keep anything. Blocking.
    pub(super) fn measure(&self, sink: &dyn ChunkSink) -> Result<Built, CliError> {
        self.build_into(sink, None, |_| {})
    }

    fn build_into(
        &self,
        sink: &dyn ChunkSink,
        earlier: Option<Earlier>,
        progress: impl FnMut(Progress),
    ) -> Result<Built, CliError> {
        let source = match self {
            Self::Commit { repo, commit } => Source::Commit {
                repo,
                commit: &commit.id,
            },
            Self::Directory(path) => Source::Directory(path),
            Self::Stored(_) => {
                let problem = "build the snapshot: only the chunk store has that tree";
                return Err(CliError::usage(problem)
                    .hint("leave out --dry-run, or deploy the directory with --dir".to_owned()));
            }
        };
        let options = Options {
            earlier,
            ..Options::default()
        };
        snapshot::build(source, sink, options, progress)
            .map_err(|error| CliError::failed("build the snapshot", &error).hint(error.hint()))
    }
}

/// What was released last of this repo to this environment, where it was a commit. A record that cannot be read is told
/// where the release is made.
pub(super) fn last_released(
    state: &StateDirectory,
    (repo, environment): &About,
) -> Option<Earlier> {
    let record = state.record(repo, environment).ok()??;
    let release = record.release.read_unverified().ok()?;
    Some(Earlier {
        commit: release.commit?,
        snapshot: release.snapshot,
    })
}

/// The store, beside other deployments, and what keeps these from collecting what nothing names yet.
pub(super) async fn open_store(path: &Path) -> Result<(Store, Admission), CliError> {
    let path = path.to_owned();
    let open = move || Store::open_shared(path, StoreConfig::default());
    let opened = tokio::task::spawn_blocking(open).await;
    let opened = opened.expect("opening the store does not panic");
    let (store, admission, _) =
        opened.map_err(|error| CliError::failed("open the chunk store", &error))?;
    Ok((store, admission))
}

pub(super) fn locked(error: &crate::state::StateError) -> CliError {
    let failed = CliError::failed("take the lock", error).hint(error.hint());
    match error {
        crate::state::StateError::Locked { .. } | crate::state::StateError::Held { .. } => {
            failed.code(exit::LOCKED)
        }
        _ => failed,
    }
}
