//! `deploy`: from a commit to a fleet that runs it.

mod asked;
mod begin;
mod config_diff;
mod confirm;
mod dead_man;
mod draft;
mod dry_run;
mod flags;
mod greet;
mod how;
mod name;
mod on_hosts;
mod planned;
mod prepare;
mod prepared;
mod recording;
mod stages;
mod summary;
mod targets;

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use scap_agent::{
    clock,
    node::{self, Job, Readers, Sources},
    store::Store,
};
use scap_proto::{
    content::SnapshotRef,
    id::{GitOid, SnapshotId},
    release::{Finalization, Plan, Priority, Reach, RepoPath, SignedRelease},
    transport::RateCaps,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
};

use self::{
    begin::{Begun, Content, Said, begin, check_soaks, time_left},
    confirm::confirm,
    greet::greet,
    how::{fed_by_us, plan},
    name::repo_name,
    planned::{Planned, SeedBytes},
    recording::Recording,
    summary::{Seconds, summarize},
    targets::Targets,
};
pub(super) use self::{
    begin::{check_enough, threshold},
    flags::{HowArgs, Topology},
    prepare::{PrepareArgs, run as prepare, verify_content},
    prepared::Given,
    recording::{Released, alone, past},
    summary::Summary,
};
use super::{
    About, CliError, SourceArgs, StateArgs,
    branch::{RecordArgs, now},
    control::{Control, Subject},
    deltas::{self, Deltas},
    exit, human_bytes,
    progress::{Progress, Style},
    scap::ScapArgs,
    screen::{Sheet, Shown},
    snapshot::{Tree, last_released, locked, open_store},
    watch,
    worded::Worded,
};
use crate::{
    fleet::{
        Inventory, InventoryError,
        hub::{Hub, resolve_all},
        places::Places,
        renewals::{Certificates, Renewer, Which},
    },
    rollout::{self, Desk, Request, Session},
    scap::Scap,
    seed::Seed,
    snapshot::{Built, Earlier},
    state::{Record, StateDirectory, StateError, revoked},
};

/// How long hosts may take to confirm that the release is the stable one.
const FINALIZE_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Args)]
pub(super) struct DeployArgs {
    #[command(flatten)]
    pub(super) state: StateArgs,
    #[command(flatten)]
    pub(super) source: SourceArgs,
    /// The revision to deploy [default: git_rev of the scap folder, else HEAD]
    #[arg(short, long, value_name = "REV")]
    pub(super) rev: Option<String>,
    /// The repo's path below the deploy root [default: git_repo of the scap folder, else the directory's name]
    #[arg(long, value_name = "REPO")]
    pub(super) name: Option<RepoPath>,
    #[command(flatten)]
    pub(super) scap: ScapArgs,
    /// The fleet file
    #[arg(long, value_name = "FILE")]
    pub(super) fleet: PathBuf,
    #[command(flatten)]
    pub(super) how: Worded<HowArgs>,
    /// What comes first where hosts have several releases to fetch: while an urgent one can be fetched, others wait
    #[arg(long, value_enum, default_value_t)]
    pub(super) priority: PriorityArg,
    /// Sign with this OpenSSH private key, or, where the file ends in `.pub`, with that key of the ssh-agent [default:
    /// the key that `init` made]
    #[arg(long, value_name = "FILE")]
    pub(super) sign_with: Option<PathBuf>,
    #[command(flatten)]
    pub(super) record: RecordArgs,
    /// What a rollback goes back to
    #[arg(skip)]
    pub(super) back_to: Option<BackTo>,
    /// The release that `resume` goes on with
    #[arg(skip)]
    pub(super) go_on: Option<GoOn>,
    /// Deploy the release that `release prepare` made and others signed, and no other; --repo or --dir is where it is from
    #[arg(long = "release", value_name = "FILE", conflicts_with_all = ["dry_run", "rev", "name"])]
    pub(super) prepared: Option<PathBuf>,
    /// What is in that file
    #[arg(skip)]
    pub(super) given: Option<Given>,
    /// Say what would be done; write nothing and contact nobody
    #[arg(long)]
    pub(super) dry_run: bool,
    /// With --dry-run: have each host say what would change in its config files; hosts render them in memory, and write nothing
    #[arg(long, requires = "dry_run")]
    pub(super) ask_hosts: bool,
    /// Do not ask
    #[arg(long)]
    pub(super) yes: bool,
    /// How progress is shown
    #[arg(long, value_enum, value_name = "STYLE", default_value_t)]
    pub(super) progress: Style,
    #[command(flatten)]
    pub(super) shown: Shown,
    /// End with one JSON object on standard output
    #[arg(long)]
    pub(super) json: bool,
    /// What is deployed and why, in words
    #[arg(value_name = "MESSAGE")]
    pub(super) message: Vec<String>,
}

