//! Releases that several must sign, elsewhere and with stock OpenSSH; keys that change; and from where releases are taken.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use scap_tests::fleet::wait_until;
use serde_json::{Value, json};

use super::fleet::{Fleet, deployed, enroll, host, status};
use super::process::LIMIT;
use super::scene::Scene;

const NAMESPACE: &str = "scap-release:production:repo";

/// Whether a tool of OpenSSH is there; says so on a line of its own where it is not.
fn have(tool: &str) -> bool {
    let there = Command::new(tool).arg("-?").output().is_ok();
    if !there {
        println!("skipped: {tool} is not installed");
    }
    there
}

impl Scene {
    /// A command of OpenSSH in the scene.
    #[track_caller]
    fn ssh(&self, tool: &str, arguments: &[&str]) {
        let output = Command::new(tool)
            .args(arguments)
            .current_dir(self.root())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{tool} {arguments:?}: {output:?}");
    }

    /// Makes a key with `ssh-keygen`, and gives its line of a signers file.
    fn key(&self, name: &str) -> String {
        self.ssh(
            "ssh-keygen",
            &["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", name],
        );
        let public = fs::read_to_string(self.path(format!("{name}.pub"))).unwrap();
        format!("{name} namespaces=\"scap-release:*,scap-signers:*\" {public}")
    }

    /// Has `key` sign a file's bytes elsewhere: nothing but them, OpenSSH and the key.
    fn sign_elsewhere(&self, key: &str, namespace: &str, file: &str) -> String {
        let copy = format!("elsewhere-{key}");
        fs::copy(self.path(format!("{file}.to-sign")), self.path(&copy)).unwrap();
        let sign = ["-q", "-Y", "sign", "-n", namespace, "-f", key, &copy];
        self.ssh("ssh-keygen", &sign);
        format!("{copy}.sig")
    }

    fn signers(&self) -> String {
        fs::read_to_string(self.path("st/allowed_signers")).unwrap()
    }
}

/// A fleet whose releases take the signatures of two of three: the deployer's, alice's and bob's.
fn two_of_three(hosts: &[&str]) -> Fleet {
    let scene = Scene::new();
    let lines = [scene.signers(), scene.key("alice"), scene.key("bob")];
    scene.write("st/allowed_signers", lines.concat());
    let rule = "[[signatures]]\nenvironment = \"production\"\nmin = 2\n";
    scene.write("st/signatures.toml", rule);
    Fleet::start_in(scene, hosts)
}

fn prepare(fleet: &Fleet, file: &str) {
    let arguments = [
        "release", "prepare", "--state", "st", "--repo", "repo", "--out",
    ];
    let ended = fleet.scene.scap(&[&arguments[..], &[file]].concat());
    ended.exits(0).prints(&[
        "to production",
        &format!("ssh-keygen -Y sign -n {NAMESPACE} -f KEY {file}.to-sign"),
    ]);
}

fn verified(fleet: &Fleet, file: &str, code: i32) -> Value {
    let arguments = ["release", "verify", file, "--state", "st", "--json"];
    let ended = fleet.scene.scap(&arguments).exits(code);
    ended.json("scap.release-signatures/1")
}

