//! What a release asks of its host beside its files: config files are rendered, checks are run, services are handled.
//!
//! All of it is said by the release's [`HostConfig`], which its deployers signed: nothing here acts on what a peer says.
//! Where rendered files go, and when which stage is, is for [`activate`](crate::activate) to say; this renders and runs.
//!
//! Everything blocks, some of it for minutes, and nothing without a bound: a process of its own calls it. Nothing is
//! kept from one call to the next but a note of what runs, so that a call after a crash is like the first one, once what the
//! crash left running is ended.

use std::path::{Path, PathBuf};

use scap_proto::{id::NodeId, release::HostConfig};

mod check;
mod filters;
mod format;
mod left;
mod nrpe;
mod preview;
mod run;
mod service;
mod service_command;
mod template;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
mod vars;

pub(crate) use left::end_what_was_left;
pub(crate) use template::render_each;

pub use check::{CheckDone, CheckError, CheckFailure, CheckedAgain};
pub use nrpe::NrpeError;
pub use preview::{HostVars, Preview, preview};
pub use run::{OUTPUT_BYTES_MAX, Output, RunFailure};
pub use service::{ServiceDone, ServiceError, ServiceOutcome};
pub use service_command::{ServiceCommand, ServiceCommandError, ServiceCommands};
pub use template::{RENDERED_BYTES_MAX, RenderError, Rendered};
pub use vars::VarsError;

/// What one release asks of this host, and where things are.
#[derive(Debug, Clone, Copy)]
pub struct HostWork<'a> {
    /// What the release asks.
    pub config: &'a HostConfig,
    /// The files of the release's config snapshot, written out: `templates/` and `scripts/` are in it.
    pub config_dir: &'a Path,
    /// Who this host is: checks may be for one server group only.
    pub host: &'a NodeId,
    /// Where the release is on this host: for the environment of checks.
    pub paths: &'a Paths,
    /// How services are handled on this host.
    pub services: &'a ServiceCommands,
    /// Where it is noted what runs: a directory in one that is ours alone, or the note of another could name any process.
    pub running: &'a Path,
}

/// Where the releases of a repo are on this host, as absolute paths. They are told to all that is run, in the variables that
/// scap3 has for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The link that leads to what is live: `SCAP_FINAL_PATH`.
    pub final_path: PathBuf,
    /// The directory of this release, which need not be there yet: `SCAP_REV_PATH`.
    pub rev_path: PathBuf,
    /// The directory that it is in: `SCAP_REVS_DIR`.
    pub revs_dir: PathBuf,
    /// The directory of what is live, where something is: `SCAP_CURRENT_REV_DIR`.
    pub current_rev_dir: Option<PathBuf>,
    /// The directory of what was last finalized, where something was: `SCAP_DONE_REV_DIR`.
    pub done_rev_dir: Option<PathBuf>,
}

/// What is about to be waited for: whoever calls shows it to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing<'a> {
    /// This check, by its name.
    Check(&'a str),
    /// This unit: it is looked for, restarted, reloaded or stopped.
    Unit(&'a str),
    /// This port on 127.0.0.1, which is to answer.
    Port(u16),
}

impl Paths {
    /// The variables that are set, and to what. What is not there is not set, as with scap3.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        [
            ("SCAP_FINAL_PATH", Some(self.final_path.as_path())),
            ("SCAP_REV_PATH", Some(&self.rev_path)),
            ("SCAP_REVS_DIR", Some(&self.revs_dir)),
            ("SCAP_CURRENT_REV_DIR", self.current_rev_dir.as_deref()),
            ("SCAP_DONE_REV_DIR", self.done_rev_dir.as_deref()),
        ]
        .into_iter()
        .filter_map(|(name, path)| Some((name, path?)))
    }
}
