//! Enrolment over ssh, against real ssh daemons.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PKCS_ED25519, SanType};
use scap_agent::clock;
use scap_proto::identity::{Certificate, Enrolment, Identity};
use serde_json::Value;

use super::fleet::{Fleet, fleet_file};
use super::process::Ended;
use super::scene::Scene;
use super::sshd::{self, Client, Sshd, me};

/// Hosts whose agent is the one under test.
struct World {
    scene: Scene,
    hosts: Vec<Sshd>,
}

impl World {
    /// A name and what more is in the configuration of its sshd, each; and who is known.
    fn new(hosts: &[(&str, &str)], knows: bool) -> Option<Self> {
        if !sshd::is_here() {
            return None;
        }
        let scene = Scene::new();
        let agent = scene.command(&["agent"]);
        let agent = agent.get_program().to_str().unwrap();
        let agent = format!("#!/bin/sh\nexec {agent} agent \"$@\"\n");
        script(&scene, "bin/scap-agent", &agent);
        let start = |(name, more): &(&str, &str)| Sshd::start(&scene, name, more);
        let world = Self {
            hosts: hosts.iter().map(start).collect(),
            scene,
        };
        Client::leads_to(&world.scene, &world.hosts.iter().collect::<Vec<_>>());
        let known = world.hosts.iter().filter(|_| knows);
        let known: String = known.map(Sshd::known).collect();
        world.scene.write("known_hosts", known);
        let hosts = hosts.iter().map(|(name, _)| (*name, "127.0.0.1:7", false));
        let hosts = fleet_file(&hosts.collect::<Vec<_>>());
        world.scene.write("fleet.toml", hosts);
        Some(world)
    }

    fn enroll(&self, hosts: &[&str], more: &[&str]) -> Ended {
        let identity = self.scene.path("web1/identity");
        let identity = identity.to_str().unwrap();
        let me = me();
        let common = ["enroll", "--state", "st", "--fleet", "fleet.toml"];
        let ours = ["--ssh-config", "ssh_config", "--identity", identity];
        let user = ["--agent-user", &me];
        let arguments = [&common[..], &ours, &user, more, &["--ssh"], hosts].concat();
        self.scene.scap(&arguments)
    }

    fn one(&self) -> &Sshd {
        &self.hosts[0]
    }

    fn has_identity(&self, name: &str) -> bool {
        self.scene.path(name).join("identity/node.crt").exists()
    }

    fn listed(&self) -> Value {
        let list = ["enroll", "--state", "st", "--list", "--json"];
        let listed = self.scene.scap(&list).exits(0);
        listed.json("scap.enrolments/1")["hosts"].clone()
    }
}

fn script(scene: &Scene, name: &str, text: &str) {
    scene.write(name, text);
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(scene.path(name), mode).unwrap();
}

#[test]
fn a_host_is_enrolled_over_ssh_with_a_key_of_its_own_and_runs_what_is_deployed_to_it() {
    let Some(world) = World::new(&[("web1", "")], true) else {
        return;
    };
    let shown = world.one().fingerprint();
    let enrolled = world.enroll(&["web1"], &[]).exits(0);
    let host_key = format!("web1  web1  host key ssh-ed25519 {shown}\n");
    let enrolled = enrolled.prints(&[&host_key, "enrolled web1  key SHA256:", "ok 1  failed 0"]);
    let identity = Identity::load(&world.scene.path("web1/identity")).unwrap();
    assert_eq!(identity.own().to_uri(), "scap://fleet/agent/web1");

    // Its key is nowhere but there.
    let key = std::fs::read_to_string(world.scene.path("web1/identity/node.key")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    let found = Command::new("grep")
        .args(["-rlF", "--", secret, "."])
        .current_dir(world.scene.root())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&found.stdout),
        "./web1/identity/node.key\n"
    );
    assert!(!enrolled.stdout.contains(secret));

    let again = world.enroll(&["web1"], &["--json"]).exits(0);
    let again = again.json("scap.enroll/1")["hosts"][0].clone();
    assert_eq!(again["outcome"], "already-enrolled", "{again:#}");
    let listed = world.listed();
    assert_eq!(listed[0]["how"], "ssh", "{listed:#}");
    assert_eq!(listed[0]["key"], again["key"]);
    assert_eq!(listed[0]["valid_until"], again["valid_until"]);

    let World { scene, hosts } = world;
    drop(hosts);
    std::fs::create_dir_all(scene.path("web1/srv")).unwrap();
    let fleet = Fleet::start_in(scene, &["web1"]);
    let (repo, commit) = fleet.scene.repo();
    fleet.deploy_repo();
    fleet.assert_all_run(&repo, &commit);
}