#[test]
fn b8_a_release_that_two_signed_elsewhere_is_deployed_and_one_that_one_signed_is_not() {
    if !have("ssh-keygen") {
        return;
    }
    let fleet = two_of_three(&["web1", "web2"]);
    let (repo, commit) = fleet.scene.repo();
    // One key signs, as always, and no host is told anything.
    fleet.deploy(&["--repo", "repo"]).fails(
        2,
        "sign the release",
        "takes the signatures of 2 keys",
        "release prepare",
    );
    // Nor by the ways that sign by the way.
    let place = ["--repo", "repo", "--state", "st", "--fleet", "fleet.toml"];
    let run = |words: &[&str]| fleet.scene.scap(&[words, &place[..]].concat());
    run(&["rollback", "--yes"]).fails(
        2,
        "sign the release",
        "takes the signatures of 2 keys",
        "release prepare --rev",
    );
    run(&["deploy", "--dry-run", "--ask-hosts"]).fails(
        2,
        "ask the hosts",
        "what 2 keys signed",
        "leave --ask-hosts out",
    );

    prepare(&fleet, "one.release");
    let compared = ["release", "show", "one.release", "--repo", "repo"];
    let compared = fleet.scene.scap(&compared).exits(0);
    compared.prints(&[
        "release #1 of repo to production",
        &commit,
        "it is of what is here",
    ]);
    let add = |signature: &str| {
        let arguments = ["release", "add-signature", "one.release", signature];
        fleet
            .scene
            .scap(&[&arguments[..], &["--state", "st"]].concat())
    };
    let alice = fleet
        .scene
        .sign_elsewhere("alice", NAMESPACE, "one.release");
    add(&alice).exits(0).prints(&["signed by alice", "1 of 2"]);
    add(&alice)
        .exits(0)
        .prints(&["signed already by alice", "1 of 2"]);
    assert_eq!(verified(&fleet, "one.release", 3)["may_be_deployed"], false);
    let staging = "scap-release:staging:repo";
    let wrong = fleet.scene.sign_elsewhere("bob", staging, "one.release");
    add(&wrong).fails(1, "add elsewhere-bob.sig", "signed in the namespace", "");
    let deploy = ["--repo", "repo", "--release", "one.release"];
    let with_alice = [&deploy[..], &["--sign-with", "alice"]].concat();
    fleet.deploy(&with_alice).fails(
        3,
        "deploy the prepared release #1",
        "1 of 2",
        "release verify",
    );

    fs::remove_file(fleet.scene.path("elsewhere-bob.sig")).unwrap();
    let bob = fleet.scene.sign_elsewhere("bob", NAMESPACE, "one.release");
    add(&bob).exits(0).prints(&["signed by bob", "2 of 2"]);
    let enough = verified(&fleet, "one.release", 0);
    assert_eq!(enough["signed_by"].as_array().unwrap().len(), 2);
    assert_eq!(enough["needed"], 2);
    // Whoever signed it directs it, and nobody else.
    fleet.deploy(&deploy).fails(
        3,
        "deploy the prepared release #1",
        "did not sign",
        "release sign FILE",
    );
    let report = deployed(&fleet.deploy(&with_alice).exits(0));
    assert_eq!(
        (&report["sequence"], &report["release"]),
        (&json!(1), &enough["release"])
    );
    fleet.assert_all_run(&repo, &commit);
    // The same again is the same.
    let again = deployed(&fleet.deploy(&with_alice).exits(0));
    assert_eq!(again["release"], report["release"]);
}

#[test]
fn a_prepared_release_is_refused_once_its_sequence_is_taken_or_the_tree_is_another() {
    if !have("ssh-keygen") {
        return;
    }
    let fleet = two_of_three(&["web1"]);
    let (repo, first) = fleet.scene.repo();
    prepare(&fleet, "one.release");
    repo.write("README.md", "# A better site\n");
    let second = repo.commit("Better");
    prepare(&fleet, "two.release");
    for file in ["one.release", "two.release"] {
        for key in ["alice", "bob"] {
            let sign = ["release", "sign", file, "--state", "st", "--sign-with", key];
            fleet.scene.scap(&sign).exits(0).prints(&["signed by"]);
        }
    }
    let deploy =
        |file: &str| fleet.deploy(&["--repo", "repo", "--release", file, "--sign-with", "bob"]);
    // Each names its own commit, wherever the branch is.
    deployed(&deploy("two.release").exits(0));
    fleet.assert_all_run(&repo, &second);
    deploy("one.release").fails(
        3,
        "deploy the prepared release #1",
        "taken by another release since",
        "release prepare",
    );
    fleet.assert_all_run(&repo, &second);

    let prepare_first = [
        "release",
        "prepare",
        "--state",
        "st",
        "--repo",
        "repo",
        "--rev",
        &first,
        "--out",
        "back.release",
    ];
    fleet
        .scene
        .scap(&prepare_first)
        .exits(0)
        .prints(&["release #2"]);
    deploy("back.release").fails(
        3,
        "deploy the prepared release #2",
        "0 signatures",
        "release verify",
    );
    for key in ["alice", "bob"] {
        let sign = [
            "release",
            "sign",
            "back.release",
            "--state",
            "st",
            "--sign-with",
            key,
        ];
        fleet.scene.scap(&sign).exits(0);
    }
    deployed(&deploy("back.release").exits(0));
    fleet.assert_all_run(&repo, &first);
}

/// An ssh-agent that lists and signs, and answers all else with a failure, in front of a real one: as a filter does that lets
/// a group of deployers use one key.
struct Filter {
    agent: Child,
    socket: PathBuf,
    /// The kinds of messages that were asked.
    asked: Arc<Mutex<Vec<u8>>>,
}

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;

