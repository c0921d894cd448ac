//! `config`: what a scap folder says in the end, and who says so.

use clap::Args;
use scap_proto::{
    id::NodeId,
    release::host_config::{Command, Moment, ServiceAction},
};
use serde_json::{Value, json};

use super::{CliError, SourceArgs, exit, scap::ScapArgs, snapshot::Tree};
use crate::scap::{Found, Group, Origin, Scap, Target};

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// The revision whose scap folder is read
    #[arg(long, value_name = "REV", default_value = "HEAD")]
    rev: String,
    #[command(flatten)]
    scap: ScapArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ConfigArgs) -> Result<u8, CliError> {
    let tree = Tree::find(&args.source, &args.rev)?;
    let (found, scap) = args.scap.read(&args.source, &tree)?;
    if args.json {
        println!(
            "{}",
            object(&found, &scap, args.scap.overrides().host_name.as_str())
        );
    } else {
        print(&found, &scap);
    }
    Ok(exit::DONE)
}

fn print(found: &Found, scap: &Scap) {
    println!("scap folder: {}", found.place);
    let environment = scap.environment.clone().unwrap_or_default();
    println!("environment: {environment}");
    let width = scap.settings.iter().map(|(key, _)| key.len()).max();
    let width = width.unwrap_or_default();
    for (key, setting) in scap.settings.iter() {
        let value = setting.value.escape_debug();
        println!("  {key:width$}  {value}  ({})", setting.at);
    }
    match &scap.groups {
        None => println!("groups: those of the fleet file"),
        Some(_) => println!("groups:"),
    }
    for group in scap.groups.iter().flatten() {
        println!("  {}: {}", group.name, summary(group));
    }
    for (host, site, at) in sites(scap) {
        println!("  {host} is in site {} ({at})", site.escape_debug());
    }
    println!("on each host:");
    let hosts = &scap.hosts;
    for file in &hosts.config_files {
        println!(
            "  config file {} from templates/{}",
            file.destination, file.template
        );
    }
    for check in &hosts.checks {
        let group = check
            .group
            .as_ref()
            .map(|group| format!(", in group {group} only"));
        let (name, stage) = (check.name.escape_debug(), check.stage.name());
        println!(
            "  check {name} {} {stage}{}",
            moment(check.moment),
            group.unwrap_or_default()
        );
    }
    for service in &hosts.services.units {
        println!("  {} {}", action(service.action), service.name);
    }
    println!("  keep {} releases", hosts.cache_revs);
    for notice in &scap.notices {
        println!("note: {notice}");
    }
}

fn summary(group: &Group) -> String {
    let hosts = group.targets.len();
    let size = group.group_size.map(|size| format!(", {size} at a time"));
    let approval = match group.needs_approval {
        true => ", once a person lets it",
        false => "",
    };
    let soak = match group.soak.as_secs_f64() {
        0.0 => String::new(),
        seconds => format!(", then {seconds} s of soak"),
    };
    let each = [
        ("site", group.failure_limit_per_site),
        ("rack", group.failure_limit_per_rack),
    ];
    let each = each.into_iter().filter_map(|(domain, limit)| {
        let limit = limit?;
        Some(format!(" ({limit} of each {domain})"))
    });
    let each: String = each.collect();
    let size = size.unwrap_or_default();
    let elsewhere = match &*group.elsewhere {
        [] => String::new(),
        [one] => format!(" ({} goes with a group before it)", one.host),
        [first, more @ ..] => format!(
            " ({} and {} more go with groups before it)",
            first.host,
            more.len()
        ),
    };
    format!(
        "{hosts} hosts{elsewhere}{size}{approval}, at most {} may fail{each}{soak}",
        group.failures_max()
    )
}

/// Where the hosts of the groups stand, as far as the folder says it; none is in two sites.
fn sites(scap: &Scap) -> impl Iterator<Item = (&NodeId, &str, &Origin)> {
    let targets = scap
        .groups
        .iter()
        .flatten()
        .flat_map(|group| &group.targets);
    targets.filter_map(|target| {
        let (site, at) = scap.sites.site_of(&target.host).ok()??;
        Some((&target.host, site, at))
    })
}

fn object(found: &Found, scap: &Scap, host_name: &str) -> Value {
    let settings = scap.settings.iter().map(|(key, setting)| {
        let said = json!({ "value": setting.value, "from": setting.at.to_string() });
        (key.to_owned(), said)
    });
    let settings: serde_json::Map<String, Value> = settings.collect();
    let groups = scap.groups.as_ref().map(|groups| {
        let group = |group: &Group| {
            let named = |targets: &[Target]| {
                let named = targets.iter().map(
                    |target| json!({ "name": target.host.as_str(), "from": target.at.to_string() }),
                );
                named.collect::<Vec<_>>()
            };
            json!({
                "name": group.name,
                "hosts": named(&group.targets),
                "elsewhere": named(&group.elsewhere),
                "group_size": group.group_size,
                "failures_max": group.failures_max(),
                "failures_max_per_site": group.failure_limit_per_site.map(|limit| limit.to_string()),
                "failures_max_per_rack": group.failure_limit_per_rack.map(|limit| limit.to_string()),
                "approval": group.needs_approval,
                "soak_seconds": group.soak.as_secs_f64(),
            })
        };
        groups.iter().map(group).collect::<Vec<_>>()
    });
    let hosts = &scap.hosts;
    let config_files = hosts.config_files.iter().map(|file| {
        json!({
            "destination": file.destination.to_string(),
            "template": file.template.to_string(),
            "remote_vars": file.remote_vars.as_ref().map(ToString::to_string),
        })
    });
    let checks = hosts.checks.iter().map(|check| {
        let (kind, command) = match &check.command {
            Command::Program(words) => ("command", json!(words)),
            Command::Shell(line) => ("shell", json!(line)),
            Command::Nrpe(name) => ("nrpe", json!(name)),
            Command::Script { path, arguments } => {
                let words = std::iter::once(path.to_string()).chain(arguments.iter().cloned());
                ("script", words.collect())
            }
        };
        json!({
            "name": check.name,
            "type": kind,
            "command": command,
            "when": format!("{} {}", moment(check.moment), check.stage.name()),
            "group": check.group,
            "timeout_seconds": f64::from(check.timeout_millis.get()) / 1000.0,
        })
    });
    let services = hosts.services.units.iter().map(|service| {
        json!({
            "name": service.name,
            "action": action(service.action),
            "disabled_on_secondary": service.is_disabled_on_secondary,
        })
    });
    let vars: Value = serde_json::from_str(&hosts.vars).unwrap_or_default();
    json!({
        "schema": "scap.config/1",
        "folder": found.place.to_string(),
        "host_name": host_name,
        "environment": scap.environment.clone().unwrap_or_default().as_str(),
        "settings": settings,
        "groups": groups,
        "sites": sites(scap).map(|(host, site, _)| (host.to_string(), json!(site))).collect::<serde_json::Map<_, _>>(),
        "config_files": config_files.collect::<Vec<_>>(),
        "vars": vars,
        "checks": checks.collect::<Vec<_>>(),
        "services": services.collect::<Vec<_>>(),
        "notes": scap.notices.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn moment(moment: Moment) -> &'static str {
    match moment {
        Moment::Before => "before",
        Moment::After => "after",
    }
}

fn action(action: ServiceAction) -> &'static str {
    match action {
        ServiceAction::Restart => "restart",
        ServiceAction::Reload => "reload",
    }
}
