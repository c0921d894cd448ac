//! The stable release as a clone of the state branch has it: what was signed, which the daemon verifies like a peer's word.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use bytes::Bytes;
use scap_proto::{
    limits::{FRAME_BYTES_MAX, SIGNATURES_MAX},
    release::{
        Environment, RepoPath, SignedFinalization, SignedGrant, SignedRelease,
        signature::SshSignature,
    },
    wire::control::Finalize,
};

/// Why a clone does not say what is stable.
#[derive(Debug, thiserror::Error)]
pub(super) enum CloneError {
    /// git cannot be run.
    #[error("run git")]
    Run(#[source] io::Error),
    /// git failed.
    #[error("read the state branch in {directory}: git says: {said}")]
    Git {
        /// Where.
        directory: PathBuf,
        /// What it printed on standard error.
        said: String,
    },
    /// Its output is none that is known.
    #[error("read what git says of {0}")]
    Output(String),
    /// The branch is not there, or has nothing of the repo.
    #[error("{directory} has no stable release of {repo} for {environment} on branch {branch}")]
    Nothing {
        /// Where.
        directory: PathBuf,
        /// Of which repo.
        repo: RepoPath,
        /// In which environment.
        environment: Environment,
        /// On which branch.
        branch: String,
    },
    /// A file is no signature.
    #[error("{0} on the state branch is not a signature")]
    Signature(&'static str),
}

/// What is read, and from where.
pub(super) struct StateClone<'a> {
    /// A work tree, or a bare repository.
    pub(super) directory: &'a Path,
    /// The state branch's name.
    pub(super) branch: &'a str,
}

impl StateClone<'_> {
    /// The signed objects of the stable release, from `origin`'s branch as it was fetched last, else from the clone's own; and
    /// where that is for some hosts alone, those of the latest before it that was not.
    ///
    /// # Errors
    /// [`CloneError`].
    pub(super) fn stable(
        &self,
        repo: &RepoPath,
        environment: &Environment,
    ) -> Result<Vec<Finalize>, CloneError> {
        let folder = format!("{environment}/{}", repo.as_str().replace('/', "+"));
        let nothing = || CloneError::Nothing {
            directory: self.directory.to_owned(),
            repo: repo.clone(),
            environment: environment.clone(),
            branch: self.branch.to_owned(),
        };
        for place in ["refs/remotes/origin", "refs/heads"] {
            let folder = format!("{place}/{}:{folder}", self.branch);
            if let Some(stable) = self.signed(&format!("{folder}/stable"), nothing)? {
                let open = self.signed(&format!("{folder}/open"), nothing)?;
                return Ok([stable].into_iter().chain(open).collect());
            }
        }
        Err(nothing())
    }

    /// The signed objects in a folder, where it is there.
    fn signed(
        &self,
        folder: &str,
        nothing: impl Fn() -> CloneError + Copy,
    ) -> Result<Option<Finalize>, CloneError> {
        let names = NAMES.iter().map(|name| (*name).to_owned());
        let more = (2..=SIGNATURES_MAX).map(|number| format!("release.{number}.sig"));
        let names = names.chain(more).map(|it| format!("{folder}/{it}"));
        let files = self.read(&names.collect::<Vec<_>>())?;
        if files[0].is_none() {
            return Ok(None);
        }
        let mut files = files.into_iter();
        let mut next = || files.next().flatten().ok_or_else(nothing);
        let [
            release,
            release_sig,
            grant,
            grant_sig,
            finalization,
            finalization_sig,
        ] = [next()?, next()?, next()?, next()?, next()?, next()?];
        let mut signatures = vec![signature("release.sig", release_sig)?];
        for more in files.map_while(|it| it) {
            signatures.push(signature("a further signature of the release", more)?);
        }
        Ok(Some(Finalize {
            release: SignedRelease {
                payload: release.into(),
                signatures,
            },
            grant: SignedGrant {
                payload: grant.into(),
                signature: signature("grant.sig", grant_sig)?,
            },
            finalization: SignedFinalization::from_parts(
                finalization.into(),
                finalization_sig.into(),
            ),
        }))
    }

    /// The contents of some objects by their names; `None` for those that are not there.
    fn read(&self, names: &[String]) -> Result<Vec<Option<Vec<u8>>>, CloneError> {
        let mut child = Command::new("git")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("GIT_ALLOW_PROTOCOL", "")
            .arg("-C")
            .arg(self.directory)
            .args(["cat-file", "--batch"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(CloneError::Run)?;
        // So few names fit the pipe, whatever git does meanwhile.
        let mut stdin = child.stdin.take().expect("it is piped");
        let asked = stdin.write_all((names.join("\n") + "\n").as_bytes());
        drop(stdin);
        let output = child.wait_with_output().map_err(CloneError::Run)?;
        if asked.is_err() || !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(CloneError::Git {
                directory: self.directory.to_owned(),
                said: said.trim().chars().take(SAID_CHARS_MAX).collect(),
            });
        }
        let mut rest = Bytes::from(output.stdout);
        let parse =
            |name: &String| object(&mut rest).ok_or_else(|| CloneError::Output(name.clone()));
        names.iter().map(parse).collect()
    }
}

/// The next object of `cat-file --batch`: a line `<id> blob <length>`, the content and a line feed, or a line that ends with
/// `missing`.
fn object(rest: &mut Bytes) -> Option<Option<Vec<u8>>> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let line = rest.split_to(end + 1);
    let line = std::str::from_utf8(&line).ok()?.trim_end();
    if line.ends_with(" missing") {
        return Some(None);
    }
    let length = line.rsplit_once(" blob ")?.1.parse().ok()?;
    if length > FRAME_BYTES_MAX as usize || rest.len() <= length {
        return None;
    }
    let content = rest.split_to(length).to_vec();
    (rest.split_to(1).as_ref() == b"\n").then_some(Some(content))
}

fn signature(name: &'static str, bytes: Vec<u8>) -> Result<SshSignature, CloneError> {
    let text = String::from_utf8(bytes).ok();
    let signature = text.and_then(|text| SshSignature::try_from(text).ok());
    signature.ok_or(CloneError::Signature(name))
}

/// What is in the folder, as far as every release has it.
const NAMES: [&str; 6] = [
    "release",
    "release.sig",
    "grant",
    "grant.sig",
    "finalization",
    "finalization.sig",
];

/// Most characters of git's standard error that are shown.
const SAID_CHARS_MAX: usize = 500;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_objects_of_a_batch_are_read_one_by_one_and_what_is_none_is_refused() {
        let batch = b"0123 blob 5\nab\ncd\nrefs/heads/x:y missing\n4567 blob 0\n\n";
        let mut rest = Bytes::from_static(batch);
        assert_eq!(object(&mut rest), Some(Some(b"ab\ncd".to_vec())));
        assert_eq!(object(&mut rest), Some(None));
        assert_eq!(object(&mut rest), Some(Some(Vec::new())));
        assert_eq!(object(&mut rest), None);
        for bad in [
            "0123 tree 1\na\n",
            "0123 blob 9\nab\n",
            "0123 blob 1\nab\n",
            "blob",
        ] {
            assert_eq!(
                object(&mut Bytes::from_static(bad.as_bytes())),
                None,
                "{bad}"
            );
        }
    }

    #[test]
    fn where_there_is_no_repository_git_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let clone = StateClone {
            directory: &directory.path().join("nothing"),
            branch: "scap/state",
        };
        let stable = clone.stable(&"web/site".parse().unwrap(), &Environment::default());
        assert!(matches!(stable, Err(CloneError::Git { .. })), "{stable:?}");
    }
}