impl Filter {
    fn start(folder: &Path, key: &Path) -> Self {
        let (real, socket) = (folder.join("agent"), folder.join("filter"));
        let agent = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&real)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let filter = Self {
            agent,
            socket,
            asked,
        };
        wait_until("ssh-agent listens", LIMIT, || {
            UnixStream::connect(&real)
                .map(drop)
                .map_err(|it| it.to_string())
        });
        let added = Command::new("ssh-add")
            .arg("-q")
            .arg(key)
            .env("SSH_AUTH_SOCK", &real)
            .output()
            .unwrap();
        assert!(added.status.success(), "{added:?}");
        let listener = UnixListener::bind(&filter.socket).unwrap();
        let asked = filter.asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = filtered(stream, &real, &asked);
            }
        });
        filter
    }
}

/// Answers one client until it goes.
fn filtered(mut client: UnixStream, real: &Path, asked: &Mutex<Vec<u8>>) -> std::io::Result<()> {
    let mut agent = UnixStream::connect(real)?;
    loop {
        let message = read_message(&mut client)?;
        let kind = message.first().copied().unwrap_or_default();
        asked.lock().unwrap().push(kind);
        let answer = match kind {
            REQUEST_IDENTITIES | SIGN_REQUEST => {
                write_message(&mut agent, &message)?;
                read_message(&mut agent)?
            }
            _ => vec![FAILURE],
        };
        write_message(&mut client, &answer)?;
    }
}

