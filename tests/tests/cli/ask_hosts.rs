//! What `deploy --dry-run --ask-hosts` says: each host renders with its own variables, against what is there, and writes nothing.

use std::path::PathBuf;
use std::sync::Arc;

use rustix::process::Signal;
use scap_agent::clock;
use scap_proto::frame;
use scap_proto::identity::verifier::Expect;
use scap_proto::identity::{CertificateAuthority, Identity, Role, Validity};
use scap_proto::release::signature::Signer;
use scap_proto::release::{ConfigQuestion, SignedConfigQuestion, UnixMillis};
use scap_proto::transport::{Endpoint, LinkSettings};
use scap_proto::wire::config::ConfigAnswer;
use scap_proto::wire::{Envelope, Open};
use scap_tests::fleet::wait_until;
use scap_tests::repo::SourceRepo;
use serde_json::{Value, json};

use super::fleet::{Agent, Fleet, enroll, fleet_file};
use super::process::{Ended, LIMIT};
use super::rollout::{DRY_RUN, look, wait_for, written};
use super::scene::Scene;

/// The same path of all hosts, and on each its own file: an agent's own folder is its current directory here.
const APP: &str = "/proc/self/cwd/etc/app.yaml";

/// Hosts with variables of their own, and a repo with config files.
struct World {
    fleet: Fleet,
    repo: SourceRepo,
}

impl World {
    fn start(hosts: &[(&str, &str)]) -> Self {
        let scene = Scene::new();
        let mut agents = Vec::new();
        for (name, vars) in hosts {
            let both = ["--environment", "production", "--environment", "staging"];
            enroll(&scene, name, &both);
            scene.write(&format!("{name}/vars.yaml"), vars);
            std::fs::create_dir(scene.path(name).join("etc")).unwrap();
            agents.push(Agent::start_in_its_folder(&scene, name, "127.0.0.1:0", &[]));
        }
        let repo = SourceRepo::create(&scene.path("repo"));
        repo.write(
            "scap/scap.cfg",
            "[global]\ngit_repo: mw/app\nconfig_deploy: True\n",
        );
        repo.write(
            "scap/config-files.yaml",
            format!(
                "{APP}:\n  template: app.yaml.j2\n  remote_vars: /proc/self/cwd/vars.yaml\n\
                 conf/version:\n  template: version.j2\n"
            ),
        );
        repo.write("scap/templates/app.yaml.j2", "pool: {{ pool }}\nsize: 1\n");
        repo.write("scap/templates/version.j2", "one\n");
        repo.commit("One");
        let fleet = Fleet { agents, scene };
        fleet.write_fleet_file();
        Self { fleet, repo }
    }

    fn deploy(&self, more: &[&str]) {
        let arguments = [&["--repo", "repo"], more].concat();
        self.fleet.deploy(&arguments).exits(0);
    }

    /// Asks, by which neither this machine nor any host writes anything.
    #[track_caller]
    fn ask(&self, more: &[&str]) -> Ended {
        let scene = &self.fleet.scene;
        let before = (look(scene), self.settled());
        let ended = scene.scap(&[&DRY_RUN[..], &["--ask-hosts"], more].concat());
        assert_eq!(before.0, look(scene), "something was written here");
        assert_eq!(before.1, self.on_hosts(), "a host wrote something");
        ended
    }

    /// Everything that hosts have, with when it was changed.
    fn on_hosts(&self) -> Vec<(PathBuf, i64, i64)> {
        let agents = self.fleet.agents.iter();
        let folders = agents.map(|agent| self.fleet.scene.path(agent.name()));
        folders.flat_map(|folder| written(&folder)).collect()
    }

    /// The same once nothing has changed for a while: what is done in the background after a deployment is over.
    fn settled(&self) -> Vec<(PathBuf, i64, i64)> {
        let (mut last, mut same) = (Vec::new(), 0);
        wait_until("hosts to come to rest", LIMIT, || {
            let now = self.on_hosts();
            same = if now == last { same + 1 } else { 0 };
            last = now;
            if same < 30 { Err(same) } else { Ok(()) }
        });
        last
    }
}

