//! A host is stolen: it is cut off by all others, also by those that only hear of it from these, and after restarts.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use scap_proto::id::NodeId;
use scap_proto::identity::{
    CertificateAuthority, Denial, Denied, FleetTrust, Role, SignedFleetTrust, TrustMark,
};
use scap_proto::release::UnixMillis;
use scap_proto::wire::close;
use scap_tests::fleet::wait_until;
use scap_tests::repo::write_incompressible;
use scap_tests::thief::{Closed, Thief};
use serde_json::{Value, json};

use super::fleet::{Agent, Fleet, deployed, enroll, host, status};
use super::process::{Ended, LIMIT};
use super::scene::Scene;

/// How long all hosts may take to close their links to one that is revoked.
const CUT_OFF_MAX: Duration = Duration::from_secs(60);

fn name(text: &str) -> NodeId {
    text.parse().unwrap()
}

fn socket(agent: &Agent) -> SocketAddr {
    agent.address.parse().unwrap()
}

/// What a host says of whose certificates count.
pub fn trust(scene: &Scene, name: &str) -> Value {
    status(scene, name).exits(0).json("scap.agent-status/1")["trust"].clone()
}

fn wait_for_number(scene: &Scene, host: &str, number: u64) -> Value {
    wait_until(&format!("{host} holds to #{number}"), LIMIT, || {
        let trust = trust(scene, host);
        match trust["number"] == number && trust["lost"].is_null() {
            true => Ok(trust),
            false => Err(trust),
        }
    })
}

fn names(revoked: &Value) -> Vec<&str> {
    let revoked = revoked.as_array().unwrap().iter();
    revoked.map(|it| it["name"].as_str().unwrap()).collect()
}

fn revoke(scene: &Scene, more: &[&str]) -> Ended {
    let common = [
        "revoke",
        "--state",
        "st",
        "--fleet",
        "fleet.toml",
        "--wait",
        "10",
    ];
    scene.scap(&[&common[..], more].concat())
}