/// An earlier release whose tree is released again.
#[derive(Debug, Clone)]
pub(super) struct BackTo {
    pub(super) sequence: u64,
    pub(super) snapshot: SnapshotRef,
    /// The commit; `rev` names it too.
    pub(super) commit: Option<GitOid>,
    /// What it asked of hosts.
    pub(super) config: Option<SnapshotRef>,
    /// The latest sequence that is recorded here, where nobody named the release and the upstream was not asked: a host that
    /// has accepted a later one knows of a release that it may be gone back from, and to which then is not known.
    pub(super) chosen_after: Option<u64>,
}

/// A release whose coordinator ended before it was through.
#[derive(Debug, Clone)]
pub(super) struct GoOn {
    pub(super) sequence: u64,
    pub(super) signed: SignedRelease,
    /// What it is of, as it says. That it is signed is checked where it is begun.
    pub(super) snapshot: SnapshotRef,
    /// The commit; `rev` names it too.
    pub(super) commit: Option<GitOid>,
    /// What it asks of hosts.
    pub(super) config: Option<SnapshotRef>,
    /// The sequence of the release that it goes back to, where it is of an earlier tree.
    pub(super) rolls_back_to: Option<u64>,
    /// Why the lock is taken also from somebody who may still be there.
    pub(super) take_over: Option<String>,
}

impl DeployArgs {
    fn tree(&self) -> Result<Tree, CliError> {
        let back_to = self.back_to.as_ref().map(|it| (it.snapshot, &it.commit));
        let go_on = self.go_on.as_ref().map(|it| (it.snapshot, &it.commit));
        match back_to.or(go_on) {
            Some((snapshot, None)) => Ok(Tree::Stored(snapshot)),
            _ => Tree::find(&self.source, self.rev.as_deref().unwrap_or("HEAD")),
        }
    }