/// A file's name, its status, and its diff.
type File = (String, String, String);

/// The groups of hosts, each with its files.
fn groups(said: &Value) -> Vec<(Value, Vec<File>)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let groups = said["on_hosts"]["groups"].as_array().unwrap().iter();
    let groups = groups.map(|group| {
        let files = group["files"].as_array().unwrap().iter();
        let files = files.map(|file| {
            (
                text(&file["file"]),
                text(&file["status"]),
                text(&file["diff"]),
            )
        });
        (group["hosts"].clone(), files.collect())
    });
    groups.collect()
}

fn file(name: &str, status: &str, diff: &str) -> File {
    (name.into(), status.into(), diff.into())
}

#[test]
fn hosts_say_what_would_change_with_their_own_variables_and_against_what_they_run() {
    let world = World::start(&[
        ("web1", "pool: a"),
        ("web2", "pool: a"),
        ("web3", "pool: b"),
    ]);
    // Nothing is live, and something else stands in the place of a file.
    let stands = world.fleet.scene.path("web3/etc/app.yaml");
    std::fs::write(&stands, "pool: b\nsize: 0\n").unwrap();
    world.ask(&[]).exits(0).prints(&[
        &format!("2 hosts: web1 web2, where nothing is live\nnew        {APP}\n--- /dev/null\n+++ {APP}\n@@ -0,0 +1,2 @@\n+pool: a\n+size: 1\n"),
        "host web3, where nothing is live\nchanged    /proc",
        "  what stands there is none of ours, and is moved aside\n",
        "\n pool: b\n-size: 0\n",
        "\n3 of 3 hosts told what would change there, and did nothing about it; nothing was written\n",
    ]);
    world.deploy(&[]);

    // What is live differs, and so do variables.
    world
        .repo
        .write("scap/templates/app.yaml.j2", "pool: {{ pool }}\nsize: 2\n");
    world.repo.commit("Two");
    world.deploy(&["-l", "web2"]);
    world.repo.write(
        "scap/templates/app.yaml.j2",
        "pool: {{ pool }}\nsize: 3\n\u{1b}[31m\n",
    );
    world.repo.commit("Three");
    let (down, hosts) = (
        "127.0.0.1:9",
        world.fleet.agents.iter().map(|it| it.address.clone()),
    );
    let addresses: Vec<String> = hosts.collect();
    let [one, two, three] = [0, 1, 2].map(|at| addresses[at].as_str());
    world.fleet.scene.write(
        "fleet.toml",
        fleet_file(&[
            ("web1", one, true),
            ("web2", two, false),
            ("web3", three, false),
            ("web4", down, false),
        ]),
    );
    let ended = world.ask(&["--json", "--connect-timeout", "2"]).exits(1);
    let said = ended.json("scap.dry-run/1");
    let changed = |pool: &str, from: &str| {
        let text = format!(
            "--- {APP}\n+++ {APP}\n@@ -1,2 +1,3 @@\n pool: {pool}\n-size: {from}\n\
             \\ No newline at end of file\n+size: 3\n+\u{1b}[31m\n\\ No newline at end of file\n"
        );
        [
            file(APP, "changed", &text),
            file("conf/version", "unchanged", ""),
        ]
        .to_vec()
    };
    assert_eq!(
        groups(&said),
        [
            (json!(["web1"]), changed("a", "1")),
            (json!(["web2"]), changed("a", "2")),
            (json!(["web3"]), changed("b", "1")),
        ]
    );
    assert_eq!(said["on_hosts"]["groups"][1]["live"]["sequence"], 2);
    let untold = &said["on_hosts"]["untold"][0];
    assert_eq!(untold["host"], "web4");
    assert_eq!(untold["problem"], "unreachable");
    let ended = world.ask(&["--connect-timeout", "2"]).exits(1);
    ended.prints(&[
        "host web1, where #1 ",
        "+size: 3\n+\\u{1b}[31m\n",
        "unchanged  conf/version\n",
        "\nweb4: not told: ",
        "\n3 of 4 hosts told",
    ]);

    // Without the flag nobody is contacted.
    let plain = world
        .fleet
        .scene
        .scap(&[&DRY_RUN[..], &["--json"]].concat());
    assert_eq!(
        plain.exits(0).json("scap.dry-run/1")["on_hosts"],
        Value::Null
    );
}

