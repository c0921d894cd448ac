//! `deploy`: from a commit to a fleet that runs it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{IsTerminal, Write},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use scap_agent::{
    clock,
    node::{self, Job},
    store::Store,
};
use scap_proto::{
    content::{RelPath, SnapshotRef},
    id::{GitOid, NodeId, SnapshotId},
    identity::SecretKey,
    limits::SIGNATURES_MAX,
    release::{
        Authority, Environment, Grant, Plan, Release, RepoPath, SignedGrant, SignedRelease,
        Standing, TopologyKind, UnixMillis, VerifiedGrant, VerifiedRelease, signature::Signer,
    },
    transport::{Rate, RateCaps},
};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    About, CliError, SourceArgs, StateArgs,
    deltas::{self, Deltas},
    exit, human_bytes,
    progress::Progress,
    snapshot::{Tree, last_released, locked, open_store},
};
use crate::{
    fleet::{
        Host, Inventory, InventoryError,
        hub::{Hub, HubEvent, resolve_all},
        ways::Ways,
    },
    plan::planner,
    rollout::{self, Ended, HostState, Session, Verdict, Wave},
    seed::Seed,
    snapshot::Built,
    state::{Record, SNAPSHOTS_KEPT, StateDirectory, StateError},
};

/// How long a release may be begun with after it was signed, in milliseconds: a rollout over a weekend,
/// and not an old order found in a drawer.
const RELEASE_MILLIS: u64 = 7 * 24 * 3600 * 1000;
/// How long a grant may be used, in milliseconds: a long rollout.
const GRANT_MILLIS: u64 = 24 * 3600 * 1000;
/// How long hosts may take to confirm that the release is the stable one.
const FINALIZE_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Args)]
pub(super) struct DeployArgs {
    #[command(flatten)]
    pub(super) state: StateArgs,
    #[command(flatten)]
    pub(super) source: SourceArgs,
    /// The revision to deploy
    #[arg(long, value_name = "REV", default_value = "HEAD")]
    pub(super) rev: String,
    /// The repo's path below the deploy root [default: git_repo of scap/scap.cfg, else the directory's name]
    #[arg(long, value_name = "REPO")]
    pub(super) name: Option<RepoPath>,
    /// The environment
    #[arg(long, value_name = "ENV", default_value_t)]
    pub(super) environment: Environment,
    /// The fleet file
    #[arg(long, value_name = "FILE")]
    pub(super) fleet: PathBuf,
    /// How chunks spread
    #[arg(long, value_enum, default_value_t = Topology::Lanes)]
    pub(super) topology: Topology,
    /// Sign with this OpenSSH private key, or, where the file ends in `.pub`, with that key of the ssh-agent [default:
    /// the key that `init` made]
    #[arg(long, value_name = "FILE")]
    pub(super) sign_with: Option<PathBuf>,
    /// Cap all that leaves the seed, in Mbit/s, headers included
    #[arg(long, value_name = "N")]
    pub(super) upload_mbit: Option<Rate>,
    /// Cap what leaves the seed for other sites
    #[arg(long, value_name = "N")]
    pub(super) border_upload_mbit: Option<Rate>,
    /// Do not ask
    #[arg(long)]
    pub(super) yes: bool,
    /// End with one JSON object on standard output
    #[arg(long)]
    pub(super) json: bool,
    /// How long to wait for a host to be reached, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 10)]
    pub(super) connect_timeout: u64,
    /// How long a host may be away, once reached, before it is given up, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 60)]
    pub(super) away_timeout: u64,
    /// How long a host may make no progress before it is given up, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 300)]
    pub(super) stall_timeout: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Topology {
    /// As a swarm, with most chunks pushed along two trees over all hosts
    Lanes,
    /// Each host fetches from all its neighbours; a slow host delays the others less
    Swarm,
    /// Each host fetches from one upstream
    Tree,
}

impl Topology {
    pub(super) fn kind(self) -> TopologyKind {
        match self {
            Self::Lanes => TopologyKind::Lanes,
            Self::Swarm => TopologyKind::Swarm,
            Self::Tree => TopologyKind::Tree,
        }
    }
}

/// What was done, as `--json` shows it.
pub(super) struct Summary {
    pub(super) json: Value,
    pub(super) code: u8,
    pub(super) verdict: Verdict,
}

pub(super) async fn run(args: DeployArgs) -> Result<u8, CliError> {
    let as_json = args.json;
    // From here on an interrupt is taken where it leaves nothing half-done.
    let mut interrupts = signal(SignalKind::interrupt())
        .map_err(|error| CliError::failed("listen for interrupts", &error))?;
    let interrupt = async {
        interrupts.recv().await;
    };
    let summary = deploy(args, interrupt).await?;
    if as_json {
        println!("{}", summary.json);
    }
    Ok(summary.code)
}

/// Deploys, with progress on standard error, until `interrupt`.
pub(super) async fn deploy(
    args: DeployArgs,
    interrupt: impl Future<Output = ()>,
) -> Result<Summary, CliError> {
    let started = Instant::now();
    let mut interrupt = pin!(interrupt);
    let inventory = read_inventory(&args.fleet)?;
    let state_error =
        |error: StateError| CliError::failed("read the state", &error).hint(error.hint());
    let state = StateDirectory::open(&args.state.state).map_err(state_error)?;
    let _lock = state.lock().map_err(|error| locked(&error))?;
    let tree = Arc::new(Tree::find(&args.source, &args.rev)?);
    let about: About = (repo_name(&args, &tree)?, args.environment.clone());
    let identity = state.identity().map_err(state_error)?;
    identity
        .check_time(clock::now().0)
        .map_err(|error| CliError::failed("check this coordinator's certificate", &error))?;
    let store = open_store(&state.store())?;
    let caps = RateCaps {
        upload: args.upload_mbit,
        border_upload: args.border_upload_mbit,
        ..RateCaps::default()
    };
    let seed = Seed::start(identity.clone(), store.clone(), caps)
        .map_err(|error| CliError::failed("start the seed", &error))?;
    let first = fed_by_us(&identity.own().name, &inventory, &args, &about);
    let mut hub = Hub::start(seed.node(), &identity, &inventory, &first, &about).await;
    let mut progress = Progress::new(&about, tree.commit());

    // Hosts are dialled while the snapshot is built.
    let building = {
        let (tree, store, show) = (tree.clone(), store.clone(), progress.snapshot_line());
        let earlier = last_released(&state, &about);
        tokio::task::spawn_blocking(move || tree.build(&store, earlier, show))
    };
    let wait = Duration::from_secs(args.connect_timeout);
    let reached = async {
        let greeted = greet(&mut hub, &inventory, wait).await;
        let connected_in = started.elapsed();
        (greeted, connected_in, building.await)
    };
    let (greeted, connected_in, built) = tokio::select! {
        reached = reached => reached,
        () = &mut interrupt => {
            progress.clear();
            return Err(CliError::usage("interrupted: no host was told anything")
                .code(exit::STOPPED)
                .hint("the same command again begins anew".to_owned()));
        }
    };
    let built = Arc::new(built.expect("building does not panic")?);
    let built_in = built.elapsed;
    // One that cannot be read is told where the release is made.
    let last = state.record(&about.0, &about.1).ok().flatten();
    let has = |base: &SnapshotId| store.contains(&base.descriptor_chunk());
    let bases = deltas::bases(greeted.live(), last.as_ref(), built.snapshot.id, has);
    let deltas = Deltas::build(store.clone(), built.clone(), bases).await;
    progress.built(&built);

    let (release, grant, key) = begin(&state, &about, &tree, &built, &deltas, &greeted, &args)?;
    let seed_name = identity.own().name.clone();
    let plan = plan(seed_name, &inventory, &greeted.away, args.topology, &about).await;
    let session = Session {
        release,
        grant,
        key,
        plan: plan.encode(),
    };
    confirm(&args, &inventory, &greeted, &session)?;
    let mut plan = Plan::decode(session.plan.0, &session.plan.1).expect("it was just encoded");
    // The same plan; only that we may reach hosts elsewhere than their peers do.
    let ours = inventory.hosts.iter().map(|host| host.addresses.clone());
    for (host, addresses) in plan.hosts.iter_mut().zip(resolve_all(ours).await) {
        host.addresses = addresses;
    }
    let release = session.release.id();
    seed.serve(Job {
        release,
        snapshot: built.snapshot,
        plan: Arc::new(plan),
        list_end: built.layout.list_pages().end,
        deltas: session.release.release().deltas.clone(),
    })
    .await;

    let config = rollout::Config {
        release,
        sequence: session.release.release().sequence,
        epoch: session.grant.grant().epoch,
        waves: waves(&inventory),
        away_max: Duration::from_secs(args.away_timeout),
        stall_max: Duration::from_secs(args.stall_timeout),
        finalize_max: FINALIZE_MAX,
    };
    let rolling = Instant::now();
    let ended = tokio::select! {
        ended = rollout::run(config, &session, &mut hub, seed.node(), greeted.events, &mut progress) => ended,
        () = interrupt => {
            progress.clear();
            drop(hub);
            seed.shutdown().await;
            return Err(CliError::usage(format!(
                "interrupted: hosts keep what they were told last of release {}",
                release.short()
            ))
            .code(exit::STOPPED)
            .hint("the same command again goes on where this one stopped".to_owned()));
        }
    };
    let rolled_in = rolling.elapsed();
    finish(&state, &about, &session, &ended).map_err(state_error)?;
    let seed_bytes = seed.node().sent_bytes();
    // Before the links, so that nothing dials again what is being closed.
    drop(hub);
    seed.shutdown().await;
    clean(&state, store).await;

    let seconds = Seconds {
        connect: connected_in,
        snapshot: built_in,
        deltas: deltas.elapsed,
        rollout: rolled_in,
        total: started.elapsed(),
    };
    let mut summary = summarize(&session, &built, &inventory, &ended, seed_bytes, &seconds);
    summary.json["deltas"] = deltas.json();
    progress.ended(&ended, seed_bytes, seconds.total);
    Ok(summary)
}

/// Removes chunks of releases that nobody goes back to. What cannot be removed now is the next time.
async fn clean(state: &StateDirectory, store: Store) {
    let collection = store.begin_collection();
    let keep = match state.kept_snapshots() {
        Ok(keep) => keep,
        Err(error) => {
            let error = scap_agent::error_chain(&error);
            return tracing::warn!(error, "the chunk store was not collected");
        }
    };
    let work = move || node::collect(collection, &store, &keep);
    if let Err(error) = tokio::task::spawn_blocking(work)
        .await
        .expect("collecting does not panic")
    {
        let error = scap_agent::error_chain(&error);
        tracing::warn!(error, "the chunk store was not collected");
    }
}

struct Seconds {
    connect: Duration,
    snapshot: Duration,
    deltas: Duration,
    rollout: Duration,
    total: Duration,
}

/// What the hosts said when they were first reached.
struct Greeted {
    events: Vec<HubEvent>,
    standings: BTreeMap<NodeId, Standing>,
    live: BTreeMap<NodeId, SnapshotId>,
    away: BTreeMap<NodeId, String>,
}

impl Greeted {
    /// The snapshot that is live on each host that says so.
    fn live(&self) -> impl Iterator<Item = SnapshotId> {
        self.live.values().copied()
    }