#[test]
fn e6_a_revoked_host_is_cut_off_by_all_within_a_minute_in_the_middle_of_a_transfer() {
    let scene = Scene::new();
    enroll(&scene, "thief", &[]);
    let mut thief = Thief::with(&scene.path("thief/identity"));
    // In no fleet file: what it hears it hears from web1.
    let web5 = Agent::start(&scene, "web5");
    let peer = |agent: &Agent| format!("{}={}", agent.name(), agent.address);
    let thieves = format!("thief={}", thief.address());
    enroll(&scene, "web1", &[]);
    let more = ["--peer", &peer(&web5), "--peer", &thieves];
    let web1 = Agent::start_with(&scene, "web1", &more);
    let others = ["web2", "web3", "web4"].map(|name| Agent::start(&scene, name));
    let agents = [web1].into_iter().chain(others).collect();
    let mut fleet = Fleet { agents, scene };
    fleet.write_fleet_file();
    let (repo, _) = fleet.scene.repo();
    fleet.deploy_repo();
    let web3 = fleet.agents.remove(2);
    let web3_address = web3.address.clone();
    web3.stop();

    // web4 is to be revoked itself, and is nobody who would hear of it.
    let holders: Vec<(NodeId, SocketAddr)> = fleet.agents[..2]
        .iter()
        .chain([&web5])
        .map(|agent| (name(agent.name()), socket(agent)))
        .collect();
    for (agent, address) in &holders {
        thief.hold(agent, *address, None);
    }
    write_incompressible(&repo.dir().join("payload.bin"), 6_000_000, 1);
    repo.commit("Something big");
    let slowly = [
        "--repo",
        "repo",
        "--upload-mbit",
        "10",
        "--budget",
        "2",
        "--prefetch",
        "all",
    ];
    let lost_soon = ["--connect-timeout", "1", "--away-timeout", "3"];
    let mut deploying = fleet.start_deploy(&[&slowly[..], &lost_soon].concat());
    wait_until("the transfer has begun", LIMIT, || {
        assert!(!deploying.is_over(), "{}", deploying.said());
        let release = fleet.release_of("web4");
        let held = release["chunks_held"].as_u64().unwrap_or(0);
        let total = release["chunks_total"].as_u64().unwrap_or(0);
        (held > 4 && held < total).then_some(()).ok_or(release)
    });

    let since = Instant::now();
    let arguments = [
        "thief",
        "web4",
        "--unlisted",
        "--reason",
        "stolen",
        "--json",
    ];
    let said = revoke(&fleet.scene, &arguments)
        .exits(5)
        .json("scap.trust/1");
    assert_eq!(said["told"], json!(["web1", "web2"]), "{said:#}");
    assert!(said["not_told"]["web3"].is_string(), "{said:#}");
    assert_eq!(names(&said["revoked"]), ["thief", "web4"]);
    let closed = thief.until_all_are_closed(since, CUT_OFF_MAX);
    let last = closed.iter().map(|it| it.after).max().unwrap();
    println!(
        "revoked in the middle of a transfer: {} links of the stolen host closed, the last {:.1} s after the command began",
        closed.len(),
        last.as_secs_f64()
    );
    let is_told_why = |it: &Closed| it.code == Some(close::REVOKED.into());
    assert!(
        closed.len() == 3 && closed.iter().all(is_told_why),
        "{closed:?}"
    );
    assert!(last <= CUT_OFF_MAX, "{closed:?}");

    // The others finish what was on its way.
    let report = deployed(&deploying.end().exits(5));
    for (agent, state) in [("web1", "promoted"), ("web2", "promoted")] {
        assert_eq!(host(&report, agent)["outcome"], state, "{report:#}");
    }
    // Neither side of a new link lets the other in.
    for (agent, address) in &holders {
        let refused = thief.dial(agent, *address).unwrap_err();
        assert!(
            refused.contains("the peer refused us: this node is revoked"),
            "{refused}"
        );
    }
    let trust5 = wait_for_number(&fleet.scene, "web5", 1);
    assert_eq!(names(&trust5["revoked"]), ["thief", "web4"]);
    let pull = ["agent", "pull", "--data", "web1/data", "--json"];
    fleet.scene.scap(&pull);
    let view = status(&fleet.scene, "web1")
        .exits(0)
        .json("scap.agent-status/1");
    let peers = view["catch_up"]["peers"].as_array().unwrap();
    let error = peers.iter().find(|peer| peer["name"] == "thief").unwrap()["error"].to_string();
    assert!(
        error.contains("agent thief of fleet") && error.contains("is revoked"),
        "{error}"
    );

    // A host that was down learns of it from another, and no coordinator runs.
    let more = ["--peer", &peer(&web5), "--peer", &peer(&fleet.agents[0])];
    let web3 = Agent::start_with_at(&fleet.scene, "web3", &web3_address, &more);
    let trust3 = wait_for_number(&fleet.scene, "web3", 1);
    assert_eq!(names(&trust3["revoked"]), ["thief", "web4"]);
    let refused = thief.dial(&name("web3"), socket(&web3)).unwrap_err();
    assert!(refused.contains("revoked"), "{refused}");
    fleet.agents.insert(2, web3);

    // web4 is left out, and said to be; enrolled again it takes part.
    repo.write("README.md", "# Another site\n");
    let small = repo.commit("Something small");
    fleet.write_fleet_file();
    let planned = fleet.deploy(&["--repo", "repo"]).exits(0);
    planned.says(&["  left out: web4: revoked: stolen [revoked]\n"]);
    let places = fleet
        .scene
        .scap(&["status", "--state", "st", "--repo", "repo"])
        .exits(0);
    places.prints(&["revoked web4: stolen [revoked]\n"]);
    let plan = ["plan", "--fleet", "fleet.toml", "--state", "st"];
    let plan = fleet.scene.scap(&plan).exits(0);
    plan.prints(&["left out: web4: revoked: stolen\n"]);
    let web4 = fleet.agents.pop().unwrap();
    let address = web4.address.clone();
    web4.stop();
    std::fs::remove_dir_all(fleet.scene.path("web4/identity")).unwrap();
    enroll(&fleet.scene, "web4", &[]);
    fleet
        .agents
        .push(Agent::start_at(&fleet.scene, "web4", &address));
    let report = deployed(&fleet.deploy(&["--repo", "repo"]).exits(0));
    assert_eq!(report["hosts"].as_array().unwrap().len(), 4, "{report:#}");
    fleet.assert_all_run(&repo, &small);
    let list = ["revoke", "--list", "--state", "st"];
    fleet
        .scene
        .scap(&list)
        .exits(0)
        .prints(&["agent web4  since ", "stolen; enrolled again since\n"]);
}