#[test]
fn a_host_that_refuses_or_cannot_render_is_named_with_its_reason() {
    let mut world = World::start(&[
        ("web1", "pool: {name: {x: a}}"),
        ("web2", "pool: {name: {x: a}}"),
        ("web3", "pool: {}"),
    ]);
    world.deploy(&[]);
    world
        .repo
        .write("scap/templates/app.yaml.j2", "pool: {{ pool.name.x }}\n");
    let only =
        format!("{APP}:\n  template: app.yaml.j2\n  remote_vars: /proc/self/cwd/vars.yaml\n");
    world.repo.write("scap/config-files.yaml", only);
    world.repo.commit("Two");
    // Who releases to the others may not to this one.
    let scene = &world.fleet.scene;
    world.fleet.agents.remove(1).stop();
    scene.write("web2/identity/allowed_signers", "");
    let again = Agent::start_in_its_folder(scene, "web2", "127.0.0.1:0", &[]);
    world.fleet.agents.insert(1, again);
    world.fleet.write_fleet_file();

    let ended = world.ask(&["--json"]).exits(1);
    let said = ended.json("scap.dry-run/1");
    let [one, three] = groups(&said).try_into().unwrap();
    assert_eq!((&one.0, &three.0), (&json!(["web1"]), &json!(["web3"])));
    let of = |files: &[File]| -> Vec<(String, String)> {
        let files = files.iter();
        files.map(|it| (it.0.clone(), it.1.clone())).collect()
    };
    let pair = |name: &str, status: &str| (name.to_owned(), status.to_owned());
    let removed = pair("conf/version", "removed");
    assert_eq!(of(&one.1), [pair(APP, "changed"), removed.clone()]);
    assert_eq!(of(&three.1), [pair(APP, "error"), removed]);
    let untold = &said["on_hosts"]["untold"];
    assert_eq!(untold[0]["host"], "web2");
    assert_eq!(untold[0]["problem"], "refused");
    world.ask(&[]).exits(1).prints(&[
        &format!("error      {APP}\n  render {APP}: templates/app.yaml.j2:1: undefined value"),
        "removed    conf/version\n--- conf/version\n+++ /dev/null\n@@ -1 +0,0 @@\n-one\n",
        "web2: not told: it refuses: the question is not signed by enough allowed signers for production:mw/app",
        "\n2 of 3 hosts told",
    ]);
}

/// Asks a host, as whoever has that identity.
async fn ask_as(
    who: &Arc<Identity>,
    address: &str,
    question: &SignedConfigQuestion,
) -> anyhow::Result<ConfigAnswer> {
    let endpoint = Endpoint::dial_only(who.clone(), &LinkSettings::default()).unwrap();
    let address = [address.parse().unwrap()];
    let link = endpoint.dial_to_ask(&address, &Expect::ANY).await?;
    let (mut send, mut receive) = link.open_bi().await?;
    let open = Envelope::from(Open::Config(Box::new(question.clone())));
    frame::write_message(&mut send, &open).await?;
    let answer: Option<Envelope<ConfigAnswer>> = frame::read_message(&mut receive).await?;
    Ok(answer.unwrap().message)
}

