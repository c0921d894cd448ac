//! What a repo is called below the deploy root.

use scap_proto::{content::RelPath, release::RepoPath};

use super::DeployArgs;
use crate::cli::{CliError, exit, snapshot::Tree};

/// `--name`, else `git_repo` of the commit's or directory's `scap/scap.cfg`, else the directory's name.
pub(in crate::cli) fn repo_name(args: &DeployArgs, tree: &Tree) -> Result<RepoPath, CliError> {
    if let Some(name) = &args.name {
        return Ok(name.clone());
    }
    let config = match tree {
        Tree::Commit { repo, commit } => repo
            .read_file(
                &commit.id,
                &RelPath::new("scap/scap.cfg").expect("a safe path"),
                CONFIG_BYTES_MAX,
            )
            .map_err(|error| CliError::failed("read scap/scap.cfg", &error))?,
        Tree::Directory(path) => std::fs::read(path.join("scap/scap.cfg")).ok(),
        Tree::Stored(_) => None,
    };
    let configured = config.as_deref().and_then(git_repo_of);
    let path = args.source.repo.as_ref().or(args.source.dir.as_ref());
    let directory = path.and_then(|path| path.canonicalize().ok());
    let directory = directory
        .as_deref()
        .and_then(|path| path.file_name()?.to_str());
    let name = configured.or_else(|| directory.map(|d| d.trim_end_matches(".git").to_owned()));
    let name = name.ok_or_else(|| CliError::usage("--name says what to call the repo"))?;
    name.parse().map_err(|error| {
        CliError::failed("name the repo", &error)
            .code(exit::USAGE)
            .hint("give --name".to_owned())
    })
}

/// Longest `scap.cfg` that is read, in bytes: they are a page or two.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// `git_repo` in section `[global]` of an INI file as Python's `configparser` reads it: keys in any letter
/// case, `=` or `:` between key and value.
fn git_repo_of(config: &[u8]) -> Option<String> {
    let mut section = String::new();
    for line in String::from_utf8_lossy(config).lines() {
        if let Some(rest) = line.strip_prefix('[') {
            section = rest.split(']').next().unwrap_or_default().to_owned();
        } else if section == "global" && !line.starts_with(['#', ';', ' ', '\t']) {
            let Some((key, value)) = line.split_once(['=', ':']) else {
                continue;
            };
            if key.trim().eq_ignore_ascii_case("git_repo") {
                return Some(value.trim().to_owned()).filter(|value| !value.is_empty());
            }
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_repo_is_named_by_the_global_section_of_scap_cfg() {
        let found = |text: &str| git_repo_of(text.as_bytes());
        assert_eq!(
            found("[global]\ngit_repo: mw/config\n"),
            Some("mw/config".into())
        );
        assert_eq!(found("[global]\nGIT_REPO = a\n"), Some("a".into()));
        assert_eq!(
            found("[wmnet]\ngit_repo: other\n[global]\n# git_repo: no\n"),
            None
        );
        assert_eq!(found("git_repo: before any section\n"), None);
    }
}
