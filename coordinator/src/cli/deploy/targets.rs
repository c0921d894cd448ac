//! Who is deployed to: the hosts that the scap folder names, where the fleet file says they are, in their waves.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use scap_proto::id::NodeId;

use crate::{
    cli::{CliError, exit},
    fleet::Inventory,
    rollout::Wave,
    scap::{Group, Scap, Selection, select},
};

/// Who takes part in a deployment.
pub(super) struct Targets {
    /// The fleet without all others.
    pub(super) inventory: Inventory,
    /// In their order; no host is in two.
    pub(super) waves: Vec<Wave>,
}

impl Targets {
    /// The server groups of `scap` in their order, each as its sub-groups; where it names none, the canary group of the fleet file and
    /// then the rest. Of these, none but those of `selection`.
    pub(super) fn of(
        fleet: Inventory,
        fleet_file: &Path,
        scap: &Scap,
        selection: Option<&Selection>,
    ) -> Result<Self, CliError> {
        let waves = match &scap.groups {
            None => of_fleet(&fleet, selection)?,
            Some(groups) => {
                let chosen = selection.map(|selection| select(groups, selection));
                let chosen = chosen
                    .transpose()
                    .map_err(|error| nobody(&error.to_string()))?;
                let groups = chosen.as_ref().unwrap_or(groups);
                check_known(groups, &fleet, fleet_file)?;
                groups.iter().flat_map(of_group).collect()
            }
        };
        if scap.groups.is_none() && selection.is_none() {
            return Ok(Self {
                inventory: fleet,
                waves,
            });
        }
        let places = waves.iter().enumerate();
        let places: BTreeMap<NodeId, usize> = places
            .flat_map(|(at, wave)| wave.hosts.iter().map(move |host| (host.clone(), at)))
            .collect();
        let inventory = fleet.only(&places).map_err(|error| {
            CliError::failed("choose who is deployed to", &error).code(exit::USAGE)
        })?;
        Ok(Self { inventory, waves })
    }

    /// How many hosts each wave has, for people.
    pub(super) fn sizes(&self) -> String {
        let sizes = self
            .waves
            .iter()
            .map(|wave| format!("{} {}", wave.hosts.len(), wave.name));
        sizes.collect::<Vec<_>>().join(", ")
    }
}

/// The canary group, then the rest.
fn of_fleet(fleet: &Inventory, selection: Option<&Selection>) -> Result<Vec<Wave>, CliError> {
    let (canary, rest) = fleet.waves();
    let is_chosen = |host: &NodeId| selection.is_none_or(|selection| selection.has(host));
    let wave = |name: &str, hosts: BTreeSet<NodeId>, is_gate| Wave {
        name: name.into(),
        hosts: hosts.into_iter().filter(is_chosen).collect(),
        is_gate,
    };
    let mut waves = vec![wave("canary", canary, true), wave("rest", rest, false)];
    waves.retain(|wave| !wave.hosts.is_empty());
    match waves.is_empty() {
        true => Err(nobody(&format!(
            "none of the {} hosts is chosen",
            fleet.hosts.len()
        ))),
        false => Ok(waves),
    }
}

fn nobody(reason: &str) -> CliError {
    CliError::usage(format!("choose who is deployed to: {reason}"))
        .hint("--limit-hosts takes a name, a pattern like `web[01:10]*`, `~` and a regular expression, or `!` and what not".to_owned())
}

/// A group, as its sub-groups. Whoever may fail does not stop the rollout.
fn of_group(group: &Group) -> impl Iterator<Item = Wave> {
    let count = group.sub_groups().count();
    group
        .sub_groups()
        .enumerate()
        .map(move |(at, targets)| Wave {
            name: match count {
                1 => group.name.clone(),
                _ => format!("{} {}/{count}", group.name, at + 1),
            },
            hosts: targets.iter().map(|target| target.host.clone()).collect(),
            is_gate: group.failures_max() == 0,
        })
}

/// The fleet file says where each host is.
fn check_known(groups: &[Group], fleet: &Inventory, fleet_file: &Path) -> Result<(), CliError> {
    let is_known = |host: &NodeId| fleet.hosts.binary_search_by(|it| it.name.cmp(host)).is_ok();
    let mut unknown = groups
        .iter()
        .flat_map(|group| &group.targets)
        .filter(|target| !is_known(&target.host));
    let Some(first) = unknown.next() else {
        return Ok(());
    };
    let more = match unknown.count() {
        0 => String::new(),
        more => format!(", nor are {more} more"),
    };
    let (at, host, file) = (&first.at, &first.host, fleet_file.display());
    Err(CliError::usage(format!(
        "find the hosts: {at}: host {host} is not in the fleet file {file}{more}"
    ))
    .hint(format!(
        "add `[[host]]` with name {host} and its address to {file}, or take it off the list"
    )))
}
