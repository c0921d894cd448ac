//! `deploy`: from a commit to a fleet that runs it.

mod begin;
mod dry_run;
mod greet;
mod how;
mod name;
mod summary;

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
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
    id::SnapshotId,
    release::{Environment, Plan, RepoPath, TopologyKind},
    transport::{Rate, RateCaps},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

pub(super) use self::summary::Summary;
use self::{
    begin::begin,
    greet::{Greeted, greet},
    how::{fed_by_us, plan, policy},
    name::repo_name,
    summary::{Seconds, summarize},
};
use super::{
    About, CliError, SourceArgs, StateArgs,
    control::{Control, Subject},
    deltas::{self, Deltas},
    exit, human_bytes,
    progress::{Progress, Style},
    snapshot::{Tree, last_released, locked, open_store},
};
use crate::{
    fleet::{
        Inventory, InventoryError,
        hub::{Hub, resolve_all},
    },
    rollout::{self, Budget, Desk, Ended, Policy, Prefetch, Request, Session},
    seed::Seed,
    snapshot::Built,
    state::{Record, StateDirectory, StateError},
};

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
    /// How long each wave soaks before the next, in seconds [default: the fleet file's, else 0]
    #[arg(long, value_name = "SECS")]
    pub(super) soak: Option<u64>,
    /// How many hosts each wave may lose, but the first of several, as N or N% [default: the fleet file's, else 0]
    #[arg(long, value_name = "N")]
    pub(super) budget: Option<Budget>,
    /// Who fetches before its turn to promote: canary (the first wave, then all others), wave (nobody), or all [default: the fleet
    /// file's, else canary]
    #[arg(long, value_name = "WHO")]
    pub(super) prefetch: Option<Prefetch>,
    /// How long to wait for a person where one is needed, in seconds [default: for an approval as long as it takes; when too many
    /// hosts are unreachable so too on a terminal, and elsewhere not at all]
    #[arg(long, value_name = "SECS")]
    pub(super) hold: Option<u64>,
    /// Say what would be done; write nothing and contact nobody
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(super) yes: bool,
    /// How progress is shown
    #[arg(long, value_enum, value_name = "STYLE", default_value_t)]
    pub(super) progress: Style,
    /// End with one JSON object on standard output
    #[arg(long)]
    pub(super) json: bool,
    /// How long to wait for a host to be reached, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 10)]
    pub(super) connect_timeout: u64,
    /// How long a host may be away, once reached, before it is given up, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 60)]
    pub(super) away_timeout: u64,
    /// How long a host may make no progress before it counts as failed, in seconds [default: `deadline` of the fleet file, else
    /// 300]
    #[arg(long, value_name = "SECS")]
    pub(super) stall_timeout: Option<u64>,
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

/// How long a host may make no progress, in seconds, unless it is said.
const STALL_SECONDS: u64 = 300;

/// Requests of people that wait: they come one at a time.
const REQUESTS_MAX: usize = 16;

pub(super) async fn run(args: DeployArgs) -> Result<u8, CliError> {
    if args.dry_run {
        return dry_run::run(args).await;
    }
    let as_json = args.json;
    let (people, requests) = people();
    // From here on an interrupt is taken where it leaves nothing half-done.
    let mut interrupts = signal(SignalKind::interrupt())
        .map_err(|error| CliError::failed("listen for interrupts", &error))?;
    let interrupted = people.clone();
    tokio::spawn(async move {
        while interrupts.recv().await.is_some() {
            let _ = interrupted.send(Request::Interrupt).await;
        }
    });
    let summary = deploy(args, people, requests).await?;
    if as_json {
        println!("{}", summary.json);
    }
    Ok(summary.code)
}

/// A way for people to a deployment.
pub(super) fn people() -> (mpsc::Sender<Request>, mpsc::Receiver<Request>) {
    mpsc::channel(REQUESTS_MAX)
}

