//! A running deployment's control socket, and the commands that speak to it.
//!
//! One line of JSON asks, one answers. The socket is in the state directory, which is its owner's alone; only its owner and root are heard.

use std::{
    collections::BTreeMap,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use scap_agent::local::{LocalListener, Users};
use scap_proto::{
    id::NodeId,
    reason::Because,
    release::{Environment, RepoPath},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
    time::error::Elapsed,
};
use tokio_util::sync::CancellationToken;

use super::{About, CliError, StateArgs, branch::ReadArgs, exit, rollout_status, why};
use crate::{
    fleet::places::Places,
    rollout::{Command, Engine, Request, WaitingOn},
    state::StateDirectory,
};

/// Longest line, in bytes: a status names each host of the largest fleet a few times.
const LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Most that ask at a time.
const CLIENTS_MAX: usize = 16;

/// How long whoever asks may take to say what, and a deployment to answer: it does so at once.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// How long a deployment may take to say where it is, to whoever looks at all of them.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// How long a deployment that ends waits until those have their answer who asked for something: it is one write, unless they say
/// nothing.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// What a deployment is that does nothing any more.
const ENDING: &str = "it is just ending";

/// Which running deployment is meant.
#[derive(Debug, Clone, Args)]
pub(super) struct ControlArgs {
    #[command(flatten)]
    pub(super) state: StateArgs,
    /// The repo [default: that of the only deployment that runs]
    #[arg(long, value_name = "REPO")]
    pub(super) name: Option<RepoPath>,
    /// The environment, with --name
    #[arg(long, value_name = "ENV", default_value_t, requires = "name")]
    pub(super) environment: Environment,
}

#[derive(Debug, Args)]
pub(super) struct RetryArgs {
    #[command(flatten)]
    control: ControlArgs,
    /// Those that failed or were not reached
    #[arg(long, required = true)]
    failed: bool,
}

#[derive(Debug, Args)]
pub(super) struct SkipArgs {
    #[command(flatten)]
    control: ControlArgs,
    /// The host to go on without
    host: NodeId,
    /// Why, for whoever reads the result
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// What is asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Ask {
    Pause,
    Resume,
    Promote { on: WaitingOn, wave: String },
    Abort,
    RetryFailed,
    Skip { host: NodeId, reason: String },
    Status,
    Why { host: NodeId },
}

/// The names of all that a deployment may be asked for, as a line has them in `command`.
pub const COMMANDS: [&str; 8] = [
    "pause",
    "resume",
    "promote",
    "abort",
    "retry-failed",
    "skip",
    "status",
    "why",
];

/// What a deployment says of itself, once it may be asked.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) about: About,
    pub(super) release: String,
    pub(super) sequence: u64,
    pub(super) commit: Option<String>,
    pub(super) places: Arc<Places>,
}

/// The control socket of a deployment; dropping it takes it away, also from those who wait for an answer.
pub(super) struct Control {
    path: PathBuf,
    ends: CancellationToken,
    task: JoinHandle<()>,
}

impl Control {
    /// Listens for commands, and passes them on. Whoever holds the lock of the repo and environment may call it: a socket that is there is left over.
    ///
    /// # Errors
    /// Where the socket cannot be made: most often its path is longer than a Unix socket's may be, 107 bytes.
    pub(super) fn listen(
        state: &StateDirectory,
        subject: Subject,
        requests: mpsc::Sender<Request>,
    ) -> io::Result<Self> {
        let folder = state.control();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        let (repo, environment) = &subject.about;
        let path = socket_path(&folder, repo, environment);
        let listener = LocalListener::bind(&path, Users::own())?;
        let ends = CancellationToken::new();
        let task = tokio::spawn(accept(listener, subject, requests, ends.clone()));
        Ok(Self { path, ends, task })
    }