#[test]
fn e6_a_restart_keeps_who_is_revoked_and_its_loss_is_noticed() {
    let fleet = Fleet::start(&["web1", "web2"]);
    let scene = &fleet.scene;
    enroll(scene, "thief", &[]);
    let thief = Thief::with(&scene.path("thief/identity"));
    revoke(scene, &["thief", "--unlisted"]).exits(0).prints(&[
        "revoked thief: revoked  (fleet trust #1)\n",
        "told 2 of 2 hosts in ",
    ]);
    let Fleet { mut agents, scene } = fleet;
    let web2 = agents.pop().unwrap();
    let address = web2.address.clone();
    web2.stop();
    let web2 = Agent::start_at(&scene, "web2", &address);
    assert_eq!(trust(&scene, "web2")["number"], 1);
    let refused = thief.dial(&name("web2"), socket(&web2)).unwrap_err();
    assert!(refused.contains("revoked"), "{refused}");

    web2.stop();
    std::fs::remove_file(scene.path("web2/data/trust")).unwrap();
    let mut web2 = Agent::start_at(&scene, "web2", &address);
    let lost = trust(&scene, "web2");
    assert_eq!(
        (&lost["lost"], &lost["code"]),
        (&json!(1), &json!("trust-lost"))
    );
    assert!(web2.running().said().contains("trust-lost"));
    let shown = scene
        .scap(&["agent", "status", "--data", "web2/data"])
        .exits(0);
    shown.prints(&["trust  #1 was kept here and is lost", "[trust-lost]"]);
    // It is told again by the next who speaks with it.
    let status = [
        "ca",
        "status",
        "--state",
        "st",
        "--fleet",
        "fleet.toml",
        "--json",
    ];
    let said = scene.scap(&status).exits(0).json("scap.ca/1");
    assert_eq!(said["hosts"][1]["standing"]["number"], 1, "{said:#}");
    let trust2 = wait_for_number(&scene, "web2", 1);
    assert_eq!(names(&trust2["revoked"]), ["thief"]);
    let refused = thief.dial(&name("web2"), socket(&web2)).unwrap_err();
    assert!(refused.contains("revoked"), "{refused}");

    // By mistake.
    let back = [
        "unrevoke",
        "thief",
        "--state",
        "st",
        "--fleet",
        "fleet.toml",
    ];
    scene
        .scap(&back)
        .exits(0)
        .prints(&["revoked no more: thief  (fleet trust #2)\n"]);
    assert!(thief.dial(&name("web2"), socket(&web2)).is_ok());
    scene.scap(&back).exits(2).says(&["thief is not revoked"]);
    let typo = revoke(&scene, &["wbe1"]).exits(2);
    typo.says(&["revoke wbe1: it is not in the fleet file fleet.toml"]);
}

#[test]
fn e6_who_lies_about_who_is_revoked_is_not_believed() {
    let fleet = Fleet::start(&["web1"]);
    let scene = &fleet.scene;
    for host in ["liar", "thief"] {
        enroll(scene, host, &[]);
    }
    let (web1, address) = (name("web1"), socket(&fleet.agents[0]));
    let thief = Thief::with(&scene.path("thief/identity"));
    revoke(scene, &["thief", "--unlisted"]).exits(0);
    let authority = CertificateAuthority::load(&scene.path("st/ca")).unwrap();
    let other = CertificateAuthority::create(authority.fleet(), scap_agent::clock::now().0);
    let other = other.unwrap();
    let list = |number, of: &CertificateAuthority, by: &CertificateAuthority| {
        let trust = FleetTrust {
            fleet: authority.fleet().clone(),
            number,
            issued: UnixMillis(1),
            authorities: vec![of.certificate().der.to_vec().into()],
            retired: Vec::new(),
            denials: vec![Denial {
                who: Denied::Node {
                    role: Role::Coordinator,
                    name: name("coordinator"),
                    issued_until: UnixMillis(u64::MAX),
                },
                reason: "a lie".to_owned(),
                since: UnixMillis(1),
                is_enrolled_again: false,
            }],
            extensions: Default::default(),
        };
        SignedFleetTrust::sign(&trust, by)
    };

    // It says to know nothing, and so is handed what it does not want; nor does what it hands over change anything: one that
    // was true before the first, and those that a stranger signed, of which one too many ends the link.
    let mut liar = Thief::with(&scene.path("liar/identity"));
    liar.hold(&web1, address, Some(TrustMark::default()));
    liar.hand_over(&list(1, &authority, &authority));
    for number in 2..9 {
        liar.hand_over(&list(number, &other, &other));
    }
    assert_eq!(trust(scene, "web1")["number"], 1);
    assert_eq!(names(&trust(scene, "web1")["revoked"]), ["thief"]);
    for number in 10..14 {
        liar.hand_over(&list(number, &authority, &other));
    }
    let closed = liar.until_all_are_closed(Instant::now(), LIMIT);
    assert_eq!(closed[0].code, Some(close::PROTOCOL.into()), "{closed:?}");
    let trust1 = trust(scene, "web1");
    assert_eq!(
        (&trust1["number"], names(&trust1["revoked"])),
        (&json!(1), vec!["thief"])
    );
    assert!(thief.dial(&web1, address).is_err());
    let (repo, commit) = scene.repo();
    fleet.deploy_repo();
    fleet.assert_all_run(&repo, &commit);
}

