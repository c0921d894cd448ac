//! Who is deployed to, and how: the hosts that the scap folder names, where the fleet file says they are, in their waves.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use scap_proto::{id::NodeId, identity::Denial};

use super::{DeployArgs, GoOn, no_fleet};
use crate::{
    cli::{CliError, exit},
    fleet::{Host, Inventory},
    rollout::{Budget, Policy, Wave},
    scap::{Group, Scap, Selection, select},
};

/// Who takes part in a deployment.
pub(super) struct Targets {
    /// The fleet without all others.
    pub(super) inventory: Inventory,
    /// Their waves.
    pub(super) policy: Policy,
    /// Who would take part and is revoked, with why.
    pub(super) revoked: BTreeMap<NodeId, Denial>,
}

impl Targets {
    /// The server groups of `scap` in their order, each a wave; where it names none, what the fleet file says. Of these, none but those
    /// that the flags choose, and with what the flags say over it.
    ///
    /// Hosts in `revoked` take no part. What is deployed is for all others nonetheless: one that is enrolled again may have it.
    pub(super) fn of(
        fleet: Inventory,
        scap: &Scap,
        args: &DeployArgs,
        mut revoked: BTreeMap<NodeId, Denial>,
    ) -> Result<Self, CliError> {
        let fleet = as_folder_says(fleet, scap, &args.fleet)?;
        let selection = args.how.limit_hosts.as_ref();
        let mut policy = match &scap.groups {
            None => of_fleet(&fleet, selection, args)?,
            Some(groups) => {
                let chosen = selection.map(|selection| select(groups, selection));
                let chosen = chosen
                    .transpose()
                    .map_err(|error| nobody(&error.to_string()))?;
                let count =
                    |groups: &[Group]| groups.iter().map(|it| it.targets.len()).sum::<usize>();
                let is_limited = chosen
                    .as_ref()
                    .is_some_and(|chosen| count(chosen) < count(groups));
                let groups = chosen.as_ref().unwrap_or(groups);
                check_known(groups, &fleet, &args.fleet)?;
                let mut policy = of_groups(groups, &fleet, args);
                policy.is_limited = is_limited || scap.left_out().next().is_some();
                policy
            }
        };
        if goes_back(args) {
            // A person said so by going back.
            for wave in &mut policy.waves {
                wave.needs_approval = false;
            }
        }
        let taking_part: BTreeSet<NodeId> =
            policy.waves.iter().flat_map(Wave::hosts).cloned().collect();
        revoked.retain(|host, _| taking_part.contains(host));
        if !revoked.is_empty() {
            let is_limited = policy.is_limited;
            policy = policy.limited_to(|host| !revoked.contains_key(host));
            policy.is_limited = is_limited;
            if policy.waves.is_empty() {
                return Err(CliError::usage(
                    "choose who is deployed to: all hosts are revoked",
                ));
            }
        }
        if scap.groups.is_none() && selection.is_none() && revoked.is_empty() {
            return Ok(Self {
                inventory: fleet,
                policy,
                revoked,
            });
        }
        let places = policy.waves.iter().enumerate();
        let places: BTreeMap<NodeId, usize> = places
            .flat_map(|(at, wave)| wave.hosts().map(move |host| (host.clone(), at)))
            .collect();
        let inventory = fleet.only(&places).map_err(|error| {
            CliError::failed("choose who is deployed to", &error).code(exit::USAGE)
        })?;
        Ok(Self {
            inventory,
            policy,
            revoked,
        })
    }
}

/// The fleet with what the folder says of all of it over what its file says.
fn as_folder_says(mut fleet: Inventory, scap: &Scap, file: &Path) -> Result<Inventory, CliError> {
    let said = &scap.rollout;
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs());
    let table = &mut fleet.rollout;
    table.prefetch = said.prefetch.unwrap_or(table.prefetch);
    table.deadline = seconds(said.deadline).or(table.deadline);
    table.dead_man = seconds(said.dead_man).or(table.dead_man);
    for host in &mut fleet.hosts {
        let site = scap.sites.site_of(&host.name).map_err(|error| {
            CliError::failed("read the scap folder", &error)
                .code(exit::USAGE)
                .hint(error.hint())
        })?;
        let Some((site, at)) = site else { continue };
        if !host.site.is_empty() && host.site != site {
            let (name, other, file) = (&host.name, &host.site, file.display());
            return Err(CliError::usage(format!(
                "find where hosts stand: {at}: host {name} is in site {site:?}, and in {other:?} by the fleet file {file}"
            ))
            .hint("say it in one of them".to_owned()));
        }
        site.clone_into(&mut host.site);
    }
    fleet.check_sites().map_err(|error| no_fleet(&error))?;
    Ok(fleet)
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
    let none = goes_back(args).then_some(Duration::ZERO);
    args.how.soak.or(none)
}

/// Whether it is a rollback, or goes on with one.
fn goes_back(args: &DeployArgs) -> bool {
    let goes_on_back = |go_on: &GoOn| go_on.rolls_back_to.is_some();
    args.back_to.is_some() || args.go_on.as_ref().is_some_and(goes_on_back)
}

fn nobody(reason: &str) -> CliError {
    CliError::usage(format!("choose who is deployed to: {reason}"))
        .hint("--limit-hosts takes a name, a pattern like `web[01:10]*`, `~` and a regular expression, or `!` and what not".to_owned())
}

/// A wave a group, whose sub-groups promote one after the other.
fn of_groups(groups: &[Group], fleet: &Inventory, args: &DeployArgs) -> Policy {
    let by_name: BTreeMap<&NodeId, &Host> =
        fleet.hosts.iter().map(|host| (&host.name, host)).collect();
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
        let in_each_site = group.failure_limit_per_site.or(fleet.rollout.site_budget);
        let in_each_rack = group.failure_limit_per_rack.or(fleet.rollout.rack_budget);
        wave.losing(flag.unwrap_or(Budget::Count(group.failures_max())))
            .losing_in_each("site", in_each_site, |host| &by_name[host].site)
            .losing_in_each("rack", in_each_rack, |host| &by_name[host].rack)
            .soaking(soak(args).unwrap_or(group.soak))
            .with_approval(group.needs_approval)
    });
    Policy {
        waves: waves.collect(),
        prefetch: args.how.prefetch.unwrap_or(fleet.rollout.prefetch),
        is_limited: false,
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