    /// What the snapshot is most like: where it is gone back to, itself.
    fn earlier(&self, state: &StateDirectory, about: &About) -> Option<Earlier> {
        let back = self.back_to.as_ref().and_then(|back| {
            let (commit, snapshot) = (back.commit.clone()?, back.snapshot);
            Some(Earlier { commit, snapshot })
        });
        back.or_else(|| last_released(state, about))
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum PriorityArg {
    /// It gets what others leave
    Bulk,
    /// It takes turns with others
    #[default]
    Normal,
    /// All others wait for it
    Urgent,
}

impl PriorityArg {
    pub(super) fn of_release(self) -> Priority {
        match self {
            Self::Bulk => Priority::Bulk,
            Self::Normal => Priority::Normal,
            Self::Urgent => Priority::Urgent,
        }
    }
}

/// How long a host may make no progress, in seconds, unless it is said; where it is at a check, a service or a port, as long as that
/// may take, if that is longer.
const STALL_SECONDS: u64 = 300;

/// Requests of people that wait: they come one at a time.
const REQUESTS_MAX: usize = 16;

pub(super) async fn run(args: DeployArgs) -> Result<u8, CliError> {
    if args.dry_run {
        return dry_run::run(args).await;
    }
    let args = prepared::given(args)?;
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
    let fleet = read_inventory(&args.fleet)?;
    let topology = args.how.topology.kind();
    let state_error =
        |error: StateError| CliError::failed("read the state", &error).hint(error.hint());
    let state = StateDirectory::open(&args.state.state).map_err(state_error)?;
    let (tree, scap, notes) = find(&args, &fleet)?;
    let about = about(&args, &scap)?;
    let began = now();
    let reason = recording::reason(&args, &tree);
    let _lock = state
        .lock(&about, &reason, began)
        .map_err(|error| locked(&error))?;
    // Before anything that takes long: whoever looks sees at once that it has begun, and with what.
    let mut progress = Progress::new(&about, tree.commit(), args.progress);
    notes.iter().for_each(|note| progress.note(note));
    let identity = state.identity_at(clock::now()).map_err(state_error)?;
    let targets = Targets::of(fleet, &scap, &args, revoked(identity.trust()))?;
    let Targets {
        inventory, policy, ..
    } = &targets;
    check_soaks(policy)?;
    // What is gone back to, or gone on with, has been made.
    if args.back_to.is_none() && args.go_on.is_none() {
        let scap = scap.clone();
        let checked = tokio::task::spawn_blocking(move || asked::check(&scap));
        checked.await.expect("checking does not panic")?;
    }
    let dead_man = dead_man::of(&args, inventory)?;
    identity
        .check_time(clock::now().0)
        .map_err(|error| CliError::failed("check this coordinator's certificate", &error))?;
    let store_path = state.store();
    let (store, admission) = tokio::select! {
        opened = open_store(&store_path) => opened?,
        Some(_) = requests.recv() => return Err(interrupted()),
    };
    let caps = RateCaps {
        upload: args.how.upload_mbit,
        border_upload: args.how.border_upload_mbit,
        ..RateCaps::default()
    };
    let seed = Seed::start(identity.clone(), store.clone(), caps)
        .map_err(|error| CliError::failed("start the seed", &error))?;
    let first = fed_by_us(&identity.own().name, inventory, policy, topology, &about);
    let renewer = Renewer {
        state: state.clone(),
        which: Which::Due,
    };
    let renewing = Some((renewer, Certificates::default()));
    let mut hub = Hub::start(seed.node(), &identity, inventory, &first, &about, renewing).await;
    // Hosts are dialled, and the lock is taken, while the snapshot is built.
    // Where nobody takes it any more, it is given back at once.
    let (locker, locking) = {
        let (args, state, about, tree) = (args.clone(), state.clone(), about.clone(), tree.clone());
        let (give, taken) = oneshot::channel();
        let trust = identity.trust().clone();
        let lock = move || {
            let state = (&state, &trust);
            drop(give.send(Recording::start(&args, state, &about, &tree, began)));
        };
        let locking = async { taken.await.expect("taking the lock does not panic") };
        (tokio::task::spawn_blocking(lock), locking)
    };
    let building = {
        let (tree, store, show) = (tree.clone(), store.clone(), progress.snapshot_line());
        let earlier = args.earlier(&state, &about);
        let (scap, args) = (scap.clone(), args.clone());
        tokio::task::spawn_blocking(move || {
            let config = stages::pack(&scap, &args, &store)?;
            let steps = stages::steps(config, &store)?;
            // It syncs the store.
            Ok((tree.build(&store, earlier, show)?, config, steps))
        })
    };
    let wait = Duration::from_secs(args.how.connect_timeout);
    let reached = async {
        let greeting = async {
            let greeted = greet(&mut hub, inventory, wait).await;
            Ok((greeted, started.elapsed()))
        };
        // What cannot be built is told at once, however long hosts are waited for.
        let building = async { building.await.expect("building does not panic") };
        tokio::try_join!(greeting, building)
    };
    let both = async { tokio::try_join!(locking, reached) };
    let both = tokio::select! {
        both = both => both,
        Some(_) = requests.recv() => {
            progress.clear();
            Err(interrupted())
        }
    };
    let (recording, ((greeted, connected_in), (built, config, steps))) = match both {
        Ok(both) => both,
        Err(error) => {
            // The lock may be about to be taken, and is given back then.
            let _ = locker.await;
            return Err(error);
        }
    };
    if let Some(latest) = args.back_to.as_ref().and_then(|back| back.chosen_after) {
        greeted.check_none_after(latest)?;
    }
    for line in [recording.taken_over(), recording.alone()]
        .into_iter()
        .flatten()
    {
        progress.note(&line);
    }
    let built = Arc::new(built);
    let built_in = built.elapsed;
    // One that cannot be read is told where the release is made.
    let last = state.record(&about.0, &about.1).ok().flatten();
    let has = |base: &SnapshotId| store.contains(&base.descriptor_chunk());
    let bases = match &args.given {
        Some(given) => given.bases(),
        None => deltas::bases(greeted.live(), last.as_ref(), built.snapshot.id, has),
    };
    let deltas = Deltas::build(store.clone(), built.clone(), bases).await;
    progress.built(&built);

    let said = Said {
        greeted: &greeted,
        recorded: recording.latest(),
    };
    let going_back = recording.going_back(args.go_on.as_ref())?;
    stages::keep(&state, &about, config)?;
    let content = Content {
        commit: tree.commit().map(|commit| commit.id.clone()),
        signed_commit: tree.signed_commit()?,
        snapshot: built.snapshot,
        config,
        deltas: &deltas,
        policy,
    };
    let Begun {
        release,
        grant,
        key,
        is_finalized,
        reach,
    } = begin(&state, &about, &content, said, &args)?;
    // From here on the record names what hosts are to fetch.
    drop(admission);
    let seed_name = identity.own().name.clone();
    let plan = plan(
        seed_name,
        inventory,
        policy,
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
    let planned = Planned {
        about: &about,
        release: Some((
            session.release.id().short().to_string(),
            session.release.release().sequence,
        )),
        from: recording.stable().cloned(),
        to: tree.commit(),
        built: &built,
        policy,
        asked: config.map(|_| &scap.hosts),
        seed_bytes: SeedBytes::expected(&greeted, &built, &deltas, has),
        lock: Some(recording.held()),
        away: Some(&greeted.away),
        revoked: &targets.revoked,
    };
    progress.plan(planned.json(), &planned.lines());
    confirm(&args, &mut requests).await?;
    // From what is stable nobody goes back.
    let going_back = going_back.filter(|_| !is_finalized);
    let stable_for = reach.clone().filter(|_| is_finalized);
    recording
        .begin(&session, going_back.clone(), stable_for)
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
        readers: Readers::of(session.release.release()),
        snapshot: built.snapshot,
        plan: Arc::new(plan),
        sources: Sources::Plan,
        list_end: built.layout.list_pages().end,
        deltas: session.release.release().deltas.clone(),
        config,
        priority: session.release.release().priority(),
    })
    .await;

    let places = Arc::new(Places::of(inventory, &first));
    let subject = Subject {
        about: about.clone(),
        release: release.to_string(),
        sequence: session.release.release().sequence,
        commit: tree.commit().map(|commit| commit.id.to_string()),
        places: places.clone(),
    };
    let control = Control::listen(&state, subject, people).inspect_err(|error| {
        progress.note(&format!(
            "this deployment takes no commands but Ctrl-C: {error}"
        ));
    });
    let stall = args.how.stall_timeout.or(inventory.rollout.deadline);
    let config = rollout::Config {
        release,
        sequence: session.release.release().sequence,
        epoch: session.grant.grant().epoch,
        goes_back: going_back.is_some(),
        is_finalized,
        reach,
        // From what is stable nobody goes back.
        dead_man: dead_man.filter(|_| !is_finalized),
        granted_until: time_left(&session.grant),
        policy: policy.clone(),
        away_max: Duration::from_secs(args.how.away_timeout),
        stall_max: Duration::from_secs(stall.unwrap_or(STALL_SECONDS)),
        is_stall_exact: stall.is_some(),
        steps,
        steps_back: steps.on_the_way_back(),
        external_check: inventory.rollout.external_check(),
        counters: state.counters(),
        finalize_max: FINALIZE_MAX,
    };
    let hold = args.how.hold.map(Duration::from_secs);
    // Where nobody looks, nobody comes.
    let nobody = (!std::io::stderr().is_terminal()).then_some(Duration::ZERO);
    let desk = Desk {
        requests,
        budget_hold: hold.or(nobody),
        approval_hold: hold,
    };
    let sheet = Sheet {
        about: about.clone(),
        from: recording.stable().and_then(|stable| stable.commit.clone()),
        to: tree.commit().map(|commit| commit.id.clone()),
        subject: tree.commit().map(|commit| commit.subject.clone()),
        author: tree.commit().map(|commit| commit.author_name().to_owned()),
        rollout: recording.rollout().to_owned(),
        new_bytes: built.new.encoded_bytes,
        all_bytes: built.all.encoded_bytes,
        seconds_per_byte: Sheet::bound(inventory),
        budget_hold: desk.budget_hold,
        approval_hold: desk.approval_hold,
        places,
    };
    progress.show(sheet, args.shown);
    let rolling = Instant::now();
    let known = greeted.events;
    let note_finalized = |reach: &Reach| note_finalized(&state, &about, &session, reach);
    let mut watcher = recording.watch(&mut progress, &note_finalized);
    let ended = rollout::run(
        config,
        &session,
        &mut hub,
        seed.node(),
        known,
        &mut watcher,
        desk,
    )
    .await;
    let rolled_in = rolling.elapsed();
    watch::keep_counters(&state, &ended.engine);
    if let Ok(control) = control {
        control.close().await;
    }
    let finished = state.end_session(&about.0, &about.1);
    let written = recording.end(&session, &ended).await;
    finished.map_err(state_error)?;
    let seed_bytes = seed.node().sent_bytes();
    let denied = seed.node().denials();
    watch::denied_lines(&denied)
        .iter()
        .for_each(|line| progress.note(line));
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
    let mut summary = summarize(&session, &built, inventory, &ended, seed_bytes, &seconds);
    summary.json["deltas"] = deltas.json();
    summary.json["dead_man_seconds"] = dead_man.map(|it| it.as_secs()).into();
    summary.json["message"] = args.message.join(" ").into();
    summary.json["denied"] = watch::denied_json(&denied);
    summary.json["state"] = written.json;
    summary.code = match summary.code {
        exit::DONE => written.code,
        code => code,
    };
    progress.ended(&ended, seed_bytes, seconds.total, &written.line);
    Ok(summary)
}

fn interrupted() -> CliError {
    CliError::usage("interrupted: no host was told anything")
        .code(exit::STOPPED)
        .hint("the same command again begins anew".to_owned())
}

/// What is deployed, what its scap folder says, and what of that people should know.
fn find(args: &DeployArgs, fleet: &Inventory) -> Result<(Arc<Tree>, Scap, Vec<String>), CliError> {
    let mut tree = args.tree()?;
    let (found, scap) = args.scap.read(&args.source, &tree)?;
    // The folder that names another revision is the one that holds.
    if let (None, Some(_), Some(rev)) = (&args.rev, tree.commit(), &scap.rev) {
        tree = Tree::find(&args.source, rev)?;
    }
    if let Some(at) = &scap.blocked {
        let problem = format!("{at}: `block_deployments` is on: this machine is not to deploy");
        return Err(CliError::usage(problem).hint(
            "deploy from the active deployment host, or give -D block_deployments:false".to_owned(),
        ));
    }
    let is_limited = args.how.limit_hosts.is_some();
    let place = args
        .scap
        .describe(&found, &scap, fleet, &args.fleet, is_limited);
    // What the machine's own file says is for all that is deployed from it: `config` tells it.
    let notices = scap
        .notices
        .iter()
        .filter(|notice| !notice.at.is_of_machine());
    let warnings = notices.map(|notice| format!("warning: {notice}"));
    let notes = place.into_iter().chain(warnings).collect();
    Ok((Arc::new(tree), scap, notes))
}

/// The repo and environment that are deployed to.
pub(super) fn about(args: &DeployArgs, scap: &Scap) -> Result<About, CliError> {
    let environment = scap.environment.clone().unwrap_or_default();
    let name = args.name.as_ref();
    Ok((repo_name(name, &args.source, scap)?, environment))
}

/// Removes chunks of releases that nobody goes back to. What cannot be removed now is the next time; while another deployment
/// is about to release something, that is when it ends.
async fn clean(state: &StateDirectory, store: Store) {
    let state = state.clone();
    let work = move || -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let Some(collecting) = store.to_collect()? else {
            tracing::debug!("the chunk store is collected by another deployment, once it ends");
            return Ok(());
        };
        let store = collecting.store();
        let collection = store.begin_collection();
        for part in state.kept_deltas()? {
            collection.keep(&part);
        }
        node::collect(collection, store, &state.kept_snapshots()?)?;
        Ok(())
    };
    let cleaned = tokio::task::spawn_blocking(work).await;
    if let Err(error) = cleaned.expect("collecting does not panic") {
        let error = scap_agent::error_chain(error.as_ref());
        tracing::warn!(error, "the chunk store was not collected");
    }
}

/// Notes that the release is the stable one, and for whom, before any host is told: whoever goes on with it knows that nobody goes
/// back.
fn note_finalized(
    state: &StateDirectory,
    (repo, environment): &About,
    session: &Session,
    reach: &Reach,
) -> Result<(), StateError> {
    if let Some(record) = state.record(repo, environment)?
        && record.release.id() == session.release.id()
        && !record.is_finalized
    {
        let finalization = Finalization::of(&session.release);
        state.keep_finalization(&finalization.reaching(reach))?;
        state.save_record(
            repo,
            environment,
            &Record {
                is_finalized: true,
                ..record
            },
        )?;
    }
    Ok(())
}

pub(super) fn read_inventory(path: &Path) -> Result<Inventory, CliError> {
    Inventory::read(path).map_err(|error| no_fleet(&error))
}

pub(super) fn no_fleet(error: &InventoryError) -> CliError {
    let hint = match error {
        InventoryError::Read { .. } => "--fleet names the file that lists the hosts",
        _ => "a host is `[[host]]` with `name` and `address`; the operator's guide shows the rest",
    };
    CliError::failed("read the fleet", error)
        .code(exit::USAGE)
        .hint(hint.to_owned())
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
