//! What a release asks of hosts: its config snapshot, in the store before the release names it.

use scap_agent::store::Store;
use scap_proto::{
    content::SnapshotRef,
    release::{HostConfig, host_config::ServiceAction},
};
use serde_json::{Value, json};

use super::{DeployArgs, asked};
use crate::{
    cli::{About, CliError, exit},
    rollout::Steps,
    scap::Scap,
    snapshot,
    state::StateDirectory,
};

/// Puts the config snapshot into the store, which is to be synced then; `None` where hosts are asked to do nothing. What is
/// gone back to, or gone on with, has its own, whatever the folder says now. Blocking.
pub(super) fn pack(
    scap: &Scap,
    args: &DeployArgs,
    store: &Store,
) -> Result<Option<SnapshotRef>, CliError> {
    let back_to = args.back_to.as_ref();
    let back_to = back_to.map(|it| (it.sequence, it.config, &it.commit));
    let go_on = args.go_on.as_ref();
    let go_on = go_on.map(|it| (it.sequence, it.config, &it.commit));
    let given = args.given.as_ref();
    let given = given.map(|it| (it.release.sequence, it.release.config, &it.release.commit));
    let Some((sequence, config, commit)) = go_on.or(back_to).or(given) else {
        return packed(scap, store);
    };
    let Some(config) = config else {
        return Ok(None);
    };
    let Err(missing) = snapshot::stored(config, store) else {
        return Ok(Some(config));
    };
    // Where the folder is in the commit it is as it was.
    if packed(scap, store)? == Some(config) {
        return Ok(Some(config));
    }
    let doing = format!("find what release #{sequence} asked of hosts");
    let commit = commit.as_ref().map(ToString::to_string);
    let commit = commit.map_or_else(String::new, |commit| format!(" --rev {commit}"));
    Err(CliError::failed(&doing, &missing)
        .code(exit::USAGE)
        .hint(format!(
            "the scap folder is another now, and `deploy{commit}` releases that tree with it; or give the old one with --scap"
        )))
}

/// How long hosts may be at what a config snapshot in the store asks. Blocking.
pub(super) fn steps(config: Option<SnapshotRef>, store: &Store) -> Result<Steps, CliError> {
    let Some(config) = config else {
        return Ok(Steps::default());
    };
    let asked = asked::in_store(config, store);
    let asked = asked.map_err(|error| CliError::failed("read what hosts are asked", &error))?;
    Ok(asked.as_ref().map(Steps::from).unwrap_or_default())
}

/// The same by what the folder says, whatever was made before. Blocking.
pub(super) fn packed(scap: &Scap, store: &Store) -> Result<Option<SnapshotRef>, CliError> {
    let built = scap.pack(store);
    let built = built.map_err(|error| {
        CliError::failed("pack what hosts are asked", &error)
            .code(exit::USAGE)
            .hint(error.hint())
    })?;
    Ok(built.map(|built| built.snapshot))
}

/// Keeps the chunks of a release's config snapshot beside those of the tree.
pub(super) fn keep(
    state: &StateDirectory,
    (repo, environment): &About,
    config: Option<SnapshotRef>,
) -> Result<(), CliError> {
    let Some(config) = config else {
        return Ok(());
    };
    state
        .keep_config(repo, environment, config)
        .map_err(|error| CliError::failed("keep what hosts are asked", &error).hint(error.hint()))
}

/// What hosts are asked, for programs; of `None` nothing is.
pub(super) fn json(hosts: Option<&HostConfig>) -> Value {
    let hosts = hosts.into_iter();
    let files = hosts.clone().flat_map(|hosts| &hosts.config_files);
    let files = files.map(|file| file.destination.to_string());
    let checks = hosts.clone().flat_map(|hosts| &hosts.checks);
    let checks = checks.map(|check| check.name.as_str());
    let units = hosts.flat_map(|hosts| &hosts.services.units);
    let units = units.map(|unit| unit.name.as_str());
    json!({
        "config_files": files.collect::<Vec<_>>(),
        "checks": checks.collect::<Vec<_>>(),
        "services": units.collect::<Vec<_>>(),
    })
}

/// What hosts are asked, in a line; `None` where that is nothing.
pub(super) fn line(hosts: &HostConfig) -> Option<String> {
    if hosts.asks_nothing() {
        return None;
    }
    let count = |count: usize, what: &str| match count {
        0 => None,
        1 => Some(format!("1 {what}")),
        count => Some(format!("{count} {what}s")),
    };
    let units = hosts.services.units.iter().map(|unit| {
        let action = match unit.action {
            ServiceAction::Restart => "restart",
            ServiceAction::Reload => "reload",
        };
        format!("{action} {}", unit.name.escape_debug())
    });
    let asked: Vec<String> = [
        count(hosts.config_files.len(), "config file"),
        count(hosts.checks.len(), "check"),
    ]
    .into_iter()
    .flatten()
    .chain(units)
    .collect();
    Some(format!("on each host: {}", asked.join(", ")))
}