#[test]
fn t8_a_stolen_coordinators_certificate_directs_nobody_and_the_one_that_revoked_it_goes_on() {
    let fleet = Fleet::start(&["web1", "web2"]);
    let scene = &fleet.scene;
    let (repo, commit) = scene.repo();
    // A copy of the state, as on a laptop, without the authority.
    let copied = std::process::Command::new("cp")
        .args(["-r", "st", "stolen"])
        .current_dir(scene.root())
        .status();
    assert!(copied.unwrap().success());
    std::fs::remove_dir_all(scene.path("stolen/ca")).unwrap();
    revoke(scene, &["--coordinator", "--reason", "laptop stolen"])
        .exits(0)
        .prints(&[
            "revoked every coordinator but this one: laptop stolen",
            "told 2 of 2 hosts",
        ]);
    let stolen = [
        "deploy",
        "--state",
        "stolen",
        "--fleet",
        "fleet.toml",
        "--dir",
        "repo/src",
        "--name",
        "stolen/site",
        "--yes",
        "--connect-timeout",
        "3",
        "--away-timeout",
        "3",
    ];
    let ended = scene.scap(&stolen);
    assert!(!ended.is_code(0), "{ended:#?}");
    ended.says(&["this node is revoked"]);
    for agent in &fleet.agents {
        assert!(!agent.live("repo").exists(), "{}", agent.name());
    }
    fleet.deploy_repo();
    fleet.assert_all_run(&repo, &commit);
}

#[test]
fn an_earlier_theft_stays_revoked_when_a_later_one_turns_out_to_be_none() {
    let scene = Scene::new();
    enroll(&scene, "web1", &[]);
    let without_fleet = |command: &str| {
        let args = [command, "web1", "--state", "st"];
        scene.scap(&args)
    };
    // Nobody can be told: no fleet file is named.
    without_fleet("revoke").exits(5);
    let again = ["enroll", "web1", "--state", "st", "--out", "again"];
    scene.scap(&again).exits(0);
    let record = scene.path("st/enrolments/web1/certificate.toml");
    let text = std::fs::read_to_string(&record).unwrap();
    let mut kept: toml::Table = toml::from_str(&text).unwrap();
    kept.insert("enrolled".to_owned(), "2400-01-01T00:00:00Z".into());
    std::fs::write(&record, kept.to_string()).unwrap();
    let told = without_fleet("revoke").exits(5).stderr;
    assert!(
        told.contains("the clock of this machine is behind"),
        "{told}"
    );
    let listed = || {
        let list = ["revoke", "--list", "--state", "st"];
        scene.scap(&list).exits(0).stdout
    };
    assert_eq!(listed().lines().count(), 2, "{}", listed());
    without_fleet("unrevoke").exits(5);
    let left = listed();
    assert_eq!(left.lines().count(), 1, "{left}");
    assert!(left.contains("enrolled again since"), "{left}");
    let none = without_fleet("unrevoke").exits(2).stderr;
    assert!(none.contains("web1 is not revoked"), "{none}");
}
