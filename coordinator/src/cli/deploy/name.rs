//! What a repo is called below the deploy root.

use scap_proto::release::RepoPath;

use crate::{
    cli::{CliError, SourceArgs, exit},
    scap::Scap,
};

/// `--name`, else `git_repo` of the scap folder, else the directory's name.
pub(super) fn repo_name(
    name: Option<&RepoPath>,
    source: &SourceArgs,
    scap: &Scap,
) -> Result<RepoPath, CliError> {
    if let Some(name) = name.or(scap.repo.as_ref()) {
        return Ok(name.clone());
    }
    let path = source.repo.as_ref().or(source.dir.as_ref());
    let directory = path.and_then(|path| path.canonicalize().ok());
    let directory = directory
        .as_deref()
        .and_then(|path| path.file_name()?.to_str());
    let name = directory.map(|name| name.trim_end_matches(".git"));
    let name = name.ok_or_else(|| CliError::usage("--name says what to call the repo"))?;
    name.parse().map_err(|error| {
        CliError::failed("name the repo", &error)
            .code(exit::USAGE)
            .hint("give --name".to_owned())
    })
}
