//! What commands are told of the scap folder, and how they find and read it.

use std::path::{Path, PathBuf};

use clap::Args;
use scap_proto::release::Environment;

use super::{CliError, SourceArgs, exit, snapshot::Tree, worded::Worded};
use crate::{
    fleet::Inventory,
    scap::{Found, HostName, Overrides, Scap, ScapError, Source, define, read_machine},
    state::Flags,
};

/// Where the scap folder is and what stands above it.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct ScapArgs {
    /// The scap folder [default: scap/ of the commit, else of its submodule, else of the work tree or the directory]
    #[arg(long, value_name = "DIR")]
    scap: Option<PathBuf>,
    /// The environment [default: what the scap folder says, else production]
    #[arg(short, long, value_name = "ENV")]
    environment: Option<Environment>,
    #[command(flatten)]
    keys: Worded<KeyArgs>,
    /// Whether whatever folder there is is left alone, as if there were none.
    #[arg(skip)]
    is_ignored: bool,
}

/// What stands over the keys of a scap folder.
#[derive(Debug, Clone, Default, Args)]
struct KeyArgs {
    /// Set a key of scap.cfg; may be given several times
    #[arg(short = 'D', long = "define", value_name = "KEY:VALUE", value_parser = define)]
    defines: Vec<(String, String)>,
    /// A file that says all keys of scap.cfg, in place of /etc/scap.cfg and of what the scap folder says
    #[arg(short = 'c', long, value_name = "FILE")]
    conf: Option<PathBuf>,
    /// Leave out what the scap folder says of keys: /etc/scap.cfg and -D alone say them
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_possible_values = true
    )]
    no_local_config: Option<bool>,
    /// This machine's full name, whose domains name sections of scap.cfg [default: as the system has it]
    #[arg(long, value_name = "NAME")]
    host_name: Option<String>,
}

impl ScapArgs {
    /// That no folder is looked for.
    pub(super) fn ignoring() -> Self {
        Self {
            is_ignored: true,
            ..Self::default()
        }
    }

    /// The environment, where a flag says it.
    pub(super) fn environment(&self) -> Option<&Environment> {
        self.environment.as_ref()
    }

    /// The same, whatever the folder says of the environment.
    pub(super) fn in_environment(self, environment: Environment) -> Self {
        Self {
            environment: Some(environment),
            ..self
        }
    }

    /// The flags that stand over the folder's keys, in words.
    pub(super) fn words(&self) -> &Flags {
        self.keys.words()
    }

    /// Whether it is a flag of these.
    pub(super) fn has_word(name: &str) -> bool {
        Worded::<KeyArgs>::names().any(|it| it == name)
    }

    /// Whether that flag may be said several times, and each counts.
    pub(super) fn adds_up(name: &str) -> bool {
        Worded::<KeyArgs>::adds_up(name)
    }

    /// The same, over what was said before of the folder's keys.
    ///
    /// # Errors
    /// As [`Worded::over`].
    pub(super) fn over(self, before: &Flags) -> Result<Self, clap::Error> {
        let keys = self.keys.over(before)?;
        Ok(Self { keys, ..self })
    }

    /// Finds the folder that belongs to `tree`, and reads it.
    pub(super) fn read(&self, source: &SourceArgs, tree: &Tree) -> Result<(Found, Scap), CliError> {
        let failed = |error: ScapError| {
            CliError::failed("read the scap folder", &error)
                .code(exit::USAGE)
                .hint(error.hint())
        };
        if self.is_ignored {
            let scap = Scap::read(&Found::nothing(), &Overrides::default(), &|_| Ok(None));
            return Ok((
                Found::nothing(),
                scap.expect("nothing is said, and nothing wrong"),
            ));
        }
        let found = match (&self.scap, tree) {
            (Some(path), _) => Found::named(path),
            (None, Tree::Directory(path)) => Found::of(Source::Directory(path)),
            // An earlier tree of a directory goes to whom the directory says now.
            (None, Tree::Stored(_)) => match &source.dir {
                Some(path) => Found::of(Source::Directory(path)),
                None => Ok(Found::nothing()),
            },
            (None, Tree::Commit { repo, commit }) => {
                let path = source.repo.as_deref();
                let top = path.map_or(Ok(None), |path| repo.work_tree(path));
                let top = top.map_err(|error| failed(error.into()))?;
                let (commit, top) = (&commit.id, top.as_deref());
                Found::of(Source::Commit { repo, commit, top })
            }
        };
        let found = found.map_err(failed)?;
        let scap = Scap::read(&found, &self.overrides(), &read_machine).map_err(failed)?;
        Ok((found, scap))
    }

    /// Where the folder is, and whose word it is who is deployed to where it names nobody; for people.
    pub(super) fn describe(
        &self,
        found: &Found,
        scap: &Scap,
        fleet: &Inventory,
        file: &Path,
        is_limited: bool,
    ) -> Option<String> {
        if self.is_ignored {
            return None;
        }
        let (all, file) = (fleet.hosts.len(), file.display());
        let hosts = match (&scap.groups, is_limited) {
            (Some(_), _) => String::new(),
            (None, false) => format!("; all {all} hosts of {file}"),
            (None, true) => {
                format!("; of the {all} hosts of {file} those that --limit-hosts chooses")
            }
        };
        Some(format!("scap folder: {}{hosts}", found.place))
    }

    /// What stands above the folder.
    pub(super) fn overrides(&self) -> Overrides {
        Overrides {
            environment: self.environment.clone(),
            defines: self.keys.defines.clone(),
            conf: self.keys.conf.clone(),
            is_local_left_out: self.keys.no_local_config.unwrap_or(false),
            host_name: match &self.keys.host_name {
                Some(name) => HostName::Said(name.clone()),
                None => HostName::of_machine(),
            },
        }
    }
}
