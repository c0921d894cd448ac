//! `deploy --dry-run`: what would be done, and what would change in config files, from what is here. It writes nothing and contacts
//! nobody; with `--ask-hosts` it also has hosts say what would change there.

use std::time::Duration;

use bytes::Bytes;
use scap_proto::{content::EncodedChunk, id::ChunkId};
use serde_json::{Value, json};

use super::{
    DeployArgs, about,
    asked::Finder,
    config_diff::ConfigDiff,
    find,
    on_hosts::{Asker, OnHosts},
    read_inventory, size_of, stages,
    targets::Targets,
};
use crate::{
    cli::{CliError, exit, human_bytes},
    rollout::Wave,
    snapshot::{ChunkSink, SinkError},
    state::StateDirectory,
};

pub(super) async fn run(args: DeployArgs) -> Result<u8, CliError> {
    let fleet = read_inventory(&args.fleet)?;
    // That it is one, and no more: its lock is for those who write.
    let state = StateDirectory::open(&args.state.state)
        .map_err(|error| CliError::failed("read the state", &error).hint(error.hint()))?;
    let (tree, scap, notes) = find(&args, &fleet)?;
    notes.iter().for_each(|note| eprintln!("{note}"));
    let (repo, environment) = about(&args, &scap)?;
    let targets = Targets::of(fleet, &scap, &args)?;
    let policy = &targets.policy;
    let commit = tree
        .commit()
        .map(|commit| (commit.id.to_string(), commit.subject.clone()));
    let place = (repo.clone(), environment.clone());
    let about = place.clone();
    let work = move || {
        let finder = Finder {
            args: &args,
            state: &state,
            tree: &tree,
            scap: &scap,
        };
        let new = finder.deployed()?;
        let config = ConfigDiff::of(&new, finder.live(&about)?)?;
        Ok::<_, CliError>((tree.measure(&Nowhere)?, new, config, args, state))
    };
    let (built, new, config, args, state) = tokio::task::spawn_blocking(work)
        .await
        .expect("building does not panic")?;
    let hosts = new.hosts.as_ref();
    let asker = Asker {
        state: &state,
        sign_with: args.sign_with.as_deref(),
        reach_max: Duration::from_secs(args.how.connect_timeout),
    };
    let asking = async {
        let all = &targets.inventory.hosts;
        eprintln!("asking {} hosts", all.len());
        asker.ask(&place, all, &new).await
    };
    if args.json {
        let on_hosts = match args.ask_hosts {
            true => Some(asking.await?),
            false => None,
        };
        let names = policy.waves.iter().flat_map(Wave::hosts);
        let names: Vec<&str> = names.map(|host| host.as_str()).collect();
        let waves: Vec<Value> = policy.waves.iter().map(wave_json).collect();
        let object = json!({
            "schema": "scap.dry-run/1",
            "repo": repo.as_str(),
            "environment": environment.as_str(),
            "commit": commit.as_ref().map(|(id, _)| id),
            "snapshot": built.snapshot.id.to_string(),
            "snapshot_bytes": built.descriptor.totals.bytes,
            "snapshot_encoded_bytes": built.all.encoded_bytes,
            "snapshot_entries": built.descriptor.totals.entries,
            "prefetch": policy.prefetch.to_string(),
            "waves": waves,
            "asked": stages::json(hosts),
            "config": config.files_json(&names),
            "config_live": config.live_json(),
            "on_hosts": on_hosts.as_ref().map(OnHosts::json),
        });
        println!("{object}");
        return Ok(on_hosts.map_or(exit::DONE, |said| said.code()));
    }
    let shown =
        commit.map(|(id, subject)| format!("  {} \"{}\"", &id[..10], subject.escape_debug()));
    println!(
        "would deploy {repo} to {}{}",
        environment,
        shown.unwrap_or_default()
    );
    println!(
        "snapshot {:.8}  {}",
        built.snapshot.id.to_string(),
        size_of(&built)
    );
    let encoded = built.all.encoded_bytes;
    println!(
        "the seed would send about {} where no host holds any of it",
        human_bytes(encoded)
    );
    let asked = hosts.and_then(stages::line);
    let lines = plan_lines(&targets).into_iter().chain(asked);
    for line in lines.chain(config.lines()) {
        println!("{line}");
    }
    if !args.ask_hosts {
        println!("nothing was written, and no host was contacted");
        return Ok(exit::DONE);
    }
    let said = asking.await?;
    for line in said.lines() {
        println!("{line}");
    }
    Ok(said.code())
}

/// How the release would go through the fleet, a line a wave.
pub(super) fn plan_lines(targets: &Targets) -> Vec<String> {
    let Targets { inventory, policy } = targets;
    let waves = policy.waves.iter().map(|wave| {
        let mut line = format!("wave {}  {} hosts", wave.name, wave.hosts().count());
        if wave.groups.len() > 1 {
            line += &format!(" in {} groups", wave.groups.len());
        }
        for limit in &wave.limits {
            let of = limit.of.strip_suffix(&format!(" of wave {}", wave.name));
            let of = of.map(|of| format!(" in {of}"));
            line += &format!("  may lose {}{}", limit.allowed, of.unwrap_or_default());
        }
        if !wave.soak.is_zero() {
            line += &format!("  soaks {} s", wave.soak.as_secs());
        }
        if wave.needs_approval {
            line += "  needs approval";
        }
        line
    });
    let hosts = inventory.hosts.len();
    let fetch = format!("{hosts} hosts, fetching ahead: {}", policy.prefetch);
    std::iter::once(fetch).chain(waves).collect()
}

fn wave_json(wave: &Wave) -> Value {
    let limits = wave.limits.iter();
    let limits: Vec<Value> = limits
        .map(
            |limit| json!({ "of": limit.of, "hosts": limit.hosts.len(), "allowed": limit.allowed }),
        )
        .collect();
    let groups: Vec<Vec<&str>> = wave
        .groups
        .iter()
        .map(|group| group.iter().map(|host| host.as_str()).collect())
        .collect();
    json!({
        "name": wave.name,
        "groups": groups,
        "limits": limits,
        "soak_seconds": wave.soak.as_secs(),
        "approval": wave.needs_approval,
    })
}

/// Takes chunks, and keeps none.
pub(super) struct Nowhere;

impl ChunkSink for Nowhere {
    fn encoded_length(&self, _: &ChunkId) -> Option<u32> {
        None
    }

    fn plain(&self, _: &ChunkId) -> Result<Option<Bytes>, SinkError> {
        Ok(None)
    }

    fn put(&self, _: &EncodedChunk) -> Result<(), SinkError> {
        Ok(())
    }
}