#[test]
fn what_the_fleet_file_says_of_environments_goes_into_the_identity_and_a_change_of_it_too() {
    let Some(world) = World::new(&[("web1", "")], true) else {
        return;
    };
    let says = |environments: &str| {
        let text = fleet_file(&[("web1", "127.0.0.1:7", false)]);
        let text = format!("{text}environments = {environments}\nssh = 'web1'\n");
        world.scene.write("fleet.toml", text);
    };
    says("['staging']");
    let other = world.enroll(&["web1"], &["--environment", "production"]);
    let other = other
        .exits(2)
        .says(&["web1 is in staging by the fleet file"]);
    assert_eq!(other.stdout, "");
    let enrolled = world.enroll(&["web1"], &[]).exits(0);
    enrolled.prints(&["enrolled web1  key SHA256:", "  staging  valid until "]);
    let first = world.listed();
    says("['staging', 'production']");
    // By its address this time.
    let enrolled = world.enroll(&["web1"], &[]).exits(0);
    enrolled.prints(&["enrolled web1", "  staging,production  "]);
    let second = world.listed();
    assert_eq!(first[0]["key"], second[0]["key"], "another key");
    let host = std::fs::read_to_string(world.scene.path("web1/identity/host.toml")).unwrap();
    assert!(host.contains(r#"["staging", "production"]"#), "{host}");
}

#[test]
fn e6_a_revoked_host_is_back_with_a_new_key_where_that_is_said() {
    let Some(world) = World::new(&[("web1", "")], true) else {
        return;
    };
    world.enroll(&["web1"], &[]).exits(0);
    let revoke = ["revoke", "web1", "--state", "st"];
    world.scene.scap(&revoke).exits(5);
    let identity = world.scene.path("web1/identity");
    // Whoever took it has that key.
    for more in [&[][..], &["--readmit"]] {
        let refused = world.enroll(&["web1"], more).exits(1);
        let cause = "failed web1: the key of web1 is revoked, and is not certified again [revoked]";
        refused.prints(&[cause, "hint: move its identity directory away there"]);
    }
    std::fs::rename(&identity, world.scene.path("taken")).unwrap();
    let refused = world.enroll(&["web1"], &[]).exits(1);
    refused.prints(&["failed web1: web1 is revoked [revoked]", "--readmit"]);
    let back = world.enroll(&["web1"], &["--readmit", "--json"]).exits(0);
    let back = back.json("scap.enroll/1")["hosts"][0].clone();
    assert_eq!(back["readmitted"], true, "{back:#}");
    // It knows from its start on who is revoked.
    let kept = std::fs::read(world.scene.path("st/trust")).unwrap();
    assert_eq!(std::fs::read(identity.join("trust")).unwrap(), kept);
    let again = world.enroll(&["web1"], &[]).exits(0);
    again.prints(&["already enrolled web1"]);
}

#[test]
fn e8_an_unknown_host_key_is_refused_until_it_is_accepted() {
    let Some(world) = World::new(&[("web1", "")], false) else {
        return;
    };
    let shown = world.one().fingerprint();
    let refused = world.enroll(&["web1"], &[]).exits(1);
    let cause =
        format!("failed web1: its host key is not known: ssh-ed25519 {shown} [host-key-unknown]");
    refused.prints(&[&cause, "hint: compare", "--accept-new", "ok 0  failed 1"]);
    // Options that ssh is given besides do not change that.
    let keys = format!("#!/bin/sh\necho '{}'\n", world.one().known().trim());
    script(&world.scene, "keys", &keys);
    let keys = world.scene.path("keys");
    let keys = format!("KnownHostsCommand={}", keys.display());
    for weak in ["StrictHostKeyChecking=no", &keys] {
        let refused = world.enroll(&["web1"], &["--ssh-option", weak]).exits(1);
        refused.prints(&["[host-key-unknown]"]);
    }
    // Nor is it taken where it cannot be told to be new.
    let unclear = "GlobalKnownHostsFile=~root/known_hosts";
    let unclear = ["--accept-new", "--ssh-option", unclear];
    let refused = world.enroll(&["web1"], &unclear).exits(1);
    refused.prints(&["ssh looks into ~root/known_hosts [host-key-unknown]"]);
    assert!(!world.scene.path("web1").exists(), "it was asked");

    let accepted = world.enroll(&["web1"], &["--accept-new"]).exits(0);
    accepted.prints(&["enrolled web1", ", now known\n"]);
    let known = std::fs::read_to_string(world.scene.path("known_hosts")).unwrap();
    assert!(known.starts_with("web1 ssh-ed25519 "), "{known}");
    world
        .enroll(&["web1"], &[])
        .exits(0)
        .prints(&["already enrolled web1"]);
}

#[test]
fn e8_a_host_key_that_cannot_be_kept_is_not_accepted() {
    let Some(world) = World::new(&[("web1", "")], false) else {
        return;
    };
    let nowhere = world.scene.path("nowhere/known_hosts");
    let nowhere = format!("UserKnownHostsFile={}", nowhere.display());
    let more = ["--accept-new", "--ssh-option", &nowhere];
    let refused = world.enroll(&["web1"], &more).exits(1);
    refused.prints(&[
        "its host key was not kept: Failed to add",
        "[host-key-unknown]",
    ]);
    assert!(!world.has_identity("web1"));
}

#[test]
fn e8_a_changed_host_key_is_always_refused() {
    let Some(mut world) = World::new(&[("web1", "")], true) else {
        return;
    };
    world.hosts = vec![Sshd::start(&world.scene, "web1", "")];
    Client::leads_to(&world.scene, &[world.one()]);
    let shown = world.one().fingerprint();
    for more in [&[][..], &["--accept-new"]] {
        let refused = world.enroll(&["web1"], more).exits(1);
        let cause = format!("it shows ssh-ed25519 {shown} [host-key-changed]");
        refused.prints(&["failed web1: its host key is not the known one", &cause]);
        assert!(!world.scene.path("web1").exists(), "it was asked");
    }
    let refused = world.enroll(&["web1"], &["--json"]).exits(1);
    let refused = refused.json("scap.enroll/1")["hosts"][0].clone();
    assert_eq!(refused["code"], "host-key-changed");
    // The line that is shown is the one to run.
    let hint = refused["hint"].as_str().unwrap();
    let (_, line) = hint.split_once("anew: ").unwrap();
    let forgot = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(forgot.status.success(), "{line}: {forgot:?}");
    let accepted = world.enroll(&["web1"], &["--accept-new"]).exits(0);
    accepted.prints(&["enrolled web1", ", now known"]);
}

#[test]
fn e8_a_key_of_another_kind_is_a_changed_one_where_any_is_known() {
    let Some(mut world) = World::new(&[("web1", "")], true) else {
        return;
    };
    world.hosts = vec![Sshd::start_with_key(&world.scene, "web1", "ecdsa", "")];
    Client::leads_to(&world.scene, &[world.one()]);
    let shown = world.one().fingerprint();
    for more in [&["--accept-new"][..], &[]] {
        let refused = world.enroll(&["web1"], more).exits(1);
        let cause = format!("it shows ecdsa-sha2-nistp256 {shown} [host-key-changed]");
        refused.prints(&[&cause, "hint: find out why", " -R 'web1'"]);
        assert!(!world.scene.path("web1").exists(), "it was asked");
    }
}

#[test]
fn e2_a_host_becomes_what_the_fleet_file_says_and_nothing_that_it_asks_for() {
    let Some(world) = World::new(&[("web1", "")], true) else {
        return;
    };
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut asks = CertificateParams::new(vec!["web2".to_owned()]).unwrap();
    let uri = "scap://fleet/coordinator/web2".try_into().unwrap();
    asks.subject_alt_names.push(SanType::URI(uri));
    asks.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let asks = asks.serialize_request(&key).unwrap().pem().unwrap();
    world.scene.write("request", &asks);
    let folder = world.scene.root().to_str().unwrap().to_owned();
    let evil = format!("#!/bin/sh\ncat {folder}/request\ncat > {folder}/answer\n");
    script(&world.scene, "bin/scap-agent", &evil);
    world.enroll(&["web1"], &[]).exits(0);

    let answer = std::fs::read(world.scene.path("answer")).unwrap();
    let answer = Enrolment::decode(&answer).unwrap();
    let given = Certificate::from_pem(&answer.certificate).unwrap();
    let coordinator = Identity::load(&world.scene.path("st/coordinator")).unwrap();
    let peer = coordinator
        .trust()
        .check(&given.der, clock::now().0)
        .unwrap();
    assert_eq!(peer.to_uri(), "scap://fleet/agent/web1");

    // Nor another host's key: only who holds it can ask for it.
    let broken = asks.replacen("MII", "MIJ", 1).replacen("MI", "MJ", 1);
    world.scene.write("request", broken);
    let refused = world.enroll(&["web1"], &[]).exits(1);
    refused.prints(&["failed web1: what its agent printed is ", "[bad-request]"]);
}

#[test]
fn e9_hosts_that_print_without_end_send_escape_codes_or_hang_do_not_hold_up_the_others() {
    let flood = "ForceCommand yes '\u{1b}]0;owned\u{7}'";
    let errors = "ForceCommand yes >&2";
    let escapes = r"ForceCommand printf '\033[2J\033]0;owned\007\342\200\256\n' >&2; exit 3";
    let hosts = [
        ("hang", "ForceCommand cat > /dev/null"),
        ("flood", flood),
        ("errors", errors),
        ("escapes", escapes),
        ("web1", ""),
    ];
    let Some(world) = World::new(&hosts, true) else {
        return;
    };
    // Room for one beside the one that hangs.
    let few = ["--timeout", "20", "--at-a-time", "2"];
    let names = ["hang", "flood", "errors", "escapes", "web1"];
    let ended = world.enroll(&names, &few).exits(1);
    let ended = ended.prints(&[
        "failed flood: more than 65536 bytes of standard output [ssh-output]",
        "failed errors: more than 65536 bytes of standard error [ssh-output]",
        "failed hang: no end after 20 s [ssh-timeout]",
        r"failed escapes: its agent: \u{1b}[2J\u{1b}]0;owned\u{7}\u{202e} (exit code 3) [agent-failed]",
        "ok 1  failed 4",
    ]);
    let place = |text: &str| ended.stdout.find(text).unwrap();
    assert!(place("enrolled web1") < place("failed hang"), "{ended:#?}");
    assert!(place("failed flood") < place("failed hang"), "{ended:#?}");
    assert!(world.has_identity("web1"));
    let ssh_left = || {
        let left = world.scene.processes();
        left.into_iter()
            .filter(|it| it.command.contains("ssh\0-T") || it.command.starts_with("ssh "))
    };
    assert_eq!(
        ssh_left().count(),
        0,
        "{:?}",
        ssh_left().collect::<Vec<_>>()
    );
}

#[test]
fn c12_a_host_that_ssh_could_take_for_an_option_is_refused_before_ssh_is_run() {
    let scene = Scene::new();
    let made = scene.path("made");
    let option = format!("-oProxyCommand=touch {}", made.display());
    let text = fleet_file(&[("web1", "127.0.0.1:7", false)]);
    scene.write("fleet.toml", &text);
    let common = ["enroll", "--state", "st", "--fleet", "fleet.toml"];
    for host in [
        option.clone(),
        format!("{option}@web1"),
        format!("root@{option}"),
    ] {
        let given = format!("--ssh={host}");
        let refused = scene.scap(&[&common[..], &[&given]].concat());
        refused.fails_as_misuse(&["is not a host for ssh"]);
    }
    scene.write("fleet.toml", format!("{text}ssh = '{option}'\n"));
    let refused = scene.scap(&[&common[..], &["--ssh", "web1"]].concat());
    refused.exits(2).says(&["is not a host for ssh"]);
    let unknown = scene.scap(&[&common[..], &["--ssh", "-oProxyCommand=id"]].concat());
    unknown.exits(2);
    assert!(!made.exists(), "it was run");
}

#[test]
fn a_host_that_lets_nobody_in_is_not_there_or_has_no_agent_is_told_apart() {
    let hosts = [
        ("refuses", "AuthorizedKeysFile none"),
        ("bare", ""),
        ("away", ""),
    ];
    let Some(mut world) = World::new(&hosts, true) else {
        return;
    };
    drop(world.hosts.pop());
    let missing = ["--agent", "/nowhere/scap-agent"];
    let ended = world
        .enroll(&["refuses", "bare", "away"], &missing)
        .exits(1);
    ended.prints(&[
        "Permission denied (publickey). [ssh-refused]",
        "failed bare: its agent: ",
        "(exit code 127) [agent-failed]",
        "hint: install scap-agent there, or say where it is with --agent",
        "Connection refused [ssh-failed]",
        "ok 0  failed 3",
    ]);
    let stranger = world.enroll(&["web9"], &[]);
    stranger.fails(
        2,
        "find the hosts to enrol",
        "no host web9",
        "name hosts as the fleet file does",
    );
    assert_eq!(world.listed(), Value::Array(Vec::new()));
}

#[test]
fn a_host_of_another_name_or_fleet_keeps_its_identity() {
    let Some(world) = World::new(&[("web1", "")], true) else {
        return;
    };
    world
        .scene
        .scap(&["init", "--state", "other", "--fleet", "other"])
        .exits(0);
    let out = ["--state", "other", "--out", "web1/identity"];
    world
        .scene
        .scap(&[&["enroll", "web1"], &out[..]].concat())
        .exits(0);
    let before = std::fs::read(world.scene.path("web1/identity/node.crt")).unwrap();
    let refused = world.enroll(&["web1"], &[]).exits(1);
    refused.prints(&["it has the identity of agent web1 of fleet other already [agent-failed]"]);
    let after = std::fs::read(world.scene.path("web1/identity/node.crt")).unwrap();
    assert_eq!(before, after);
}

#[test]
fn the_unit_is_started_where_that_is_asked_for_and_a_unit_that_does_not_start_is_told() {
    let Some(world) = World::new(&[("web1", "")], true) else {
        return;
    };
    let calls = world.scene.path("calls");
    let systemctl = format!("#!/bin/sh\necho \"$@\" >> {}\n", calls.display());
    script(&world.scene, "bin/systemctl", &systemctl);
    world
        .enroll(&["web1"], &["--start"])
        .exits(0)
        .prints(&["enrolled web1"]);
    let called = std::fs::read_to_string(&calls).unwrap();
    assert_eq!(called, "enable --now scap-agent.service\n");
    script(
        &world.scene,
        "bin/systemctl",
        "#!/bin/sh\necho no such unit >&2\nexit 5\n",
    );
    let failed = world.enroll(&["web1"], &["--start"]).exits(1);
    failed.prints(&["it is enrolled, and scap-agent.service was not started: no such unit (exit code 5) [service-failed]"]);
}

#[test]
fn an_agent_makes_one_key_and_installs_nothing_that_is_not_for_it() {
    let scene = Scene::new();
    let me = me();
    let identity = ["--identity", "web1/identity", "--user", &me];
    let request =
        |more: &[&str]| scene.scap(&[&["agent", "identity"], more, &identity[..]].concat());
    let first = request(&["request"]).exits(0).says(&["key SHA256:"]);
    assert_eq!(request(&["request"]).exits(0).stdout, first.stdout);
    let read = Command::new("openssl")
        .args(["req", "-verify", "-noout", "-in", "/dev/stdin"])
        .stdin(std::fs::File::open(write(&scene, &first.stdout)).unwrap())
        .output();
    // Where it is installed, it agrees that it is a request.
    if let Ok(read) = read {
        assert!(read.status.success(), "{read:?}");
    }
    let nothing = request(&["install"]).exits(1);
    nothing.says(&["error: install an identity: nothing came on standard input"]);
    let nobody = scene.scap(&[
        "agent",
        "identity",
        "request",
        "--identity",
        "web2/identity",
        "--user",
        "nobody-of-that-name",
    ]);
    if rustix::process::geteuid().is_root() {
        nobody.fails(1, "make a request", "no user", "--user");
        assert!(!scene.path("web2/identity").exists());
    }
    assert!(!scene.path("web1/identity/node.crt").exists());
}

fn write(scene: &Scene, text: &str) -> std::path::PathBuf {
    scene.write("request", text);
    scene.path("request")
}