    /// Counts as away who said nothing in the time that it had, and with it who stands behind it.
    fn miss(&mut self, inventory: &Inventory, waited: Duration) {
        let mut ways = Ways::new(inventory);
        for (host, reason) in &self.away {
            ways.heard(host, Some(reason));
        }
        let reason = format!("no answer in {} s", waited.as_secs());
        let (open, behind): (Vec<&Host>, Vec<&Host>) =
            inventory.hosts.iter().partition(|host| host.via.is_empty());
        for Host { name, .. } in open.into_iter().chain(behind) {
            if self.standings.contains_key(name) || self.away.contains_key(name) {
                continue;
            }
            let cut_off = ways.heard(name, Some(&reason));
            for (host, reason) in std::iter::once((name.clone(), reason.clone())).chain(cut_off) {
                if !self.standings.contains_key(&host) {
                    self.away.insert(host.clone(), reason.clone());
                    // The rollout tells the same reason.
                    self.events.push(HubEvent::Away { host, reason });
                }
            }
        }
    }
}

/// Waits until every host said where it stands, or `wait` passed.
async fn greet(hub: &mut Hub, inventory: &Inventory, wait: Duration) -> Greeted {
    let mut greeted = Greeted {
        events: Vec::new(),
        standings: BTreeMap::new(),
        live: BTreeMap::new(),
        away: BTreeMap::new(),
    };
    let deadline = tokio::time::Instant::now() + wait;
    while greeted.standings.len() < inventory.hosts.len() {
        let Ok(Some(event)) = tokio::time::timeout_at(deadline, hub.events.recv()).await else {
            break;
        };
        match &event {
            HubEvent::Report(report) => {
                greeted
                    .standings
                    .insert(report.host.clone(), report.standing);
                let live = report
                    .live_snapshot()
                    .map(|live| (report.host.clone(), live));
                greeted.live.extend(live);
                greeted.away.remove(&report.host);
            }
            HubEvent::Away { host, reason } => {
                greeted.standings.remove(host);
                greeted.away.insert(host.clone(), reason.clone());
            }
            HubEvent::Connected(_) => {}
        }
        greeted.events.push(event);
    }
    greeted.miss(inventory, wait);
    greeted
}

/// Signs the release, or takes up the one that was signed for the same tree, and grants it to a new session.
fn begin(
    state: &StateDirectory,
    about: &About,
    tree: &Tree,
    built: &Built,
    deltas: &Deltas,
    greeted: &Greeted,
    args: &DeployArgs,
) -> Result<(VerifiedRelease, VerifiedGrant, SecretKey), CliError> {
    let failed =
        |error: StateError| CliError::failed("sign the release", &error).hint(error.hint());
    let (repo, environment) = about;
    let now = clock::now();
    let record = state.record(repo, environment).map_err(failed)?;
    let signer = state.signer(args.sign_with.as_deref()).map_err(failed)?;
    let signers = state.allowed_signers().map_err(failed)?;
    let authority = Authority {
        signers: &signers,
        threshold: NonZeroUsize::MIN,
    };
    let commit = tree.commit().map(|commit| commit.id.clone());

    let highest = greeted
        .standings
        .values()
        .map(|standing| standing.accepted_sequence)
        .max();
    let highest = highest.unwrap_or(0);
    let again = record.as_ref().and_then(|record| {
        take_up(
            record,
            built.snapshot,
            commit.as_ref(),
            highest,
            &authority,
            &signer,
            now,
        )
    });
    let (release, epoch) = match (again, &record) {
        (Some(release), Some(record)) => (release, record.epoch + 1),
        _ => {
            let before = record.as_ref().map_or(0, |record| record.sequence);
            let release = Release {
                repo: repo.clone(),
                environment: environment.clone(),
                audience: Default::default(),
                sequence: 1 + highest.max(before),
                snapshot: built.snapshot,
                commit,
                config: None,
                deltas: deltas.all.iter().map(|it| it.reference.clone()).collect(),
                previous: record.as_ref().map(|record| record.release.id()),
                created: now,
                expires: UnixMillis(now.0 + RELEASE_MILLIS),
                extensions: Default::default(),
            };
            let signed = SignedRelease::sign(&release, &signer)
                .map_err(|error| CliError::failed("sign the release", &error))?;
            let release = signed
                .verify(&authority, now)
                .map_err(|error| CliError::failed("check our own release", &error))?;
            (release, 1)
        }
    };
    let key = state.begin_session(repo, environment).map_err(failed)?;
    let grant = Grant {
        release: release.id(),
        session_key: *key.public(),
        epoch,
        expires: UnixMillis(now.0 + GRANT_MILLIS),
        extensions: Default::default(),
    };
    let grant = SignedGrant::sign(&grant, &release.release().namespace(), &signer)
        .map_err(|error| CliError::failed("sign the grant", &error))?
        .verify(&release, &authority, now)
        .map_err(|error| CliError::failed("check our own grant", &error))?;
    // Saved before anything is sent: no sequence or epoch is ever used for two things.
    let record = Record {
        sequence: release.release().sequence,
        release: release.signed().clone(),
        epoch,
        grant: grant.signed().clone(),
        is_finalized: false,
        snapshots: worth_keeping(built.snapshot, record.as_ref()),
    };
    state
        .save_record(repo, environment, &record)
        .map_err(failed)?;
    Ok((release, grant, key))
}

/// The snapshot that is released now, and those before it, the latest first.
fn worth_keeping(now: SnapshotRef, before: Option<&Record>) -> Vec<SnapshotRef> {
    let before = before
        .map(|record| record.snapshots.as_slice())
        .unwrap_or_default();
    let others = before.iter().copied().filter(|snapshot| *snapshot != now);
    std::iter::once(now)
        .chain(others)
        .take(SNAPSHOTS_KEPT)
        .collect()
}

/// The release of a record, where it is of the same tree and commit, signed by this signer too, may still begin, and
/// no host has accepted a later one.
fn take_up(
    record: &Record,
    snapshot: SnapshotRef,
    commit: Option<&GitOid>,
    highest: u64,
    authority: &Authority<'_>,
    signer: &Signer,
    now: UnixMillis,
) -> Option<VerifiedRelease> {
    const _: () = assert!(SIGNATURES_MAX >= 1);
    let release = record.release.clone().verify(authority, now).ok()?;
    let about = release.release();
    let is_same = about.snapshot == snapshot && about.commit.as_ref() == commit;
    // A grant must be by one who signed the release.
    let is_ours = release
        .signers()
        .iter()
        .any(|by| by.fingerprint == signer.fingerprint());
    let may_go_on = highest <= about.sequence && release.check_time(now).is_ok();
    (is_same && is_ours && may_go_on).then_some(release)
}

/// The hosts that the seed is linked to if all are reached: orders may as well go over the same links.
fn fed_by_us(
    seed: &NodeId,
    inventory: &Inventory,
    args: &DeployArgs,
    (repo, environment): &About,
) -> Vec<NodeId> {
    let random_seed = planner::random_seed(repo, environment);
    let kind = args.topology.kind();
    let plan = planner::plan(seed.clone(), inventory, |_| false, kind, random_seed);
    let topology = scap_agent::topology::Topology::of_plan(&plan);
    topology.origin_dials().cloned().collect()
}

async fn plan(
    seed: NodeId,
    inventory: &Inventory,
    away: &BTreeMap<NodeId, String>,
    topology: Topology,
    (repo, environment): &About,
) -> Plan {
    let random_seed = planner::random_seed(repo, environment);
    let is_away = |host: &NodeId| away.contains_key(host);
    let mut plan = planner::plan(seed, inventory, is_away, topology.kind(), random_seed);
    // A name that cannot be looked up now: its peers reach it when it dials them.
    let peers = inventory
        .hosts
        .iter()
        .map(|host| host.peer_addresses.clone());
    for (planned, addresses) in plan.hosts.iter_mut().zip(resolve_all(peers).await) {
        planned.addresses = addresses;
    }
    plan
}

fn waves(inventory: &Inventory) -> Vec<Wave> {
    let (canary, rest) = inventory.waves();
    let wave = |name: &str, hosts: BTreeSet<NodeId>, is_gate| Wave {
        name: name.into(),
        hosts,
        is_gate,
    };
    let waves = [wave("canary", canary, true), wave("rest", rest, false)];
    waves
        .into_iter()
        .filter(|wave| !wave.hosts.is_empty())
        .collect()
}

/// Shows what is about to happen and asks, on a terminal.
fn confirm(
    args: &DeployArgs,
    inventory: &Inventory,
    greeted: &Greeted,
    session: &Session,
) -> Result<(), CliError> {
    let release = session.release.release();
    let (canary, rest) = inventory.waves();
    eprintln!(
        "release {} #{} to {} hosts ({} canary, {} rest)",
        session.release.id().short(),
        release.sequence,
        inventory.hosts.len(),
        canary.len(),
        rest.len(),
    );
    for (host, reason) in &greeted.away {
        eprintln!("  unreachable now: {host}: {}", reason.escape_debug());
    }
    if args.yes || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    eprint!("deploy? [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let _ = std::io::stdin().read_line(&mut answer);
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(CliError::usage("not confirmed; no host was told anything").code(exit::STOPPED))
}

fn finish(
    state: &StateDirectory,
    (repo, environment): &About,
    session: &Session,
    ended: &Ended,
) -> Result<(), StateError> {
    if ended.is_finalized
        && let Some(record) = state.record(repo, environment)?
        && record.release.id() == session.release.id()
    {
        state.save_record(
            repo,
            environment,
            &Record {
                is_finalized: true,
                ..record
            },
        )?;
    }
    state.end_session(repo, environment)
}

fn summarize(
    session: &Session,
    built: &Built,
    inventory: &Inventory,
    ended: &Ended,
    seed_bytes: u64,
    seconds: &Seconds,
) -> Summary {
    let hosts: Vec<Value> = ended
        .engine
        .hosts()
        .iter()
        .map(|(name, host)| {
            let (outcome, error) = match &host.state {
                HostState::Promoted => ("promoted", None),
                HostState::Failed(reason) => ("failed", Some(reason.clone())),
                HostState::Unreachable(reason) => ("unreachable", Some(reason.clone())),
                HostState::Fetched => ("fetched", None),
                HostState::Waiting | HostState::Skipped => ("skipped", None),
                HostState::Fetching | HostState::Promoting => ("unfinished", None),
            };
            json!({
                "name": name.as_str(),
                "outcome": outcome,
                "bytes": {
                    "seed": host.bytes.seed, "peers": host.bytes.peers, "reuse": host.bytes.reuse,
                },
                "fetch_seconds": host.fetch.as_secs_f64(),
                "prepare_seconds": host.prepare.as_secs_f64(),
                "promote_seconds": host.promote.as_secs_f64(),
                "error": error,
            })
        })
        .collect();
    let total = seconds.total.as_secs_f64();
    let bound = inventory.bound_seconds(built.all.encoded_bytes);
    let code = match &ended.verdict {
        Verdict::Done => exit::DONE,
        Verdict::Incomplete => exit::FAILED,
        Verdict::Stopped { .. } => exit::STOPPED,
    };
    let release = session.release.release();
    let slowest = |time: fn(&rollout::HostProgress) -> Duration| {
        let times = ended.engine.hosts().values().map(time);
        times.max().unwrap_or_default().as_secs_f64()
    };
    let json = json!({
        "schema": "scap.deploy/1",
        "repo": release.repo.as_str(),
        "environment": release.environment.as_str(),
        "release": session.release.id().to_string(),
        "sequence": release.sequence,
        "snapshot": built.snapshot.id.to_string(),
        "commit": release.commit.as_ref().map(ToString::to_string),
        "outcome": match &ended.verdict {
            Verdict::Done => "done",
            Verdict::Incomplete => "incomplete",
            Verdict::Stopped { .. } => "stopped",
        },
        "finalized": ended.is_finalized,
        "hosts": hosts,
        "seconds": {
            "connect": seconds.connect.as_secs_f64(),
            "snapshot": seconds.snapshot.as_secs_f64(),
            "deltas": seconds.deltas.as_secs_f64(),
            "fetch": slowest(|host| host.fetch),
            "prepare": slowest(|host| host.prepare),
            "promote": slowest(|host| host.promote),
            "rollout": seconds.rollout.as_secs_f64(),
            "total": total,
        },
        "snapshot_bytes": built.descriptor.totals.bytes,
        "snapshot_encoded_bytes": built.all.encoded_bytes,
        "snapshot_entries": built.descriptor.totals.entries,
        "snapshot_entries_unchanged": built.kept_entries,
        "seed_bytes_sent": seed_bytes,
        "bound_ratio": bound.map(|bound| total / bound),
    });
    Summary {
        json,
        code,
        verdict: ended.verdict.clone(),
    }
}

pub(super) fn read_inventory(path: &Path) -> Result<Inventory, CliError> {
    Inventory::read(path).map_err(|error| {
        let hint = match &error {
            InventoryError::Read { .. } => "--fleet names the file that lists the hosts",
            _ => "a host is `[[host]]` with `name` and `address`; the operator's guide shows the rest",
        };
        CliError::failed("read the fleet", &error).code(exit::USAGE).hint(hint.to_owned())
    })
}

/// `--name`, else `git_repo` of the commit's or directory's `scap/scap.cfg`, else the directory's name.
fn repo_name(args: &DeployArgs, tree: &Tree) -> Result<RepoPath, CliError> {
    if let Some(name) = &args.name {
        return Ok(name.clone());
    }
    let config = match tree {
        Tree::Commit { repo, commit } => repo
            .read_file(
                &commit.id,
                &RelPath::new("scap/scap.cfg").expect("a safe path"),
                CONFIG_BYTES_MAX,
            )
            .map_err(|error| CliError::failed("read scap/scap.cfg", &error))?,
        Tree::Directory(path) => std::fs::read(path.join("scap/scap.cfg")).ok(),
    };
    let configured = config.as_deref().and_then(git_repo_of);
    let path = args.source.repo.as_ref().or(args.source.dir.as_ref());
    let directory = path.and_then(|path| path.canonicalize().ok());
    let directory = directory
        .as_deref()
        .and_then(|path| path.file_name()?.to_str());
    let name = configured.or_else(|| directory.map(|d| d.trim_end_matches(".git").to_owned()));
    let name = name.ok_or_else(|| CliError::usage("--name says what to call the repo"))?;
    name.parse().map_err(|error| {
        CliError::failed("name the repo", &error)
            .code(exit::USAGE)
            .hint("give --name".to_owned())
    })
}

/// Longest `scap.cfg` that is read, in bytes: they are a page or two.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// `git_repo` in section `[global]` of an INI file as Python's `configparser` reads it: keys in any letter
/// case, `=` or `:` between key and value.
fn git_repo_of(config: &[u8]) -> Option<String> {
    let mut section = String::new();
    for line in String::from_utf8_lossy(config).lines() {
        if let Some(rest) = line.strip_prefix('[') {
            section = rest.split(']').next().unwrap_or_default().to_owned();
        } else if section == "global" && !line.starts_with(['#', ';', ' ', '\t']) {
            let Some((key, value)) = line.split_once(['=', ':']) else {
                continue;
            };
            if key.trim().eq_ignore_ascii_case("git_repo") {
                return Some(value.trim().to_owned()).filter(|value| !value.is_empty());
            }
        }
    }
    None
}

/// The size of what is deployed, for the line that says so.
pub(super) fn size_of(built: &Built) -> String {
    let totals = built.descriptor.totals;
    let changed = match built.kept_entries {
        0 => String::new(),
        kept => format!(", {} changed", totals.entries - kept),
    };
    format!(
        "{} files{changed}, {} in {} chunks, {} new",
        totals.files,
        human_bytes(totals.bytes),
        built.all.chunks,
        human_bytes(built.new.encoded_bytes),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_repo_is_named_by_the_global_section_of_scap_cfg() {
        let found = |text: &str| git_repo_of(text.as_bytes());
        assert_eq!(
            found("[global]\ngit_repo: mw/config\n"),
            Some("mw/config".into())
        );
        assert_eq!(found("[global]\nGIT_REPO = a\n"), Some("a".into()));
        assert_eq!(
            found("[wmnet]\ngit_repo: other\n[global]\n# git_repo: no\n"),
            None
        );
        assert_eq!(found("git_repo: before any section\n"), None);
    }
}