    /// Takes the socket away once whoever asked has their answer: what ends a deployment may be what they asked for.
    pub(super) async fn close(mut self) {
        let _ = std::fs::remove_file(&self.path);
        self.ends.cancel();
        let _ = tokio::time::timeout(CLOSE_MAX, &mut self.task).await;
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn accept(
    listener: LocalListener,
    subject: Subject,
    requests: mpsc::Sender<Request>,
    ends: CancellationToken,
) {
    let mut clients = JoinSet::new();
    loop {
        while clients.len() >= CLIENTS_MAX {
            clients.join_next().await;
        }
        let accepted = tokio::select! {
            () = ends.cancelled() => {
                drop(listener);
                while clients.join_next().await.is_some() {}
                return;
            }
            accepted = listener.accept(not_allowed) => accepted,
        };
        match accepted {
            Ok(stream) => {
                let (subject, requests) = (subject.clone(), requests.clone());
                clients.spawn(async move {
                    let served = tokio::time::timeout(ANSWER_MAX, serve(stream, subject, requests));
                    if let Ok(Err(error)) = served.await {
                        tracing::debug!(%error, "a command's connection");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "commands are not taken any more");
                return;
            }
        }
    }
}

async fn serve(
    stream: UnixStream,
    subject: Subject,
    requests: mpsc::Sender<Request>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    (&mut stream)
        .take(LINE_BYTES_MAX)
        .read_line(&mut line)
        .await?;
    let answer = match serde_json::from_str(&line) {
        Ok(Ask::Status) => {
            let view = move |engine: &Engine, now| rollout_status::view(&subject, engine, now);
            look(&requests, view).await
        }
        Ok(Ask::Why { host }) => {
            let view = move |engine: &Engine, now| {
                let why = why::view(&subject, engine, &host, now);
                why.unwrap_or_else(|| refusal("that host is not in this rollout"))
            };
            look(&requests, view).await
        }
        Ok(ask) => follow(ask, &requests).await,
        Err(error) => refusal(&format!("not a command: {error}")),
    };
    stream.write_all(format!("{answer}\n").as_bytes()).await
}

/// What somebody sees who looks.
async fn look(
    requests: &mpsc::Sender<Request>,
    view: impl FnOnce(&Engine, Duration) -> Value + Send + 'static,
) -> Value {
    let (reply, looked) = oneshot::channel();
    let look = Request::Look(Box::new(move |engine, now| {
        let _ = reply.send(view(engine, now));
    }));
    let _ = requests.send(look).await;
    looked.await.unwrap_or_else(|_| refusal(ENDING))
}

async fn follow(ask: Ask, requests: &mpsc::Sender<Request>) -> Value {
    let command = match ask {
        Ask::Pause => Command::Pause,
        Ask::Resume => Command::Resume,
        Ask::Promote { on, wave } => Command::Promote { on, wave },
        Ask::Abort => Command::Abort,
        Ask::RetryFailed => Command::RetryFailed,
        Ask::Skip { host, reason } => Command::Skip { host, reason },
        Ask::Status | Ask::Why { .. } => unreachable!("it is no command to the engine"),
    };
    let (answer, followed) = oneshot::channel();
    let _ = requests.send(Request::Command { command, answer }).await;
    match followed.await {
        Ok(Ok(())) => json!({ "ok": true }),
        Ok(Err(error)) => refusal(&error.to_string()),
        Err(_) => refusal(ENDING),
    }
}

fn refusal(why: &str) -> Value {
    json!({ "error": why })
}

/// What a user hears who may not ask.
fn not_allowed(why: &Because) -> Vec<u8> {
    let answer = json!({ "error": why.text, "code": why.code });
    format!("{answer}\n").into_bytes()
}

/// Where the socket of a repo's deployment to an environment is: a short name, as a Unix socket's path may hold 107 bytes.
fn socket_path(folder: &Path, repo: &RepoPath, environment: &Environment) -> PathBuf {
    let hash = blake3::hash(format!("{environment}\0{repo}").as_bytes());
    folder.join(format!("{}.sock", &hash.to_hex()[..16]))
}

/// The deployment that is meant; none where none runs. Also one that takes no commands yet counts, since it asks whether to begin:
/// whoever does not say which one means may not mean the other.
fn meant(args: &ControlArgs) -> Result<Option<About>, CliError> {
    if let Some(name) = &args.name {
        return Ok(Some((name.clone(), args.environment.clone())));
    }
    let mut held = open(&args.state.state)?
        .held()
        .map_err(|error| CliError::failed("find the deployment", &error).hint(error.hint()))?;
    if held.len() < 2 {
        return Ok(held.pop());
    }
    let names: Vec<String> = held.iter().map(title).collect();
    let names = names.join(", ");
    Err(
        CliError::usage(format!("several deployments run, begin or end: {names}"))
            .hint("--name and --environment say which one is meant".to_owned()),
    )
}

fn title((repo, environment): &About) -> String {
    format!("{repo} to {environment}")
}

fn open(path: &Path) -> Result<StateDirectory, CliError> {
    StateDirectory::open(path)
        .map_err(|error| CliError::failed("find the deployment", &error).hint(error.hint()))
}

/// Asks a deployment, and returns its answer; none where it does not run, or takes no commands yet.
async fn ask(args: &ControlArgs, about: &About, ask: &Ask) -> Result<Option<Value>, CliError> {
    let socket = socket_path(&open(&args.state.state)?.control(), &about.0, &about.1);
    let failed = |error: &io::Error| CliError::failed("speak to the deployment", error);
    match say(&socket, &line(ask), ANSWER_MAX).await {
        Ok(answer) => answer.transpose().map_err(|error| failed(&error)),
        Err(_) => Err(failed(&io::ErrorKind::TimedOut.into())),
    }
}

/// What each deployment says of itself that runs with a state directory and was asked for.
pub(super) async fn running_here(path: &Path, read: &ReadArgs) -> Result<Vec<Value>, CliError> {
    ask_here(path, read, &Ask::Status).await
}

/// What each of these answers. Those of another repo or environment than was asked for are left out; so a refusal is, where one was.
/// Of one that does not answer in time it is said so, as its `error`, and it is `unanswered`.
pub(super) async fn ask_here(
    path: &Path,
    read: &ReadArgs,
    ask: &Ask,
) -> Result<Vec<Value>, CliError> {
    let mut all = ask_all(&open(path)?, ask).await;
    all.retain(|answer| {
        let is = |key: &str, wanted: Option<&str>| {
            wanted.is_none_or(|wanted| answer[key].as_str() == Some(wanted))
        };
        let name = read.name.as_ref().map(RepoPath::as_str);
        let environment = read.environment.as_ref().map(Environment::as_str);
        is("repo", name) && is("environment", environment)
    });
    Ok(all)
}

/// All are asked at once: one that is suspended holds up nobody.
async fn ask_all(state: &StateDirectory, ask: &Ask) -> Vec<Value> {
    let folder = state.control();
    // An answer says of what it is; where there is none, the lock does.
    let held = state.held().unwrap_or_default();
    let held: BTreeMap<PathBuf, About> = held
        .into_iter()
        .map(|about| (socket_path(&folder, &about.0, &about.1), about))
        .collect();
    let mut asked = JoinSet::new();
    for socket in sockets(&folder) {
        let line = line(ask);
        asked.spawn(async move {
            let answer = say(&socket, &line, LOOK_MAX).await;
            (socket, answer)
        });
    }
    let mut answers = BTreeMap::new();
    while let Some(asked) = asked.join_next().await {
        let (socket, answer) = asked.expect("asking does not panic");
        let about = held.get(&socket);
        let answer = match answer {
            // What a killed deployment left answers nobody.
            Ok(None) => continue,
            Ok(Some(Ok(answer))) => answer,
            Ok(Some(Err(error))) => unanswered(about, &error.to_string()),
            Err(_) => {
                let text = format!("it did not answer within {} s", LOOK_MAX.as_secs());
                unanswered(about, &text)
            }
        };
        answers.insert(socket, answer);
    }
    answers.into_values().collect()
}

fn unanswered(about: Option<&About>, why: &str) -> Value {
    let repo = about.map(|about| about.0.as_str());
    let environment = about.map(|about| about.1.as_str());
    json!({ "repo": repo, "environment": environment, "unanswered": true, "error": why })
}

/// Where deployments listen, or did.
fn sockets(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// What whoever listens there answers within a time; none where nobody does.
async fn say(
    socket: &Path,
    line: &str,
    within: Duration,
) -> Result<Option<io::Result<Value>>, Elapsed> {
    let speak = async {
        let stream = UnixStream::connect(socket).await.ok()?;
        Some(speak(stream, line).await)
    };
    tokio::time::timeout(within, speak).await
}

fn line(ask: &Ask) -> String {
    let ask = serde_json::to_string(ask).expect("it is plain data");
    format!("{ask}\n")
}

async fn speak(stream: UnixStream, line: &str) -> io::Result<Value> {
    let mut stream = BufReader::new(stream);
    stream.write_all(line.as_bytes()).await?;
    let mut line = String::new();
    stream.take(LINE_BYTES_MAX).read_line(&mut line).await?;
    match line.is_empty() {
        // It heard nothing.
        true => Ok(refusal(ENDING)),
        false => serde_json::from_str(&line).map_err(io::Error::from),
    }
}

/// Has a command followed, and says that it is.
async fn tell(args: &ControlArgs, command: Ask, done: &str) -> Result<u8, CliError> {
    let told = tell_running(args, command, done).await?;
    told.ok_or_else(nobody_runs)
}

fn nobody_runs() -> CliError {
    CliError::usage("no deployment runs here that could be told so")
        .code(exit::FAILED)
        .hint(
            "`scap-coordinator deploy` with the same arguments goes on with one that has ended"
                .to_owned(),
        )
}

/// The same; none where none runs.
async fn tell_running(
    args: &ControlArgs,
    command: Ask,
    done: &str,
) -> Result<Option<u8>, CliError> {
    match meant(args)? {
        Some(about) => tell_one(args, &about, command, done).await,
        None => Ok(None),
    }
}

async fn tell_one(
    args: &ControlArgs,
    about: &About,
    command: Ask,
    done: &str,
) -> Result<Option<u8>, CliError> {
    let Some(answer) = ask(args, about, &command).await? else {
        return Ok(None);
    };
    match answer["error"].as_str() {
        None => {
            println!("{}: {done}", title(about));
            Ok(Some(exit::DONE))
        }
        Some(why) => Err(CliError::usage(format!(
            "{}: not done: {}",
            title(about),
            why.escape_debug()
        ))
        .code(exit::FAILED)
        .hint("`scap-coordinator status` says what it waits for".to_owned())),
    }
}

pub(super) async fn pause(args: ControlArgs) -> Result<u8, CliError> {
    let done = "paused: hosts finish what they were told, and nobody is told anything new";
    tell(&args, Ask::Pause, done).await
}

/// None where none runs.
pub(super) async fn resume(args: &ControlArgs) -> Result<Option<u8>, CliError> {
    tell_running(args, Ask::Resume, "it goes on").await
}

pub(super) async fn promote(args: ControlArgs) -> Result<u8, CliError> {
    // What was seen and what is told are of the same one, whatever begins meanwhile.
    let Some(about) = meant(&args)? else {
        return Err(nobody_runs());
    };
    let seen = ask(&args, &about, &Ask::Status).await?;
    let wait = seen
        .map(|status| status["wait"].clone())
        .unwrap_or_default();
    // What waits for nothing is not held: it says so itself.
    let on = serde_json::from_value(wait["on"].clone()).unwrap_or(WaitingOn::Promotion);
    let wave = wait["wave"].as_str().unwrap_or_default().to_owned();
    let command = Ask::Promote { on, wave };
    let told = tell_one(&args, &about, command, "the next hosts go now").await?;
    told.ok_or_else(nobody_runs)
}

pub(super) async fn abort(args: ControlArgs) -> Result<u8, CliError> {
    let done = "rolling back: every host that was switched goes back to what it ran";
    tell(&args, Ask::Abort, done).await
}

pub(super) async fn retry(args: RetryArgs) -> Result<u8, CliError> {
    let done = "hosts that failed or were not reached are tried again";
    tell(&args.control, Ask::RetryFailed, done).await
}

pub(super) async fn skip(args: SkipArgs) -> Result<u8, CliError> {
    let done = format!("it goes on without {}", args.host);
    let SkipArgs {
        control,
        host,
        reason,
        ..
    } = args;
    tell(&control, Ask::Skip { host, reason }, &done).await
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use scap_proto::release::UnixMillis;

    use super::*;
    use crate::cli::deploy::people;

    #[tokio::test]
    async fn whoever_ends_a_deployment_is_answered_and_whoever_says_nothing_does_not_hold_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("st");
        StateDirectory::init(&path, &"test".parse().unwrap(), UnixMillis(1)).unwrap();
        let state = StateDirectory::open(&path).unwrap();
        let about: About = ("site".parse().unwrap(), Environment::default());
        let subject = Subject {
            about: about.clone(),
            release: String::new(),
            sequence: 1,
            commit: None,
            places: Arc::default(),
        };
        let (people, mut requests) = people();
        let control = Control::listen(&state, subject, people).unwrap();
        let socket = socket_path(&state.control(), &about.0, &about.1);
        let silent = UnixStream::connect(&socket).await.unwrap();
        let asking = UnixStream::connect(&socket).await.unwrap();
        let asked = tokio::spawn(async move { speak(asking, &line(&Ask::Abort)).await });
        let Some(Request::Command { answer, .. }) = requests.recv().await else {
            panic!("no command");
        };
        // As where nobody is to go back: it is over at once.
        answer.send(Ok(())).unwrap();
        drop(requests);
        control.close().await;
        assert_eq!(asked.await.unwrap().unwrap(), json!({ "ok": true }));
        assert!(UnixStream::connect(&socket).await.is_err());
        drop(silent);
    }

    #[tokio::test]
    async fn one_that_does_not_answer_is_said_so_of_and_holds_up_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("st");
        StateDirectory::init(&path, &"test".parse().unwrap(), UnixMillis(1)).unwrap();
        let state = StateDirectory::open(&path).unwrap();
        std::fs::create_dir_all(state.control()).unwrap();
        let place = |repo: &str| -> About { (repo.parse().unwrap(), Environment::default()) };
        let socket = |about: &About| socket_path(&state.control(), &about.0, &about.1);
        let (silent, other) = (place("silent"), place("other"));
        let _held = state.lock(&silent, "deploy", crate::cli::branch::now());
        let _silent = UnixListener::bind(socket(&silent)).unwrap();
        let answers = UnixListener::bind(socket(&other)).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = answers.accept().await.unwrap();
            let mut ask = [0; 1];
            stream.read_exact(&mut ask).await.unwrap();
            stream.write_all(b"{\"repo\":\"other\"}\n").await.unwrap();
        });
        let found = ask_all(&state, &Ask::Status).await;
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(found.contains(&json!({ "repo": "other" })), "{found:#?}");
        let text = "it did not answer within 2 s";
        assert!(
            found.contains(&unanswered(Some(&silent), text)),
            "{found:#?}"
        );
    }

    #[test]
    fn who_does_not_say_which_is_meant_is_refused_where_another_has_only_begun() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("st");
        StateDirectory::init(&path, &"test".parse().unwrap(), UnixMillis(1)).unwrap();
        let state = StateDirectory::open(&path).unwrap();
        let place = |repo: &str| -> About { (repo.parse().unwrap(), Environment::default()) };
        let args = ControlArgs {
            state: StateArgs { state: path },
            name: None,
            environment: Environment::default(),
        };
        assert_eq!(meant(&args).unwrap(), None);
        let now = crate::cli::branch::now();
        let _one = state.lock(&place("one"), "deploy", now).unwrap();
        assert_eq!(meant(&args).unwrap(), Some(place("one")));
        let _two = state.lock(&place("two"), "deploy", now).unwrap();
        let refused = meant(&args).unwrap_err();
        let text = "several deployments run, begin or end: one to production, two to production";
        assert!(format!("{refused:?}").contains(text), "{refused:?}");
        let name = Some(place("two").0);
        assert_eq!(
            meant(&ControlArgs { name, ..args }).unwrap(),
            Some(place("two"))
        );
    }

    #[test]
    fn the_table_of_commands_names_each_that_a_line_may_have() {
        let error = serde_json::from_str::<Ask>(r#"{"command":"no-such"}"#).unwrap_err();
        let named = COMMANDS.map(|name| format!("`{name}`")).join(", ");
        assert!(error.to_string().contains(&named), "{error}");
    }
}
