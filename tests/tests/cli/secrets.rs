//! Keys and tokens are nowhere but in their files and in the memory of those who use them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use scap_tests::fleet::wait_until;

use super::fleet::Fleet;
use super::process::{LIMIT, send_signal};
use super::scene::Scene;

/// The secrets of a fleet, each in the forms in which it could be met, by what they are.
struct Secrets(BTreeMap<String, Vec<u8>>);

impl Secrets {
    fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// All files of keys, below a folder.
    fn add_keys_below(&mut self, folder: &Path) {
        for path in files(folder) {
            let Ok(text) = fs::read_to_string(&path) else {
                continue;
            };
            if text.contains("PRIVATE KEY-----") {
                self.add_key(&path, &text);
            }
        }
    }

    /// What a file of a key holds: a line of it with secret bytes, and, of PKCS#8, the seed.
    fn add_key(&mut self, path: &Path, text: &str) {
        let mut lines = text
            .lines()
            .filter(|line| line.len() >= 40 && !line.starts_with("--"));
        let name = path.display().to_string();
        if text.contains("OPENSSH") {
            // What comes first says what kind of key it is, and its public half.
            let line = lines.next_back().unwrap();
            self.0
                .insert(format!("{name}, text"), line.as_bytes().to_vec());
            return;
        }
        let line = lines.next().unwrap();
        self.0
            .insert(format!("{name}, text"), line.as_bytes().to_vec());
        // After 16 bytes that say that it is one of Ed25519.
        self.add_bytes(&name, &decoded(line)[16..48]);
    }

    fn add_bytes(&mut self, name: &str, bytes: &[u8]) {
        self.0.insert(format!("{name}, raw"), bytes.to_vec());
        let hex = hex::encode(bytes);
        self.0.insert(format!("{name}, hex"), hex.into_bytes());
    }

    #[track_caller]
    fn assert_not_in(&self, bytes: &[u8], place: &str) {
        for (name, secret) in &self.0 {
            let is_there = bytes.windows(secret.len()).any(|at| at == secret);
            assert!(!is_there, "{place} holds {name}");
        }
    }
}

fn decoded(base64: &str) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for digit in base64.bytes().filter(|digit| *digit != b'=') {
        let value = alphabet.iter().position(|it| *it == digit).unwrap();
        bits = bits << 6 | u32::try_from(value).unwrap();
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).unwrap());
        }
    }
    bytes
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.append(&mut files(&path)),
            Ok(kind) if kind.is_file() => found.push(path),
            _ => {}
        }
    }
    found
}

/// Whether a process that nothing keeps from it leaves a core here: else there is nothing to see.
fn cores_are_left(scene: &Scene) -> bool {
    let mut sleep = Command::new("prlimit");
    sleep.args(["--core=unlimited:unlimited", "sleep", "600"]);
    let sleep = scene.start_command(sleep.current_dir(scene.path("tmp")));
    let name = format!("/proc/{}/comm", sleep.pid());
    wait_until("sleep runs", LIMIT, || {
        let comm = fs::read_to_string(&name).unwrap_or_default();
        (comm.trim() == "sleep").then_some(()).ok_or(comm)
    });
    sleep.signal(Signal::ABORT);
    sleep.end().dumped_core()
}

/// Takes from a process the limit of its cores, so that what is left to keep it from leaving one is what it says itself.
fn unlimit_cores(pid: u32) {
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--core=unlimited:unlimited", "--pid", &pid.to_string()]);
    // Without root there is the limit too.
    let _ = prlimit.status();
}