/// Deploys, with progress on standard error, and does what people ask for meanwhile: whoever has `people`, and whoever may
/// connect to the control socket.
pub(super) async fn deploy(
    args: DeployArgs,
    people: mpsc::Sender<Request>,
    mut requests: mpsc::Receiver<Request>,
) -> Result<Summary, CliError> {
    let started = Instant::now();
    let inventory = read_inventory(&args.fleet)?;
    let policy = policy(&inventory, &args)?;
    let topology = args.topology.kind();
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
    let first = fed_by_us(&identity.own().name, &inventory, &policy, topology, &about);
    let mut hub = Hub::start(seed.node(), &identity, &inventory, &first, &about).await;
    let mut progress = Progress::new(&about, tree.commit(), args.progress);

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
        Some(_) = requests.recv() => {
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
    let plan = plan(
        seed_name,
        &inventory,
        &policy,
        &greeted.away,
        topology,
        &about,
    )
    .await;
    let session = Session {
        release,
        grant,
        key,
        plan: plan.encode(),
    };
    confirm(
        &args,
        &inventory,
        &policy,
        &greeted,
        &session,
        &mut requests,
    )
    .await?;
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

    let subject = Subject {
        about: about.clone(),
        release: release.to_string(),
        sequence: session.release.release().sequence,
        commit: tree.commit().map(|commit| commit.id.to_string()),
    };
    let control = Control::listen(&state, subject, people).inspect_err(|error| {
        progress.note(&format!(
            "this deployment takes no commands but Ctrl-C: {error}"
        ));
    });
    let stall = args.stall_timeout.or(inventory.rollout.deadline);
    let config = rollout::Config {
        release,
        sequence: session.release.release().sequence,
        epoch: session.grant.grant().epoch,
        policy,
        away_max: Duration::from_secs(args.away_timeout),
        stall_max: Duration::from_secs(stall.unwrap_or(STALL_SECONDS)),
        finalize_max: FINALIZE_MAX,
    };
    let hold = args.hold.map(Duration::from_secs);
    // Where nobody looks, nobody comes.
    let nobody = (!std::io::stderr().is_terminal()).then_some(Duration::ZERO);
    let desk = Desk {
        requests,
        budget_hold: hold.or(nobody),
        approval_hold: hold,
    };
    let rolling = Instant::now();
    let known = greeted.events;
    let ended = rollout::run(
        config,
        &session,
        &mut hub,
        seed.node(),
        known,
        &mut progress,
        desk,
    )
    .await;
    drop(control);
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

/// Shows what is about to happen and asks, on a terminal.
async fn confirm(
    args: &DeployArgs,
    inventory: &Inventory,
    policy: &Policy,
    greeted: &Greeted,
    session: &Session,
    requests: &mut mpsc::Receiver<Request>,
) -> Result<(), CliError> {
    let release = session.release.release();
    if args.progress != Style::Json {
        eprintln!(
            "release {} #{}",
            session.release.id().short(),
            release.sequence
        );
        for line in dry_run::plan_lines(inventory, policy) {
            eprintln!("{line}");
        }
    }
    for (host, reason) in greeted.away.iter().filter(|_| args.progress != Style::Json) {
        eprintln!("  unreachable now: {host}: {}", reason.escape_debug());
    }
    if args.yes || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    eprint!("deploy? [y/N] ");
    let _ = std::io::stderr().flush();
    let reading = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        let _ = std::io::stdin().read_line(&mut answer);
        answer
    });
    let answer = tokio::select! {
        answer = reading => answer.expect("reading a line does not panic"),
        // Who interrupts does not say yes.
        Some(_) = requests.recv() => String::new(),
    };
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

pub(super) fn read_inventory(path: &Path) -> Result<Inventory, CliError> {
    Inventory::read(path).map_err(|error| {
        let hint = match &error {
            InventoryError::Read { .. } => "--fleet names the file that lists the hosts",
            _ => "a host is `[[host]]` with `name` and `address`; the operator's guide shows the rest",
        };
        CliError::failed("read the fleet", &error).code(exit::USAGE).hint(hint.to_owned())
    })
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