#[tokio::test]
async fn a_question_is_worth_nothing_to_anybody_else_nor_elsewhere_nor_later() {
    let world = World::start(&[("web1", "pool: a"), ("web2", "pool: a")]);
    let scene = &world.fleet.scene;
    let load = |folder: &str| Arc::new(Identity::load(&scene.path(folder)).unwrap());
    let ours = load("st/coordinator");
    let signer = Signer::from_file(&scene.path("st/deployer_key")).unwrap();
    let now = clock::now();
    let question = ConfigQuestion {
        repo: "mw/app".parse().unwrap(),
        environment: "production".parse().unwrap(),
        audience: Default::default(),
        asker: *ours.public_key(),
        hosts: vec!["web1".parse().unwrap()],
        expires: UnixMillis(now.0 + 60_000),
        files: Vec::new(),
        vars: "{}".into(),
        templates: Default::default(),
        extensions: Default::default(),
    };
    let sign = |question: &ConfigQuestion| SignedConfigQuestion::sign(question, &signer).unwrap();
    let [web1, web2] = [0, 1].map(|at| world.fleet.agents[at].address.as_str());
    let signed = sign(&question);
    let answer = ask_as(&ours, web1, &signed).await.unwrap();
    assert!(matches!(answer, ConfigAnswer::Changes(_)), "{answer:?}");

    // Another coordinator of the fleet, by the very name of the one that it is for.
    let authority = CertificateAuthority::load(&scene.path("st/ca")).unwrap();
    let node = authority.node(Role::Coordinator, "coordinator".parse().unwrap());
    let folder = scene.path("other");
    Identity::create(&folder, &authority, &node, Validity::leaf(now.0)).unwrap();
    let other = load("other");
    let refused = |answer: ConfigAnswer, why: &str| match answer {
        ConfigAnswer::Refused(reason) => assert!(reason.contains(why), "{reason}"),
        other => panic!("{why}: {other:?}"),
    };
    let answer = ask_as(&other, web1, &signed).await.unwrap();
    refused(answer, "signed for another coordinator");
    // A host, which is not even told why.
    let host = load("web2/identity");
    ask_as(&host, web1, &signed).await.unwrap_err();

    let answer = ask_as(&ours, web2, &signed).await.unwrap();
    refused(answer, "web2 is not among those who are asked");
    let with = |expires: u64| ConfigQuestion {
        expires: UnixMillis(expires),
        ..question.clone()
    };
    let answer = ask_as(&ours, web1, &sign(&with(now.0 - 1))).await.unwrap();
    refused(answer, "the question expired at");
    let answer = ask_as(&ours, web1, &sign(&with(now.0 + 7_200_000)))
        .await
        .unwrap();
    refused(answer, "more than 3600000 ms after");
    let in_environment = |environment: &str| ConfigQuestion {
        environment: environment.parse().unwrap(),
        ..question.clone()
    };
    let answer = ask_as(&ours, web1, &sign(&in_environment("beta"))).await;
    refused(answer.unwrap(), "addressed to environment beta");
    let forged = SignedConfigQuestion {
        signatures: sign(&with(now.0 + 1)).signatures,
        ..signed
    };
    let answer = ask_as(&ours, web1, &forged).await.unwrap();
    refused(answer, "not signed by enough allowed signers");
    assert!(!scene.path("web1/srv/mw").exists(), "something was made");
    // A host that is in both follows a repo in one.
    world.deploy(&[]);
    let answer = ask_as(&ours, web1, &sign(&in_environment("staging"))).await;
    refused(
        answer.unwrap(),
        "is deployed here for environment production, not staging",
    );
}

#[test]
fn asking_while_a_release_soaks_takes_no_link_from_who_deploys_it() {
    let mut world = World::start(&[("web1", "pool: a"), ("web2", "pool: a")]);
    let more = ["--repo", "repo", "--soak", "600"];
    let mut deploy = world.fleet.start_deploy(&more);
    wait_for(&world.fleet, &mut deploy, "soak");
    let ended = world
        .fleet
        .scene
        .scap(&[&DRY_RUN[..], &["--ask-hosts", "--json"]].concat());
    let said = ended.exits(0).json("scap.dry-run/1");
    let lives = said["on_hosts"]["groups"].as_array().unwrap().iter();
    let lives: Vec<_> = lives
        .map(|it| (&it["hosts"], &it["live"]["sequence"]))
        .collect();
    assert_eq!(
        lives,
        [
            (&json!(["web1"]), &json!(1)),
            (&json!(["web2"]), &Value::Null)
        ]
    );
    for agent in &mut world.fleet.agents {
        let log = agent.running().said();
        assert_eq!(log.matches("control stream opened").count(), 1, "{log}");
        assert!(!log.contains("control stream lost"), "{log}");
        assert!(
            log.contains("asked what config files would change"),
            "{log}"
        );
    }
    deploy.signal(Signal::KILL);
    deploy.end();
}