#[test]
fn e10_no_secret_is_in_arguments_environments_logs_data_or_cores() {
    let mut fleet = Fleet::start(&["web1", "web2"]);
    let scene = &fleet.scene;
    scene.repo();
    let token = scene
        .scap(&["token", "create", "web3", "--state", "st"])
        .exits(0);
    let token = token.stdout.trim().to_owned();
    let secret = token.rsplit(':').next().unwrap().to_owned();
    assert_eq!(secret.len(), 64, "{token}");
    let mut secrets = Secrets::new();
    secrets.add_keys_below(&scene.path("st"));
    for name in ["web1", "web2"] {
        secrets.add_keys_below(&scene.path(name).join("identity"));
    }
    assert!(secrets.0.len() >= 10, "{:?}", secrets.0.keys());
    secrets
        .0
        .insert("a token, hex".into(), secret.clone().into_bytes());
    let raw = hex::decode(&secret).unwrap();
    secrets.0.insert("a token, raw".into(), raw);
    // The session's key is there as long as the rollout: it is held up.
    let activator = fleet.agents[0].activator().pid;
    send_signal(activator, Signal::STOP);
    let mut deploy = fleet.start_deploy(&["--repo", "repo"]);
    deploy.wait_until_it_says("wave canary: fetch");
    let before = secrets.0.len();
    secrets.add_keys_below(&scene.path("st/records"));
    assert!(secrets.0.len() > before, "there is no session's key");
    // A host that has only a token, which stands in a file, and waits to be enrolled.
    scene.write("token", format!("{token}\n"));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(scene.path("token"), mode).unwrap();
    fs::create_dir(scene.path("web3")).unwrap();
    let newcomer = scene.start(&[
        "agent",
        "enroll",
        "--identity",
        "web3/identity",
        "--listen",
        "127.0.0.1:0",
        "--token-file",
        "token",
    ]);
    wait_until("the newcomer waits", LIMIT, || {
        let said = newcomer.said();
        let waits = said.contains("waiting to be enrolled");
        waits.then_some(()).ok_or(said)
    });
    secrets.add_keys_below(&scene.path("web3/identity"));
    let processes = scene.processes();
    assert!(processes.len() >= 8, "{processes:?}");
    for process in processes {
        for file in ["cmdline", "environ"] {
            let path = format!("/proc/{}/{file}", process.pid);
            let bytes = fs::read(&path).unwrap_or_default();
            secrets.assert_not_in(&bytes, &format!("{file} of {}", process.command));
        }
    }
    drop(newcomer);

    // A deployment and a daemon that crash leave no core.
    let leaves_cores = cores_are_left(scene);
    unlimit_cores(deploy.pid());
    deploy.signal(Signal::ABORT);
    let ended = deploy.end();
    assert!(ended.was_killed_by(Signal::ABORT) && !ended.dumped_core());
    send_signal(activator, Signal::CONT);
    fleet.deploy_repo();
    let mut agent = fleet.agents.remove(1);
    unlimit_cores(agent.running().pid());
    send_signal(agent.activator().pid, Signal::SEGV);
    let ended = agent.crash();
    assert!(ended.was_killed_by(Signal::ABORT) && !ended.dumped_core());

    // The files of keys are where they are to be; nothing else has them.
    let scene = &fleet.scene;
    let kept = |path: &Path| {
        let below = path.strip_prefix(scene.root()).unwrap();
        let may = [
            "st",
            "web1/identity",
            "web2/identity",
            "web3/identity",
            "token",
        ];
        // What `token create` printed is for whoever typed it.
        let is_token = fs::read(path).unwrap() == format!("{token}\n").as_bytes();
        may.iter().any(|at| below.starts_with(at)) || is_token
    };
    let mut seen = 0;
    for path in files(scene.root()).into_iter().filter(|path| !kept(path)) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let is_sleeps = path.starts_with(scene.path("tmp"));
        assert!(is_sleeps || !name.starts_with("core"), "{path:?}");
        secrets.assert_not_in(&fs::read(&path).unwrap(), &path.display().to_string());
        seen += 1;
    }
    assert!(seen > 20, "{seen}");
    if !leaves_cores {
        println!("note: no process leaves a core here, whoever it is");
    }
}