fn read_message(stream: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn write_message(stream: &mut UnixStream, message: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(message.len()).unwrap();
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(message)
}

impl Drop for Filter {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

#[test]
fn a_deployment_is_signed_through_an_agent_that_lists_and_signs_and_does_nothing_else() {
    if !have("ssh-agent") || !have("ssh-add") {
        return;
    }
    let fleet = Fleet::start(&["web1"]);
    let (repo, commit) = fleet.scene.repo();
    let filter = Filter::start(fleet.scene.root(), &fleet.scene.path("st/deployer_key"));
    // What the filter refuses, it refuses.
    let removed = Command::new("ssh-add")
        .arg("-D")
        .env("SSH_AUTH_SOCK", &filter.socket)
        .output()
        .unwrap();
    assert!(!removed.status.success(), "{removed:?}");
    filter.asked.lock().unwrap().clear();

    fs::rename(
        fleet.scene.path("st/deployer_key"),
        fleet.scene.path("put-away"),
    )
    .unwrap();
    let arguments = [
        "deploy",
        "--state",
        "st",
        "--fleet",
        "fleet.toml",
        "--yes",
        "--json",
        "--repo",
        "repo",
        "--sign-with",
        "st/deployer_key.pub",
    ];
    let mut command = fleet.scene.command(&arguments);
    command.env("SSH_AUTH_SOCK", &filter.socket);
    deployed(&fleet.scene.start_command(&mut command).end().exits(0));
    fleet.assert_all_run(&repo, &commit);
    let asked = filter.asked.lock().unwrap().clone();
    assert!(asked.contains(&SIGN_REQUEST), "{asked:?}");
    let others = asked
        .iter()
        .filter(|kind| ![REQUEST_IDENTITIES, SIGN_REQUEST].contains(kind));
    assert_eq!(others.count(), 0, "{asked:?}");
}

#[test]
fn b9_keys_change_for_all_hosts_with_the_next_deployment_and_for_one_that_was_away_in_one_go() {
    if !have("ssh-keygen") {
        return;
    }
    let mut fleet = Fleet::start(&["web1", "web2"]);
    let (repo, _) = fleet.scene.repo();
    fleet.deploy_repo();
    let away = fleet.agents.pop().unwrap();
    let address = away.address.clone();
    away.stop().exits(0);

    // To alice, and then on to bob: each signed by the one before and the one after.
    let (alice, bob) = (fleet.scene.key("alice"), fleet.scene.key("bob"));
    fleet.scene.write("alice.signers", &alice);
    fleet.scene.write("bob.signers", &bob);
    let rotate = |file: &str, keys: &[&str]| {
        let mut arguments = vec!["signers", "rotate", file, "--state", "st"];
        for key in keys {
            arguments.extend(["--sign-with", key]);
        }
        fleet.scene.scap(&arguments)
    };
    for one_side in [&["st/deployer_key"][..], &["alice"]] {
        rotate("alice.signers", one_side).fails(
            3,
            "change who may release",
            "not signed by enough keys of the file",
            "signers sign",
        );
    }
    rotate("alice.signers", &["st/deployer_key", "alice"])
        .exits(0)
        .prints(&["signers file 1 is in force here"]);
    // The second is signed apart.
    let out = [
        "signers",
        "rotate",
        "bob.signers",
        "--state",
        "st",
        "--out",
        "bob.link",
    ];
    let out = fleet.scene.scap(&out).exits(0);
    out.prints(&["ssh-keygen -Y sign -n scap-signers:fleet -f KEY bob.link.to-sign"]);
    for key in ["alice", "bob"] {
        let signature = fleet
            .scene
            .sign_elsewhere(key, "scap-signers:fleet", "bob.link");
        let add = [
            "signers",
            "add-signature",
            "bob.link",
            &signature,
            "--state",
            "st",
        ];
        fleet.scene.scap(&add).exits(0);
    }
    let adopt = ["signers", "adopt", "bob.link", "--state", "st"];
    fleet
        .scene
        .scap(&adopt)
        .exits(0)
        .prints(&["signers file 2"]);
    assert_eq!(fleet.scene.signers(), bob);

    repo.write("README.md", "# Bob's site\n");
    let second = repo.commit("By bob");
    let by = |key: &str| fleet.deploy(&["--repo", "repo", "--sign-with", key, "-l", "web1"]);
    deployed(&by("bob").exits(0));
    repo.archived(&second)
        .assert_is(&fleet.agents[0].live("repo"));
    let number = |host: &str| {
        let status = status(&fleet.scene, host)
            .exits(0)
            .json("scap.agent-status/1");
        status["authority"]["signers_file"].clone()
    };
    assert_eq!(number("web1"), 2);

    // The one that was away has neither link, and gets both with the first order that it hears.
    let returned = super::fleet::Agent::start_at(&fleet.scene, "web2", &address);
    assert_eq!(number("web2"), 0);
    let fleet = Fleet {
        agents: fleet.agents.into_iter().chain([returned]).collect(),
        scene: fleet.scene,
    };
    let report = deployed(
        &fleet
            .deploy(&["--repo", "repo", "--sign-with", "bob"])
            .exits(0),
    );
    assert_eq!(host(&report, "web2")["outcome"], "promoted");
    fleet.assert_all_run(&repo, &second);

    // It keeps to it: also after a restart that lost the daemon's record.
    let Fleet { mut agents, scene } = fleet;
    let agent = agents.pop().unwrap();
    agent.stop().exits(0);
    fs::remove_file(scene.path("web2/data/signers")).unwrap();
    let again = super::fleet::Agent::start_enrolled(&scene, "web2");
    let told = status(&scene, "web2").exits(0).json("scap.agent-status/1");
    assert_eq!(told["authority"]["signers_file"], 2);
    agents.push(again);

    // A host that is enrolled now begins there.
    enroll(&scene, "web3", &[]);
    let told = fs::read_to_string(scene.path("web3/identity/host.toml")).unwrap();
    assert!(told.contains("signers_number = 2"), "{told}");
}

#[test]
fn t7_a_thief_of_the_deployers_key_cannot_deploy_from_a_host_of_its_own() {
    let fleet = Fleet::start(&["web1"]);
    let (repo, commit) = fleet.scene.repo();
    fleet.deploy_repo();
    let told = status(&fleet.scene, "web1")
        .exits(0)
        .json("scap.agent-status/1");
    assert_eq!(
        told["authority"]["origins"],
        json!(["coordinator"]),
        "{told:#}"
    );

    // Somebody with the key, the authority's key even, and another deployment host of the same fleet.
    let identity = fleet.scene.path("web1/identity/host.toml");
    let text = fs::read_to_string(&identity).unwrap();
    let text = text.replace("\"coordinator\"", "\"deploy1\"");
    let Fleet { mut agents, scene } = fleet;
    agents.pop().unwrap().stop().exits(0);
    fs::write(&identity, &text).unwrap();
    let fleet = Fleet::start_in(scene, &["web1"]);
    repo.write("README.md", "# A site of a thief\n");
    repo.commit("Stolen");
    let report = deployed(&fleet.deploy(&["--repo", "repo"]).exits(4));
    let refused = host(&report, "web1");
    assert_eq!(refused["code"], "refused-origin", "{refused:#}");
    let error = refused["error"].as_str().unwrap();
    assert!(error.contains("directed from coordinator"), "{error}");
    fleet.assert_all_run(&repo, &commit);

    // An exception is said in the file, and shown.
    let Fleet { mut agents, scene } = fleet;
    agents.pop().unwrap().stop().exits(0);
    fs::write(&identity, format!("require_origin = false\n{text}")).unwrap();
    let fleet = Fleet::start_in(scene, &["web1"]);
    let shown = fleet
        .scene
        .scap(&["agent", "status", "--data", "web1/data"]);
    shown.exits(0).prints(&["any (require_origin = false)"]);
    deployed(&fleet.deploy(&["--repo", "repo"]).exits(0));
}
