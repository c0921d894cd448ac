//! What a release asks of a host beside holding its files: config files to render, checks to run, services to handle.
//!
//! It is the file [`HostConfig::FILE`] of the *config snapshot* ([`Release::config`](super::Release::config)), beside the
//! folders [`TEMPLATES`] and [`SCRIPTS`] with what it names. So one release id names code and config, and a host acts on
//! nothing that its deployers did not sign.

use std::{collections::BTreeMap, fmt, num::NonZeroU32, path::PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    codec::{self, CodecError, Extensible},
    content::{PathError, RelPath},
    extensions::{ExtensionError, Extensions},
    id::NodeId,
    limits::HOST_CONFIG_BYTES_MAX,
    release::{names::Environment, signed::SignedObject},
};

/// The folder of the config snapshot with the templates that [`ConfigFile::template`] names.
pub const TEMPLATES: &str = "templates";
/// The folder of the config snapshot with the scripts that [`Command::Script`] names, as executables.
pub const SCRIPTS: &str = "scripts";

/// What is the same for all hosts of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostConfig {
    /// For which environment it was put together; that of the release.
    pub environment: Environment,
    /// What is rendered before the release is promoted, in the order of the destinations.
    pub config_files: Vec<ConfigFile>,
    /// The variables of all templates: the text of one JSON object, its keys in the order of the files that they are from.
    pub vars: String,
    /// What is run, one after the other in this order.
    pub checks: Vec<Check>,
    /// The server groups that a check names, and who is in them; each host is in one at most.
    pub groups: Vec<HostGroup>,
    /// What is restarted or reloaded once the release is promoted.
    pub services: Services,
    /// Where the commands that [`Command::Nrpe`] names are defined.
    pub nrpe_directory: HostPath,
    /// How many release directories are kept.
    pub cache_revs: NonZeroU32,
    /// Room to grow.
    pub extensions: Extensions,
}

/// A file that is rendered from a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigFile {
    /// Where it goes.
    pub destination: Destination,
    /// The template, below [`TEMPLATES`].
    pub template: RelPath,
    /// A YAML file on the host, whose variables win over those of the release.
    pub remote_vars: Option<HostPath>,
    /// How values are written.
    pub format: OutputFormat,
    /// Whether the template's delimiters are those of ERB, `<% %>` and `<%= %>`, in place of `{% %}` and `{{ }}`.
    pub has_erb_syntax: bool,
}

/// Where a rendered file goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Destination {
    /// Elsewhere on the host: a link to the file in the release.
    OnHost(HostPath),
    /// In the release's own tree.
    InRelease(RelPath),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnHost(path) => path.fmt(f),
            Self::InRelease(path) => path.fmt(f),
        }
    }
}

/// How a template writes what has no text of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputFormat {
    /// As Python does: `None`, `True`, `False`.
    Python,
    /// As YAML does: `null`, `true`, `false`.
    Yaml,
}

/// Something that is run around a stage, and that says by its exit code whether to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What people call it; unique.
    pub name: String,
    /// What is run.
    pub command: Command,
    /// Before or after the stage.
    pub moment: Moment,
    /// Around which stage.
    pub stage: HostStage,
    /// The only group of [`HostConfig::groups`] on whose hosts it is run; on all where there is none.
    pub group: Option<String>,
    /// After this it is killed, and failed.
    pub timeout_millis: NonZeroU32,
}

impl Check {
    /// Whether one of then and there can be run again while its release is live: it tells how that does.
    pub fn may_repeat(moment: Moment, stage: HostStage) -> bool {
        let of_live = matches!(stage, HostStage::Promote | HostStage::HandleService);
        moment == Moment::After && of_live
    }
}

/// What a check runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A program and its arguments; at least one.
    Program(Vec<String>),
    /// A line for `sh -c`.
    Shell(String),
    /// A command that NRPE's configuration on the host defines.
    Nrpe(String),
    /// An executable of the release: its name below [`SCRIPTS`], and its arguments.
    Script {
        /// The executable.
        path: RelPath,
        /// What it is given.
        arguments: Vec<String>,
    },
}

/// On which side of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Moment {
    /// Before it begins.
    Before,
    /// When it is done; not where there was nothing to do.
    After,
}

/// What a host does of a release, in this order; the last one to go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HostStage {
    /// Fetch, and make the release's directory.
    Fetch,
    /// Render the config files.
    ConfigDeploy,
    /// Switch to the release.
    Promote,
    /// Restart or reload the services.
    HandleService,
    /// The release is the stable one.
    Finalize,
    /// Switch back to the release before.
    Rollback,
}

impl HostStage {
    /// All of them, in their order.
    pub const ALL: [Self; 6] = [
        Self::Fetch,
        Self::ConfigDeploy,
        Self::Promote,
        Self::HandleService,
        Self::Finalize,
        Self::Rollback,
    ];

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::ConfigDeploy => "config_deploy",
            Self::Promote => "promote",
            Self::HandleService => "handle_service",
            Self::Finalize => "finalize",
            Self::Rollback => "rollback",
        }
    }
}

