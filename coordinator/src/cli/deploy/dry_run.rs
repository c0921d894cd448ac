//! `deploy --dry-run`: what would be done, and what would change in config files, from what is here. It writes nothing and contacts
//! nobody; with `--ask-hosts` it also has hosts say what would change there.

use std::{num::NonZeroUsize, time::Duration};

use bytes::Bytes;
use scap_agent::store::StoreReader;
use scap_proto::{content::EncodedChunk, id::ChunkId};
use serde_json::json;

use super::{
    About, DeployArgs, about,
    asked::Finder,
    config_diff::ConfigDiff,
    find,
    on_hosts::{Asker, OnHosts},
    planned::{Planned, SeedBytes, as_recorded},
    read_inventory, size_of,
    targets::Targets,
    threshold,
};
use crate::{
    cli::{CliError, exit},
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
    if args.ask_hosts {
        refuse_one_key(&state, &(repo.clone(), environment.clone()))?;
    }
    let revoked = state
        .revoked()
        .map_err(|error| CliError::failed("read the state", &error).hint(error.hint()))?;
    let targets = Targets::of(fleet, &scap, &args, revoked)?;
    let policy = &targets.policy;
    let commit = tree
        .commit()
        .map(|commit| (commit.id.to_string(), commit.clone()));
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
        let recorded = as_recorded(&args, &tree, &state, &about)?;
        // Where nothing was deployed from here there is no store.
        let here = Here(StoreReader::open(state.store()).ok());
        let built = tree.measure(&here)?;
        Ok::<_, CliError>((built, new, config, recorded, tree, args, state))
    };
    let (built, new, config, (from, lock), tree, args, state) = tokio::task::spawn_blocking(work)
        .await
        .expect("building does not panic")?;
    let planned = Planned {
        about: &place,
        release: None,
        from,
        to: tree.commit(),
        built: &built,
        policy,
        asked: new.hosts.as_ref(),
        seed_bytes: SeedBytes::Between(built.new.encoded_bytes, built.all.encoded_bytes),
        lock,
        away: None,
        revoked: &targets.revoked,
    };
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
        let plan = planned.json();
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
            "waves": plan["waves"],
            "asked": plan["asked"],
            "plan": plan,
            "config": config.files_json(&names),
            "config_live": config.live_json(),
            "on_hosts": on_hosts.as_ref().map(OnHosts::json),
        });
        println!("{object}");
        return Ok(on_hosts.map_or(exit::DONE, |said| said.code()));
    }
    let shown = commit.map(|(id, commit)| {
        let author = commit.author_name().escape_debug();
        format!(
            "  {} \"{}\" by {author}",
            &id[..10],
            commit.subject.escape_debug()
        )
    });
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
    for line in planned.lines().into_iter().chain(config.lines()) {
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

/// A question is signed with one key, as a release of one signature: hosts that ask for more answer it no more than they take that.
fn refuse_one_key(state: &StateDirectory, about: &About) -> Result<(), CliError> {
    let (repo, environment) = about;
    let threshold = threshold(state, about)?;
    if threshold == NonZeroUsize::MIN {
        return Ok(());
    }
    let text = format!(
        "ask the hosts: they answer for {repo} in {environment} what {threshold} keys signed, and a question is signed with one"
    );
    Err(CliError::usage(text).hint(
        "leave --ask-hosts out: what would change is said from what is here; or run `scap-agent status` and `verify` on the hosts"
            .to_owned(),
    ))
}

/// Knows what the chunk store here has, and keeps nothing.
struct Here(Option<StoreReader>);

impl ChunkSink for Here {
    fn encoded_length(&self, id: &ChunkId) -> Option<u32> {
        self.0.as_ref()?.encoded_length(id)
    }

    fn plain(&self, id: &ChunkId) -> Result<Option<Bytes>, SinkError> {
        match &self.0 {
            Some(store) => ChunkSink::plain(store, id),
            None => Ok(None),
        }
    }

    fn put(&self, _: &EncodedChunk) -> Result<(), SinkError> {
        Ok(())
    }
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
