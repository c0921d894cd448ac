//! Who is deployed to, and how: the hosts that the scap folder names, where the fleet file says they are, in their waves.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use scap_proto::id::NodeId;

use super::{DeployArgs, GoOn};
use crate::{
    cli::{CliError, exit},
    fleet::Inventory,
    rollout::{Budget, Policy, Wave},
    scap::{Group, Scap, Selection, select},
};

/// Who takes part in a deployment.
pub(super) struct Targets {
    /// The fleet without all others.
    pub(super) inventory: Inventory,
    /// Their waves.
    pub(super) policy: Policy,
}

impl Targets {
    /// The server groups of `scap` in their order, each a wave; where it names none, what the fleet file says. Of these, none but those
    /// that the flags choose, and with what the flags say over it.
    pub(super) fn of(fleet: Inventory, scap: &Scap, args: &DeployArgs) -> Result<Self, CliError> {
        let selection = args.how.limit_hosts.as_ref();
        let policy = match &scap.groups {
            None => of_fleet(&fleet, selection, args)?,
            Some(groups) => {
                let chosen = selection.map(|selection| select(groups, selection));
                let chosen = chosen
                    .transpose()
                    .map_err(|error| nobody(&error.to_string()))?;
                let groups = chosen.as_ref().unwrap_or(groups);
                check_known(groups, &fleet, &args.fleet)?;
                of_groups(groups, &fleet, args)
            }
        };
        if scap.groups.is_none() && selection.is_none() {
            return Ok(Self {
                inventory: fleet,
                policy,
            });
        }
        let places = policy.waves.iter().enumerate();
        let places: BTreeMap<NodeId, usize> = places
            .flat_map(|(at, wave)| wave.hosts().map(move |host| (host.clone(), at)))
            .collect();
        let inventory = fleet.only(&places).map_err(|error| {
            CliError::failed("choose who is deployed to", &error).code(exit::USAGE)
        })?;
        Ok(Self { inventory, policy })
    }
}

/// The policy of the fleet file.
fn of_fleet(
    fleet: &Inventory,
    selection: Option<&Selection>,
    args: &DeployArgs,
) -> Result<Policy, CliError> {
    let mut table = fleet.rollout.clone();
    if let Some(prefetch) = args.how.prefetch {
        table.prefetch = prefetch;
    }
    if let Some(soak) = soak(args) {
        table.soak = soak.as_secs();
        table.waves.iter_mut().for_each(|wave| wave.soak = None);
    }
    if let Some(budget) = args.how.budget {
        table.budget = Some(budget);
        // The only wave has it too; the first of several is nobody's to lose but by its own word.
        let is_single = table
            .policy(&fleet.hosts)
            .is_ok_and(|it| it.waves.len() == 1);
        let later = table.waves.iter_mut().skip(usize::from(!is_single));
        later.for_each(|wave| wave.budget = None);
    }
    let policy = table.policy(&fleet.hosts);
    let policy = policy.map_err(|e| CliError::failed("plan the waves", &e).code(exit::USAGE))?;
    let Some(selection) = selection else {
        return Ok(policy);
    };
    let policy = policy.limited_to(|host| selection.has(host));
    match policy.waves.is_empty() {
        true => Err(nobody(&format!(
            "none of the {} hosts is chosen",
            fleet.hosts.len()
        ))),
        false => Ok(policy),
    }
}

/// How long each wave soaks, where that is not for the scap folder or the fleet file to say: what is gone back to was
/// watched when it was new.
fn soak(args: &DeployArgs) -> Option<Duration> {
    let goes_on_back = |go_on: &GoOn| go_on.rolls_back_to.is_some();
    let goes_back = args.back_to.is_some() || args.go_on.as_ref().is_some_and(goes_on_back);
    args.how.soak.or(goes_back.then_some(Duration::ZERO))
}

fn nobody(reason: &str) -> CliError {
    CliError::usage(format!("choose who is deployed to: {reason}"))
        .hint("--limit-hosts takes a name, a pattern like `web[01:10]*`, `~` and a regular expression, or `!` and what not".to_owned())
}

/// A wave a group, whose sub-groups promote one after the other.
fn of_groups(groups: &[Group], fleet: &Inventory, args: &DeployArgs) -> Policy {
    let waves = groups.iter().enumerate().map(|(at, group)| {
        let hosts = |targets: &[_]| -> BTreeSet<NodeId> {
            let hosts = targets
                .iter()
                .map(|target: &crate::scap::Target| &target.host);
            hosts.cloned().collect()
        };
        // As with the fleet file, the first of several waves is nobody's to lose but by its own word.
        let flag = args.how.budget.filter(|_| at > 0 || groups.len() == 1);
        let mut wave = Wave::new(&group.name, hosts(&group.targets));
        wave.groups = group.sub_groups().map(hosts).collect();
        wave.losing(flag.unwrap_or(Budget::Count(group.failures_max())))
            .soaking(soak(args).unwrap_or(group.soak))
    });
    Policy {
        waves: waves.collect(),
        prefetch: args.how.prefetch.unwrap_or(fleet.rollout.prefetch),
    }
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