/// A server group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostGroup {
    /// What people call it.
    pub name: String,
    /// Who, sorted.
    pub hosts: Vec<NodeId>,
}

/// The services of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// Which, in the order in which they are handled.
    pub units: Vec<Service>,
    /// The port on 127.0.0.1 that must answer then.
    pub port: Option<u16>,
    /// How long that may take.
    pub port_timeout_millis: NonZeroU32,
    /// Whether a unit that the host does not know, or has masked, is left out.
    pub skips_unknown: bool,
    /// A host that has this file is a secondary one.
    pub secondary_signal_file: HostPath,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The unit.
    pub name: String,
    /// What is done with it.
    pub action: ServiceAction,
    /// Whether it is stopped and disabled on secondary hosts instead.
    pub is_disabled_on_secondary: bool,
}

/// What is done with a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceAction {
    /// Stop and start.
    Restart,
    /// Read its configuration again.
    Reload,
}

/// An absolute path on a host: `/` and a path without `.`, `..` or anything empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostPath(RelPath);

impl HostPath {
    /// Checks a path.
    ///
    /// # Errors
    /// [`HostPathError`].
    pub fn new(path: &str) -> Result<Self, HostPathError> {
        let Some(below) = path.strip_prefix('/') else {
            let path = path.escape_debug().take(256).collect();
            return Err(HostPathError::Relative(path));
        };
        Ok(Self(RelPath::new(below.to_owned())?))
    }

    /// The same path below `/`.
    pub fn below_root(&self) -> &RelPath {
        &self.0
    }

    /// The path for system calls.
    pub fn to_path(&self) -> PathBuf {
        PathBuf::from("/").join(self.0.as_path())
    }
}

impl fmt::Display for HostPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0)
    }
}

impl fmt::Debug for HostPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A text that is no [`HostPath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostPathError {
    /// It does not start with `/`.
    #[error("path `{0}` is not absolute")]
    Relative(String),
    /// It is none below `/`.
    #[error(transparent)]
    Path(#[from] PathError),
}

/// Why a host's configuration cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum HostConfigError {
    /// Longer than [`HOST_CONFIG_BYTES_MAX`].
    #[error("the hosts' configuration has {0} bytes, at most {HOST_CONFIG_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// It is none of this version.
    #[error("read the hosts' configuration")]
    Codec(#[from] CodecError),
    /// More checks are to be run again than have room.
    #[error("say which checks are run again")]
    Repeats(#[source] ExtensionError),
}

impl Extensible for HostConfig {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

/// After how many milliseconds which checks are run again, by their names. Who does not know it runs each once.
const REPEATS: u16 = 2;

/// Signed as part of the config snapshot that a release names.
impl SignedObject for HostConfig {
    const MAGIC: &'static str = "scap-host-config/1\n";
}

impl HostConfig {
    /// Its name in the config snapshot.
    pub const FILE: &'static str = "host-config";

    /// Whether there is nothing to do beside switching.
    pub fn asks_nothing(&self) -> bool {
        self.config_files.is_empty() && self.checks.is_empty() && self.services.units.is_empty()
    }

    /// The same, with checks that are run again while the release is live and not yet the stable one: which, by their names,
    /// and after how many milliseconds each time.
    ///
    /// # Errors
    /// [`HostConfigError::Repeats`].
    pub fn repeating(
        self,
        repeats: &BTreeMap<String, NonZeroU32>,
    ) -> Result<Self, HostConfigError> {
        if repeats.is_empty() {
            return Ok(self);
        }
        let bytes = codec::encode(repeats).into();
        let extensions = self.extensions.with(REPEATS, bytes);
        let extensions = extensions.map_err(HostConfigError::Repeats)?;
        Ok(Self { extensions, ..self })
    }

    /// Which checks are run again, by their names, and after how many milliseconds each time.
    ///
    /// # Errors
    /// Where there is something else.
    pub fn repeats(&self) -> Result<BTreeMap<String, NonZeroU32>, CodecError> {
        match self.extensions.get(REPEATS) {
            Some(bytes) => codec::decode(bytes),
            None => Ok(BTreeMap::new()),
        }
    }

    /// The bytes of the file.
    ///
    /// # Errors
    /// [`HostConfigError::TooLong`].
    pub fn encode(&self) -> Result<Bytes, HostConfigError> {
        let bytes = self.to_payload();
        Self::check_length(&bytes)?;
        Ok(bytes)
    }

    /// Reads the bytes of the file.
    ///
    /// # Errors
    /// [`HostConfigError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, HostConfigError> {
        Self::check_length(bytes)?;
        let config = Self::from_payload(bytes)?;
        config.repeats()?;
        Ok(config)
    }

    fn check_length(bytes: &[u8]) -> Result<(), HostConfigError> {
        match bytes.len() {
            0..=HOST_CONFIG_BYTES_MAX => Ok(()),
            long => Err(HostConfigError::TooLong(long)),
        }
    }
}
