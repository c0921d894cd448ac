//! What a scap folder asks of hosts and what hosts of this version do not do.

use scap_proto::content::SnapshotRef;

use clap::Args;
use scap_proto::release::host_config::Destination;
use serde_json::{Value, json};

use crate::{cli::CliError, scap::Scap};

/// The config snapshot that a release names: none, since agents of this version fetch no chunks but those of the tree, and a
/// release is not to name what its hosts do not have. [`Scap::pack`] builds it.
pub(super) const CONFIG_SNAPSHOT: Option<SnapshotRef> = None;

/// Whether what hosts do not do may be left out.
#[derive(Debug, Clone, Default, Args)]
pub(in crate::cli) struct StagesArgs {
    /// Deploy although the scap folder asks for config files, checks or services: hosts of this version render, run and restart
    /// nothing, so none of these is done and a broken release is not noticed by them
    #[arg(long)]
    without_stages: bool,
}

impl StagesArgs {
    /// That nothing is left out but by somebody's word; with that, what is, for people.
    pub(super) fn check(&self, scap: &Scap) -> Result<Option<String>, CliError> {
        let left_out = LeftOut::of(scap).0;
        if left_out.is_empty() {
            return Ok(None);
        }
        let things: Vec<String> = left_out
            .iter()
            .map(|(kind, name)| format!("{kind} {}", name.escape_debug()))
            .collect();
        let things = things.join(", ");
        if self.without_stages {
            let warning = format!("warning: left out, since hosts do not do it: {things}");
            return Ok(Some(warning));
        }
        let problem =
            format!("the scap folder asks for what hosts of this version do not do: {things}");
        Err(CliError::usage(problem).hint(
            "--without-stages deploys without; so do -D config_deploy:false, -D perform_checks:false and -D service_name: for \
             each of them"
                .to_owned(),
        ))
    }
}

/// What the folder asks of hosts and is not done: of which kind, and what it is called.
pub(super) struct LeftOut(Vec<(&'static str, String)>);

impl LeftOut {
    pub(super) fn of(scap: &Scap) -> Self {
        let hosts = &scap.hosts;
        let files = hosts
            .config_files
            .iter()
            .map(|file| match &file.destination {
                Destination::OnHost(path) => ("config file", path.to_string()),
                Destination::InRelease(path) => ("config file", path.to_string()),
            });
        let checks = hosts.checks.iter();
        let checks = checks.map(|check| ("check", check.name.to_string()));
        let units = hosts.services.units.iter();
        let units = units.map(|unit| ("service", unit.name.to_string()));
        Self(files.chain(checks).chain(units).collect())
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let things = self.0.iter();
        let things = things.map(|(kind, name)| json!({ "kind": kind, "name": name }));
        things.collect()
    }
}
